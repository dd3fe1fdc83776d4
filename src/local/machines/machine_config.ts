import { z } from 'zod'

/** The signals that Fly lets a client send. */
export const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGKILL', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'] as const

export type Signal = (typeof SIGNALS)[number]

const UNIT_MS: Record<string, number> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
}

/** Milliseconds of a Go duration: text such as `30s` or `1m30s`, or a number of nanoseconds. */
export function durationMs(value: string | number): number | null {
  if (typeof value === 'number') return value >= 0 ? value / 1e6 : null
  if (!/^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$/.test(value)) return value === '0' ? 0 : null
  let total = 0
  for (const [, amount, unit] of value.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)) {
    total += Number(amount) * (UNIT_MS[unit ?? ''] ?? 0)
  }
  return total
}

const Duration = z.union([z.string(), z.number()]).refine((value) => durationMs(value) !== null, {
  message: 'must be a duration such as "30s"',
})

const Guest = z.looseObject({
  cpu_kind: z.enum(['shared', 'performance']).default('shared'),
  cpus: z.literal([1, 2, 4, 8, 16]).default(1),
  memory_mb: z.int().min(256).multipleOf(256).default(256),
})

/** The part of a machine's configuration that means something to a local process; the rest is kept as it came. */
export const MachineConfig = z.looseObject({
  image: z.string().min(1),
  env: z.record(z.string(), z.string()).default({}),
  metadata: z.record(z.string(), z.string()).default({}),
  auto_destroy: z.boolean().default(false),
  guest: Guest.default({ cpu_kind: 'shared', cpus: 1, memory_mb: 256 }),
  restart: z
    .object({
      policy: z.enum(['no', 'on-failure', 'always']).default('on-failure'),
      max_retries: z.int().min(0).default(10),
    })
    .default({ policy: 'on-failure', max_retries: 10 }),
  stop_config: z.object({ signal: z.enum(SIGNALS).optional(), timeout: Duration.optional() }).optional(),
})

export type MachineConfig = z.infer<typeof MachineConfig>

/** Body of POST /v1/apps/{app}/machines. */
export const CreateRequest = z.object({
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/)
    .optional(),
  region: z
    .string()
    .regex(/^[a-z]{2,4}$/)
    .default('loc'),
  skip_launch: z.boolean().default(false),
  config: MachineConfig,
})

export type CreateRequest = z.infer<typeof CreateRequest>

/** Body of POST .../stop; absent means the signal and time-out of the configuration. */
export const StopRequest = z.object({ signal: z.enum(SIGNALS).optional(), timeout: Duration.optional() })

/** Body of POST .../signal: a name or a number. */
export const SignalRequest = z.object({
  signal: z.union([z.enum(SIGNALS), z.literal([1, 2, 3, 9, 10, 12, 15])]),
})

const SIGNAL_NUMBERS: Record<number, Signal> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  3: 'SIGQUIT',
  9: 'SIGKILL',
  10: 'SIGUSR1',
  12: 'SIGUSR2',
  15: 'SIGTERM',
}

/** The name of a signal that was given by name or by its Linux number. */
export function signalName(signal: Signal | number): Signal {
  return typeof signal === 'number' ? (SIGNAL_NUMBERS[signal] ?? 'SIGTERM') : signal
}
