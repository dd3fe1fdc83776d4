import { z } from 'zod'
import type { MachineSettings } from './settings.ts'

/** What Rollcall reads of a machine. `state` is a word of the Machines API: created, started, destroyed, ... */
const MachineBody = z.object({
  id: z.string().min(1),
  name: z.string().optional(),
  state: z.string(),
  instance_id: z.string().optional(),
  config: z.object({ metadata: z.record(z.string(), z.string()).nullish() }).nullish(),
  events: z.array(z.looseObject({ type: z.string(), status: z.string() })).nullish(),
})
export type Machine = z.infer<typeof MachineBody>

/** The label of every machine of ours, and the one that says whose it is. */
const OURS = 'rollcall'
const LABEL = 'rollcall_bot_id'

/** Creation is tried three times: after 2 s, doubling to 30 s, 20 % more or less. */
const ATTEMPTS = 3
const FIRST_PAUSE_MS = 2_000
const LONGEST_PAUSE_MS = 30_000
const JITTER = 0.2

/** How long one request may take, in ms. */
const TIMEOUT_MS = 10_000

/** States of a machine that will not run again. */
const GONE = ['destroying', 'destroyed']

/** A request that the Machines API did not fulfil. */
export class MachinesError extends Error {
  override name = 'MachinesError'
  /** The HTTP status; null if there was no answer. */
  readonly status: number | null
  /** Whether the same request may succeed later: no answer, 408, 429, 5xx. */
  readonly retryable: boolean
  readonly retry_after_ms: number | null
  /** How often it was tried. */
  attempts = 1

  constructor(message: string, status: number | null, retry_after_ms: number | null = null) {
    super(message)
    this.status = status
    this.retryable = status === null || status === 408 || status === 429 || status >= 500
    this.retry_after_ms = retry_after_ms
  }
}

/** A machine to be made for a bot. */
export interface MachineOrder {
  bot_id: string
  name: string
  /** Its environment, asked for when a machine must really be made. */
  env(): Promise<Record<string, string>>
  /** Whether an earlier attempt, by somebody who may have died, could have made it already. */
  look_first: boolean
}

export interface Machines {
  /** Makes the machine of a bot, or finds the one that an attempt whose answer was lost has made. */
  create(order: MachineOrder): Promise<Machine>
  /** The machine with this bot's label that has not been destroyed; null if there is none. */
  find(bot_id: string): Promise<Machine | null>
  /** Every machine of ours. */
  list(): Promise<Machine[]>
  /** Null if the API knows no such machine. */
  get(id: string): Promise<Machine | null>
  /** Waits up to `seconds` (at most 60); false if the state was not reached. */
  wait(id: string, state: 'started' | 'destroyed', seconds: number): Promise<boolean>
  /** Sends SIGTERM, and SIGKILL after the grace. False if there is no such machine. */
  stop(id: string, grace_s: number): Promise<boolean>
  /** Ends and removes a machine, running or not. False if there is no such machine. */
  destroy(id: string): Promise<boolean>
}

export interface MachinesOptions {
  /** Waits between attempts; tests hand in a clock of their own. */
  pause?: (ms: number) => Promise<void>
}

