import { randomBytes } from 'node:crypto'
import type { MachineConfig } from './machine_config.ts'

/** The states of the Machines API that a local process can be in. */
export type MachineState =
  | 'created'
  | 'starting'
  | 'started'
  | 'stopping'
  | 'stopped'
  | 'destroying'
  | 'destroyed'
  | 'failed'

/** How a process ended. `signal` and `guest_signal` are -1 when it ended by itself. */
export type ExitEvent = {
  exit_code: number
  exited_at: string
  guest_exit_code: number
  guest_signal: number
  oom_killed: boolean
  requested_stop: boolean
  restarting: boolean
  signal: number
}

/** One line of a machine's log of what happened; `timestamp` in ms since the epoch. */
export type MachineEvent = {
  id: string
  type: 'launch' | 'start' | 'stop' | 'exit' | 'destroy'
  status: MachineState
  source: 'user' | 'flyd'
  timestamp: number
  request?: { exit_event: ExitEvent; restart_count: number }
}

/** What is kept of a machine on disk: what the API shows, and the process behind it. */
export type Machine = {
  app: string
  id: string
  name: string
  state: MachineState
  region: string
  instance_id: string
  created_at: string
  updated_at: string
  config: MachineConfig
  /** Newest first, as the API lists them. */
  events: MachineEvent[]
  restart_count: number
  process: { pid: number; identity: string } | null
}

/** A machine as the API answers it. */
export type MachineView = Omit<Machine, 'app' | 'restart_count' | 'process'> & {
  private_ip: string
  image_ref: { registry: string; repository: string; tag: string; digest: string; labels: null }
  incomplete_config: null
  host_status: 'ok'
  cordoned: boolean
  checks: []
}

/** Fourteen hex digits, as Fly's ids are. */
export function newMachineId(): string {
  return randomBytes(7).toString('hex')
}

const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

/** A ULID (time-ordered, 26 characters): the form of instance ids and event ids. */
export function newUlid(now = Date.now()): string {
  let time = ''
  for (let rest = now, i = 0; i < 10; i++, rest = Math.floor(rest / 32)) time = CROCKFORD[rest % 32] + time
  return time + Array.from(randomBytes(16), (byte) => CROCKFORD[byte % 32]).join('')
}

const ADJECTIVES = [
  'autumn',
  'bold',
  'cold',
  'divine',
  'falling',
  'green',
  'little',
  'quiet',
  'rough',
  'snowy',
]
const NOUNS = ['bird', 'brook', 'cloud', 'field', 'fog', 'lake', 'moon', 'pine', 'river', 'sun']

/** The name of a machine that was created without one. */
export function newMachineName(): string {
  const bytes = randomBytes(4)
  const number = bytes.readUInt16BE(2) % 10_000
  return `${ADJECTIVES[(bytes[0] ?? 0) % 10]}-${NOUNS[(bytes[1] ?? 0) % 10]}-${String(number).padStart(4, '0')}`
}

/** A machine without a process: created, stopped or failed machines may be started or destroyed. */
export function isIdle(state: MachineState): boolean {
  return state === 'created' || state === 'stopped' || state === 'failed'
}

/** What the API tells of a machine: never the process behind it. */
export function viewOf(machine: Machine): MachineView {
  const { app: _app, restart_count: _count, process: _process, ...told } = machine
  const [repository = '', tag = 'latest'] = machine.config.image.split(':')
  return {
    ...told,
    private_ip: '::1',
    image_ref: { registry: 'local', repository, tag, digest: '', labels: null },
    incomplete_config: null,
    host_status: 'ok',
    cordoned: false,
    checks: [],
  }
}
