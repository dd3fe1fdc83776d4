import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { appendFileSync, closeSync, openSync } from 'node:fs'
import { constants } from 'node:os'
import { ApiError, machineNotFound } from './api_error.ts'
import {
  type ExitEvent,
  isIdle,
  type Machine,
  type MachineEvent,
  type MachineState,
  newMachineId,
  newMachineName,
  newUlid,
} from './machine.ts'
import { type CreateRequest, durationMs, type Signal } from './machine_config.ts'
import { killTree, processIdentity } from './process_identity.ts'
import { openStore, type Store } from './store.ts'

/** What an image name stands for on this computer. */
export type Image = { command: string; args: string[]; cwd?: string }

/** Fly's defaults for a stop without a body. */
const STOP_SIGNAL: Signal = 'SIGINT'
const STOP_TIMEOUT_MS = 5_000

/** How long a destroyed machine can still be asked about. */
const FORGET_AFTER_MS = 24 * 3_600_000

/** Node's timers overflow beyond this. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** The machines of this computer: each one a process, its record on disk and its log. */
export class Fleet {
  readonly #store: Store
  readonly #images: Record<string, Image>
  readonly #env: Record<string, string>
  readonly #machines = new Map<string, Machine>()
  readonly #children = new Map<string, ChildProcess>()
  readonly #timers = new Map<string, NodeJS.Timeout>()
  readonly #requested_stops = new Set<string>()
  readonly #changes = new EventEmitter().setMaxListeners(0)
  #closed = false

  constructor(dir: string, images: Record<string, Image>, env: Record<string, string>) {
    this.#store = openStore(dir)
    this.#images = images
    this.#env = env
    this.#recover()
  }