/** The Fly Machines API, and whatever speaks it. Every request has a time-out; failures are MachinesErrors. */
export function createMachines(settings: MachineSettings, options: MachinesOptions = {}): Machines {
  const pause = options.pause ?? ((ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms)))
  const base = `${settings.api_url}/v1/apps/${encodeURIComponent(settings.app)}/machines`

  async function request(
    method: string,
    path: string,
    body?: unknown,
    timeout_ms = TIMEOUT_MS,
  ): Promise<unknown> {
    let response: Response
    let text: string
    try {
      response = await fetch(`${base}${path}`, {
        method,
        headers: {
          authorization: `Bearer ${settings.token}`,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        redirect: 'error',
        signal: AbortSignal.timeout(timeout_ms),
      })
      text = await response.text()
    } catch (error) {
      const timed_out = error instanceof Error && error.name === 'TimeoutError'
      throw new MachinesError(
        timed_out
          ? `The machines API did not answer within ${timeout_ms} ms.`
          : 'The machines API can not be reached.',
        null,
      )
    }
    if (!response.ok) {
      throw new MachinesError(
        `The machines API answered ${response.status}${reasonIn(text)}.`,
        response.status,
        retryAfter(response.headers.get('retry-after')),
      )
    }
    try {
      return text === '' ? {} : JSON.parse(text)
    } catch {
      // Half an answer, or a proxy's page: nobody knows whether it was done.
      throw new MachinesError('The machines API gave an answer that is not JSON.', null)
    }
  }

  async function orNull<T>(work: Promise<T>): Promise<T | null> {
    try {
      return await work
    } catch (error) {
      if (error instanceof MachinesError && error.status === 404) return null
      throw error
    }
  }

  async function list(label: string, value: string): Promise<Machine[]> {
    const found = await request('GET', `?metadata.${label}=${encodeURIComponent(value)}`)
    // The filter is the provider's: judge by the label itself, so that a server without it harms nobody.
    return read(z.array(MachineBody), found).filter((machine) => machine.config?.metadata?.[label] === value)
  }

  const machines: Machines = {
    async create(order) {
      for (let attempt = 1; ; attempt++) {
        try {
          if (attempt > 1 || order.look_first) {
            const found = await machines.find(order.bot_id)
            if (found !== null) return found
          }
          return read(MachineBody, await request('POST', '', bodyOf(order, await order.env(), settings)))
        } catch (error) {
          if (!(error instanceof MachinesError)) throw error
          error.attempts = attempt
          // Refused because the name is taken: an attempt before this one was heard after all. (Deno's fetch sends a
          // POST again by itself when the connection breaks, so even the first attempt may be the second.)
          const done = !error.retryable || attempt === ATTEMPTS
          const found = done ? await machines.find(order.bot_id).catch(() => null) : null
          if (found !== null) return found
          if (done) throw error
          await pause(pauseAfter(attempt, error.retry_after_ms))
        }
      }
    },
    async find(bot_id) {
      const found = await list(LABEL, bot_id)
      return found.find((machine) => !GONE.includes(machine.state)) ?? null
    },
    list: () => list(OURS, 'bot'),
    async get(id) {
      const found = await orNull(request('GET', `/${encodeURIComponent(id)}`))
      return found === null ? null : read(MachineBody, found)
    },
    async wait(id, state, seconds) {
      const timeout = Math.max(1, Math.min(60, Math.floor(seconds)))
      try {
        await request(
          'GET',
          `/${encodeURIComponent(id)}/wait?state=${state}&timeout=${timeout}`,
          undefined,
          timeout * 1000 + TIMEOUT_MS,
        )
        return true
      } catch (error) {
        // 408: not reached in time. 4xx: never will be, the machine is gone or beyond that state.
        if (
          error instanceof MachinesError &&
          error.status !== null &&
          error.status < 500 &&
          error.status !== 429
        ) {
          return false
        }
        throw error
      }
    },
    async stop(id, grace_s) {
      const body = { signal: 'SIGTERM', timeout: `${grace_s}s` }
      return (await orNull(request('POST', `/${encodeURIComponent(id)}/stop`, body))) !== null
    },
    async destroy(id) {
      return (await orNull(request('DELETE', `/${encodeURIComponent(id)}?force=true`))) !== null
    },
  }
  return machines
}

function bodyOf(order: MachineOrder, env: Record<string, string>, settings: MachineSettings): unknown {
  return {
    name: order.name,
    config: {
      image: settings.image,
      env,
      metadata: { [LABEL]: order.bot_id, [OURS]: 'bot' },
      guest: { cpu_kind: 'shared', cpus: settings.cpus, memory_mb: settings.memory_mb },
      // A bot runs once: it ends, and its machine goes with it.
      auto_destroy: true,
      restart: { policy: 'no' },
    },
  }
}

function read<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw new MachinesError('The machines API gave an answer of another form.', null)
}

function pauseAfter(attempt: number, retry_after_ms: number | null): number {
  const backoff = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempt - 1))
  const jittered = backoff * (1 - JITTER + 2 * JITTER * Math.random())
  return Math.min(LONGEST_PAUSE_MS, Math.max(jittered, retry_after_ms ?? 0))
}

/** A Retry-After header, in seconds or as a date, as ms from now. */
function retryAfter(header: string | null): number | null {
  if (header === null) return null
  if (/^\d+$/.test(header)) return Number(header) * 1000
  const at = Date.parse(header)
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now())
}

/** The provider's own words, if it said any: ` (no capacity in fra)`. */
function reasonIn(text: string): string {
  try {
    const body = JSON.parse(text) as { error?: unknown }
    return typeof body.error === 'string' ? ` (${body.error.slice(0, 200)})` : ''
  } catch {
    return ''
  }
}