  /** Machines of an app, oldest first; destroyed ones only when asked for. */
  list(app: string, include_deleted: boolean): Machine[] {
    const own = [...this.#machines.values()].filter((machine) => machine.app === app)
    return own.filter((machine) => include_deleted || machine.state !== 'destroyed')
  }

  /** @throws {ApiError} 404 */
  get(app: string, id: string): Machine {
    const machine = this.#machines.get(id)
    if (machine?.app !== app) throw machineNotFound()
    return machine
  }

  /** Creates a machine and, unless asked not to, starts it. Answers it as it was before the start: created. */
  create(app: string, request: CreateRequest): Machine {
    if (this.#closed) throw new ApiError(503, 'unavailable: the machines are being shut down')
    if (!Object.hasOwn(this.#images, request.config.image)) {
      throw new ApiError(400, `invalid_argument: could not find image "${request.config.image}"`)
    }
    const name = request.name ?? newMachineName()
    const holder = this.list(app, false).find((machine) => machine.name === name)
    if (holder) {
      const conflict = `unique machine name violation, machine ID ${holder.id} already exists with name "${name}"`
      throw new ApiError(409, `already_exists: ${conflict}`)
    }
    const now = new Date().toISOString()
    const machine: Machine = {
      app,
      id: newMachineId(),
      name,
      state: 'created',
      region: request.region,
      instance_id: newUlid(),
      created_at: now,
      updated_at: now,
      config: request.config,
      events: [],
      restart_count: 0,
      process: null,
    }
    this.#machines.set(machine.id, machine)
    this.#record(machine, 'created', { type: 'launch', source: 'user' })
    const answer = structuredClone(machine)
    if (!request.skip_launch) this.#launch(machine, 'flyd')
    return answer
  }

  /** @throws {ApiError} 404, 412 */
  start(app: string, id: string): { previous_state: MachineState } {
    const machine = this.#living(app, id)
    const previous_state = machine.state
    if (!isIdle(previous_state)) {
      throw new ApiError(412, 'failed_precondition: machine still active, refusing to start')
    }
    machine.restart_count = 0
    this.#launch(machine, 'user')
    return { previous_state }
  }

  /** Sends the signal, and SIGKILL when the process still runs after the time-out. @throws {ApiError} 404 */
  stop(app: string, id: string, signal: Signal | undefined, timeout: string | number | undefined): void {
    const machine = this.#living(app, id)
    if (machine.state === 'stopping' || machine.state === 'destroying' || isIdle(machine.state)) return
    const { stop_config } = machine.config
    const wait_ms = durationMs(timeout ?? stop_config?.timeout ?? '') ?? STOP_TIMEOUT_MS
    this.#requested_stops.add(id)
    this.#record(machine, 'stopping', { type: 'stop', source: 'user' })
    if (this.#children.has(id)) {
      this.#send(id, signal ?? stop_config?.signal ?? STOP_SIGNAL)
      this.#later(id, wait_ms, () => this.#kill(id))
    } else {
      this.#ended(machine) // it was between two restarts
    }
  }

  /** @throws {ApiError} 404, 412 */
  signal(app: string, id: string, signal: Signal): void {
    const machine = this.#living(app, id)
    if (!this.#children.has(id)) throw new ApiError(412, 'failed_precondition: machine not running')
    if (signal === 'SIGKILL') this.#kill(machine.id)
    else this.#send(id, signal)
  }

  /** @throws {ApiError} 404, 412 */
  destroy(app: string, id: string, force: boolean): void {
    const machine = this.#living(app, id)
    if (machine.state === 'destroying') return
    if (!force && !isIdle(machine.state)) {
      const only = 'not currently stopped, suspended, failed or created'
      throw new ApiError(412, `failed_precondition: unable to destroy machine, ${only}`)
    }
    this.#requested_stops.add(id)
    this.#record(machine, 'destroying', { type: 'destroy', source: 'user' })
    if (this.#children.has(id)) this.#kill(id)
    else this.#ended(machine)
  }

  /** Waits until the machine is in the state. @throws {ApiError} 404, 408 */
  async wait(app: string, id: string, state: MachineState, timeout_ms: number): Promise<void> {
    const machine = this.get(app, id)
    const deadline = AbortSignal.timeout(timeout_ms)
    while (machine.state !== state) {
      const changed = await new Promise<boolean>((resolve) => {
        const settle = () => {
          this.#changes.off(id, settle)
          deadline.removeEventListener('abort', settle)
          resolve(!deadline.aborted && !this.#closed)
        }
        this.#changes.on(id, settle)
        deadline.addEventListener('abort', settle)
      })
      if (!changed && machine.state !== state) {
        const now = `${state}, currently ${machine.state}`
        throw new ApiError(408, `deadline_exceeded: machine failed to reach desired state, ${now}`)
      }
    }
  }

  /** Stops every process: SIGTERM, and SIGKILL after the grace. */
  async close(grace_ms: number): Promise<void> {
    this.#closed = true
    const ended = [...this.#children].map(([id, child]) => {
      this.#requested_stops.add(id)
      const exited = new Promise((resolve) => child.once('close', resolve))
      this.#send(id, 'SIGTERM')
      this.#later(id, grace_ms, () => this.#kill(id))
      return exited
    })
    await Promise.all(ended)
    for (const timer of this.#timers.values()) clearTimeout(timer)
    for (const id of this.#machines.keys()) this.#changes.emit(id)
  }

  /** After a kill -9 of the stack its machines may still run: nobody hears of their end any more, so they go. */
  #recover(): void {
    for (const machine of this.#store.load().sort((a, b) => a.created_at.localeCompare(b.created_at))) {
      if (machine.state === 'destroyed' && Date.now() - Date.parse(machine.updated_at) > FORGET_AFTER_MS) {
        this.#store.remove(machine.id)
        continue
      }
      this.#machines.set(machine.id, machine)
      if (machine.state === 'destroyed' || (isIdle(machine.state) && !machine.process)) continue
      const { process: left } = machine
      const alive = left !== null && processIdentity(left.pid) === left.identity
      // How a process ended that was gone already is not known, so no exit is told of.
      if (alive && killTree(left.pid)) this.#recordExit(machine, 'destroyed', null, 'SIGKILL', false)
      machine.process = null
      this.#record(machine, 'destroyed', { type: 'destroy', source: 'flyd' })
    }
  }

  #living(app: string, id: string): Machine {
    const machine = this.get(app, id)
    if (machine.state === 'destroyed') throw machineNotFound()
    return machine
  }

  #launch(machine: Machine, source: 'user' | 'flyd'): void {
    this.#requested_stops.delete(machine.id)
    this.#record(machine, 'starting', { type: 'start', source })
    const image = this.#images[machine.config.image]
    const child = image && this.#spawn(machine, image)
    if (!child) {
      this.#record(machine, 'failed', { type: 'start', source: 'flyd' })
      return
    }
    child.once('spawn', () => {
      if (machine.state === 'starting') this.#record(machine, 'started', { type: 'start', source: 'flyd' })
    })
    child.once('close', (code, signal) => this.#exited(machine, code, signal))
  }

  #spawn(machine: Machine, image: Image): ChildProcess | null {
    const log = openSync(this.#store.log_path(machine.id), 'a', 0o600)
    try {
      const child = spawn(image.command, image.args, {
        cwd: image.cwd,
        env: this.#environment(machine),
        stdio: ['ignore', log, log],
        // A group of its own: Ctrl-C in the terminal is for the stack, which then stops its machines itself.
        detached: process.platform !== 'win32',
        windowsHide: true,
      })
      child.on('error', (error) => appendFileSync(this.#store.log_path(machine.id), `${error.message}\n`))
      if (child.pid === undefined) return null
      this.#children.set(machine.id, child)
      machine.process = { pid: child.pid, identity: processIdentity(child.pid) ?? '' }
      this.#store.save(machine)
      return child
    } finally {
      closeSync(log)
    }
  }

  #environment(machine: Machine): NodeJS.ProcessEnv {
    return {
      ...this.#env,
      ...machine.config.env,
      FLY_APP_NAME: machine.app,
      FLY_MACHINE_ID: machine.id,
      FLY_ALLOC_ID: machine.id,
      FLY_MACHINE_VERSION: machine.instance_id,
      FLY_REGION: machine.region,
      PRIMARY_REGION: machine.region,
      FLY_IMAGE_REF: machine.config.image,
      FLY_PRIVATE_IP: '::1',
      FLY_VM_MEMORY_MB: String(machine.config.guest.memory_mb),
    }
  }

  #exited(machine: Machine, code: number | null, signal: NodeJS.Signals | null): void {
    clearTimeout(this.#timers.get(machine.id))
    this.#timers.delete(machine.id)
    this.#children.delete(machine.id)
    // A machine ends with its main process, whatever that had started.
    if (machine.process) killTree(machine.process.pid)
    machine.process = null
    const { policy, max_retries } = machine.config.restart
    const requested = this.#requested_stops.has(machine.id)
    const wanted = policy === 'always' || (policy === 'on-failure' && code !== 0)
    const restarting = wanted && !requested && (policy === 'always' || machine.restart_count < max_retries)
    this.#recordExit(machine, restarting ? 'starting' : 'stopped', code, signal, restarting)
    if (restarting) {
      machine.restart_count += 1
      this.#set(machine, 'starting')
      const pause_ms = Math.min(100 * 2 ** machine.restart_count, 10_000)
      this.#later(machine.id, pause_ms, () => this.#launch(machine, 'flyd'))
    } else {
      this.#ended(machine)
    }
  }

  #ended(machine: Machine): void {
    clearTimeout(this.#timers.get(machine.id))
    if (machine.state === 'destroying' || machine.config.auto_destroy) {
      this.#record(machine, 'destroyed', { type: 'destroy', source: 'flyd' })
    } else if (machine.state !== 'stopped') {
      this.#set(machine, 'stopped')
    }
  }

  #recordExit(
    machine: Machine,
    status: MachineState,
    code: number | null,
    signal: NodeJS.Signals | null,
    restarting: boolean,
  ): void {
    const number = signal ? constants.signals[signal] : -1
    const exit_event: ExitEvent = {
      exit_code: code ?? 128 + number,
      exited_at: new Date().toISOString(),
      guest_exit_code: code ?? 0,
      guest_signal: number,
      oom_killed: false,
      requested_stop: this.#requested_stops.has(machine.id),
      restarting,
      signal: number,
    }
    const event = {
      type: 'exit',
      source: 'flyd',
      request: { exit_event, restart_count: machine.restart_count },
    }
    // The exit is told before the state it leads to, so that who waits for the state finds the event.
    this.#push(machine, { ...event, status } as Omit<MachineEvent, 'id' | 'timestamp'>)
  }

  #record(machine: Machine, status: MachineState, event: Pick<MachineEvent, 'type' | 'source'>): void {
    this.#push(machine, { ...event, status })
    this.#set(machine, status)
  }

  #push(machine: Machine, event: Omit<MachineEvent, 'id' | 'timestamp'>): void {
    machine.events.unshift({ id: newUlid(), ...event, timestamp: Date.now() })
  }

  #set(machine: Machine, state: MachineState): void {
    machine.state = state
    machine.updated_at = new Date().toISOString()
    this.#store.save(machine)
    this.#changes.emit(machine.id)
  }

  #send(id: string, signal: Signal): void {
    this.#children.get(id)?.kill(signal)
  }

  #kill(id: string): void {
    const child = this.#children.get(id)
    if (child?.pid !== undefined && child.exitCode === null && child.signalCode === null) killTree(child.pid)
  }

  #later(id: string, wait_ms: number, act: () => void): void {
    clearTimeout(this.#timers.get(id))
    if (this.#closed && !this.#children.has(id)) return
    this.#timers.set(id, setTimeout(act, Math.min(wait_ms, MAX_TIMER_MS)))
  }
}
