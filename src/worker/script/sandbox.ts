import variant from '@jitl/quickjs-singlefile-mjs-release-sync'
import {
  type EmscriptenModuleLoader,
  newQuickJSWASMModuleFromVariant,
  newVariant,
  type QuickJSContext,
  type QuickJSDeferredPromise,
  type QuickJSEmscriptenModule,
  type QuickJSHandle,
  type QuickJSRuntime,
  type QuickJSWASMModule,
} from 'quickjs-emscripten-core'
import { PRELUDE } from './prelude.ts'
import { ScriptFailure } from './script_failure.ts'

/** The engine's memory, in pages of 64 KB: what it begins with, and 64 MB for the script. */
const PAGES_AT_FIRST = 256
const PAGES_AT_MOST = PAGES_AT_FIRST + 1024

/** How deep a script may call, in bytes: less than what the host's own stack holds. */
const STACK_BYTES = 128 * 1024

const OUT_OF_MEMORY = 'The script used more than 64 MB of memory.'

/** How many steps of a script the engine takes at most before it asks whether to go on. One may take some ms. */
const STEPS_AT_MOST = 200
const STEPS_OF_THE_ENGINE = 10_000

/** The largest JSON that goes in or out at once, in characters. */
export const MAX_JSON = 1024 * 1024

/** What a script has of its host. */
export interface Host {
  /** A tool, with what ought to be a list of arguments as JSON; answers JSON. */
  call(tool: string, args: string): Promise<string>
  log(level: string, line: string): void
}

export interface SandboxOptions {
  code: string
  /** ISO: the only time that the script knows. */
  started_at: string
  /** Time within the sandbox, in ms; waiting for the host does not count. */
  cpu_ms: number
  host: Host
}

interface Engine {
  module: QuickJSWASMModule
  /** Bounded here: the engine's own limit does not count what typed arrays hold. */
  memory: WebAssembly.Memory
}

let loading: Promise<Engine> | null = null
let turn: Promise<void> = Promise.resolve()

/** Waits until no other sandbox of this process is open: each may take 64 MB. */
export async function withSandbox<T>(
  options: SandboxOptions,
  work: (sandbox: Sandbox) => Promise<T>,
): Promise<T> {
  const before = turn
  let release = () => {}
  turn = new Promise((done) => {
    release = done
  })
  await before
  let sandbox: Sandbox | null = null
  try {
    loading ??= loadEngine()
    const engine = await loading
    sandbox = new Sandbox(engine, options)
    sandbox.load()
    return await work(sandbox)
  } catch (error) {
    if (error instanceof ScriptFailure) throw error
    // The engine itself broke, and may be broken: the next one gets a new one.
    loading = null
    sandbox?.abandon()
    throw new ScriptFailure('logic', `The script broke its sandbox: ${(error as Error).message}`)
  } finally {
    sandbox?.close()
    await dropGrownEngine()
    release()
  }
}

/** Memory that has grown never shrinks, and one that was full may have left the engine in any state. */
async function dropGrownEngine(): Promise<void> {
  const engine = await loading?.catch(() => null)
  if (engine && engine.memory.buffer.byteLength > 2 * PAGES_AT_FIRST * 65_536) loading = null
}

async function loadEngine(): Promise<Engine> {
  const memory = new WebAssembly.Memory({ initial: PAGES_AT_FIRST, maximum: PAGES_AT_MOST })
  const bounded = newVariant(variant, { wasmMemory: memory })
  const importModuleLoader = async () => {
    const load = loaderIn(await bounded.importModuleLoader())
    return {
      default: async () => {
        const engine = await load()
        // Called once, since the first call may put another function in its place.
        engine._free(engine._malloc(1))
        const malloc = engine._malloc
        // The library writes to wherever this points, and that is over the engine itself where it points nowhere.
        engine._malloc = (size) => {
          const at = malloc(size)
          if (at === 0) throw new ScriptFailure('logic', OUT_OF_MEMORY)
          return at
        }
        return engine
      },
    }
  }
  return { memory, module: await newQuickJSWASMModuleFromVariant({ ...bounded, importModuleLoader }) }
}

/** The function in what a package exports, however it was bundled. */
function loaderIn(imported: unknown): EmscriptenModuleLoader<QuickJSEmscriptenModule> {
  let found = imported
  while (typeof found === 'object' && found !== null && 'default' in found) found = found.default
  return found as EmscriptenModuleLoader<QuickJSEmscriptenModule>
}

/** One script in an engine of its own: no network, no clock, no randomness; JSON in, JSON out. */
export class Sandbox {
  readonly #options: SandboxOptions
  readonly #runtime: QuickJSRuntime
  readonly #context: QuickJSContext
  #spent_ms = 0
  #entered_at: number | null = null
  #is_open = true
  /** How many calls of the host have not ended. */
  #open_calls = 0
  /** What has ended, and the script is to be told when it goes on. */
  #ended: (() => void)[] = []
  /** What has not been told to the script. */
  readonly #untold = new Set<QuickJSDeferredPromise>()
  #wake: (() => void) | null = null
  #driver: QuickJSHandle | null = null
  #result: QuickJSHandle | null = null
  /** A tool that was called before there was a handler to call it. */
  #early: string | null = null
  #is_loaded = false

  constructor({ module, memory }: Engine, options: SandboxOptions) {
    this.#options = options
    this.#runtime = module.newRuntime()
    this.#runtime.setMaxStackSize(STACK_BYTES)
    this.#context = this.#runtime.newContext()
    const ask_soon = soonerAsked(this.#context, memory)
    let asked_at = performance.now()
    this.#runtime.setInterruptHandler(() => {
      const now = performance.now()
      ask_soon(now - asked_at > 1 ? 1 : STEPS_AT_MOST)
      asked_at = now
      return this.cpu_ms > options.cpu_ms
    })
  }

  /** The time that the script has used so far, in ms. */
  get cpu_ms(): number {
    return this.#spent_ms + (this.#entered_at === null ? 0 : performance.now() - this.#entered_at)
  }

  /** Runs the prelude and the script's own top level. Throws ScriptFailure. */
  load(): void {
    const context = this.#context
    const call = context.newFunction('__call', (tool, args) =>
      this.#hostCall(context.getString(tool), context.getString(args)),
    )
    context.setProp(context.global, '__call', call)
    call.dispose()
    const started = context.newString(this.#options.started_at)
    context.setProp(context.global, '__started', started)
    started.dispose()
    this.#driver = this.#enter(() => this.#evaluate(PRELUDE, 'prelude.js'))
    this.#enter(() => this.#evaluate(this.#options.code, 'script.js')).dispose()
    if (this.#early !== null) {
      throw new ScriptFailure('logic', `${this.#early} can only be used within a handler.`)
    }
    this.#is_loaded = true
  }

  /** What the script's `workflow` looks like, as JSON of its shape. */
  describe(): string {
    return this.#drive('describe', []).text
  }

  /**
   * Calls a handler and waits until it and every call that it made have ended. JSON `{ value }` or `{ failure }`; null where
   * `halted` has stopped it. Throws ScriptFailure.
   */
  async run(
    kind: 'producers' | 'consumers',
    name: string,
    phase: string,
    args: string,
    halted: () => boolean,
  ): Promise<string | null> {
    const { handle } = this.#drive('run', [kind, name, phase, args], true)
    this.#result = handle
    let failure: { error: unknown } | null = null
    for (;;) {
      if (failure === null && !halted()) {
        try {
          this.#enter(() => {
            for (const tell of this.#ended.splice(0)) tell()
            this.#runJobs()
          })
        } catch (error) {
          failure = { error }
        }
      }
      // However it ends: not before every call that it made has ended.
      if (this.#open_calls === 0) {
        if (failure !== null) throw failure.error
        if (halted()) return null
        const answer = this.#answer(handle)
        if (answer === null)
          throw new ScriptFailure('logic', `${phase}() waits for something that never comes.`)
        return answer
      }
      await new Promise<void>((done) => {
        this.#wake = done
      })
    }
  }

  #answer(promise: QuickJSHandle): string | null {
    const state = this.#context.getPromiseState(promise)
    // Whoever has used up the time has no answer, even if a catch of its own made one.
    if (this.cpu_ms > this.#options.cpu_ms) {
      if (state.type === 'fulfilled') state.value.dispose()
      throw this.#complaint(state.type === 'rejected' ? state.error : null)
    }
    if (state.type === 'pending') return null
    if (state.type === 'rejected') throw this.#complaint(state.error)
    const text = state.value.consume((value) => this.#context.getString(value))
    if (text.length > MAX_JSON) throw tooLarge('What the handler returned')
    return text
  }

  close(): void {
    if (!this.#is_open) return
    this.#is_open = false
    if (this.cpu_ms > this.#options.cpu_ms) {
      // What was interrupted may hold on to things, and the engine refuses to be taken down then.
      loading = null
      return
    }
    try {
      for (const call of this.#untold) call.dispose()
      this.#result?.dispose()
      this.#driver?.dispose()
      this.#context.dispose()
      this.#runtime.dispose()
    } catch {
      // What a script left behind can not be taken down: the next one gets a new engine.
      loading = null
    }
  }

  /** Leaves a broken engine alone: it would break while it is taken down. */
  abandon(): void {
    this.#is_open = false
  }

  #hostCall(tool: string, args: string): QuickJSHandle {
    const context = this.#context
    if (tool.startsWith('console.')) {
      this.#options.host.log(tool.slice('console.'.length), args)
      return context.undefined
    }
    if (!this.#is_loaded) this.#early ??= tool
    // First what may find no memory, then what happens outside.
    const call = context.newPromise()
    this.#untold.add(call)
    this.#open_calls++
    // The script is told when it goes on, within its limits, and never from here.
    const end = (tell: () => void) => {
      this.#open_calls--
      this.#ended.push(tell)
      this.#wake?.()
    }
    const told = (by: 'resolve' | 'reject', value: QuickJSHandle) => {
      value.consume((said) => call[by](said))
      call.dispose()
      this.#untold.delete(call)
    }
    this.#options.host.call(tool, args).then(
      (text) => end(() => told('resolve', context.newString(text))),
      (error: unknown) => end(() => told('reject', context.newError(String((error as Error).message)))),
    )
    return call.handle
  }

  #drive(name: string, args: string[], is_async = false): { handle: QuickJSHandle; text: string } {
    const context = this.#context
    const driver = this.#driver
    if (driver === null) throw new Error('The sandbox is not loaded.')
    const handle = this.#enter(() => {
      const workflow = this.#evaluate('typeof workflow === "undefined" ? undefined : workflow', 'script.js')
      if (context.typeof(workflow) !== 'object') {
        throw new ScriptFailure('logic', 'The script defines no workflow: write workflow = { ... }.')
      }
      const act = context.getProp(driver, name)
      const given = [workflow, ...args.map((arg) => context.newString(arg))]
      const answer = context.callFunction(act, context.undefined, ...given)
      for (const one of [act, ...given]) one.dispose()
      if (answer.error) throw this.#complaint(answer.error)
      return answer.value
    })
    if (is_async) return { handle, text: '' }
    const text = handle.consume((value) => context.getString(value))
    if (text.length > MAX_JSON) throw tooLarge(name)
    return { handle, text }
  }

  #evaluate(code: string, file: string): QuickJSHandle {
    const result = this.#context.evalCode(code, file, { type: 'global' })
    if (result.error) throw this.#complaint(result.error)
    return result.value
  }

  #runJobs(): void {
    const jobs = this.#runtime.executePendingJobs()
    if (jobs.error) throw this.#complaint(jobs.error)
    jobs.dispose()
  }

  /** Runs the engine and counts its time. */
  #enter<T>(work: () => T): T {
    this.#entered_at = performance.now()
    try {
      return work()
    } finally {
      this.#spent_ms = this.cpu_ms
      this.#entered_at = null
    }
  }

  /** What was thrown, in words; nothing of the script runs for them beyond its limits. */
  #complaint(error: QuickJSHandle | null): ScriptFailure {
    const seconds = this.#options.cpu_ms / 1000
    if (this.cpu_ms > this.#options.cpu_ms) {
      error?.dispose()
      return new ScriptFailure('logic', `The script used more than ${seconds} s of CPU.`)
    }
    const context = this.#context
    let said = 'The script failed.'
    if (error !== null) {
      const read = (key: string) => {
        return context
          .getProp(error, key)
          .consume((value) => (context.typeof(value) === 'string' ? context.getString(value) : ''))
      }
      const message =
        context.typeof(error) === 'object'
          ? `${read('name')}: ${read('message')}`
          : 'The script threw a value.'
      const stack = context.typeof(error) === 'object' ? read('stack') : ''
      said = wordsOf(message, stack)
      error.dispose()
    }
    return new ScriptFailure('logic', said)
  }
}

/**
 * The engine counts 10,000 steps before it asks whether to go on, however long each of them takes, and the library has
 * no setting for that. When it asks for the first time it has just set its count: that is found in its memory then, and
 * the function that this returns sets what is left of it.
 */
function soonerAsked(context: QuickJSContext, memory: WebAssembly.Memory): (steps: number) => void {
  const { ctx } = context as unknown as { ctx: { value: number } }
  const words = () => new Int32Array(memory.buffer, ctx.value, 128)
  let at: number | null = null
  return (steps) => {
    if (at === null) {
      const found = words().indexOf(STEPS_OF_THE_ENGINE)
      at = found === words().lastIndexOf(STEPS_OF_THE_ENGINE) ? found : -1
    }
    if (at >= 0) words()[at] = steps
  }
}

/** An error of a script, with the place in it. */
export function wordsOf(message: string, stack: string): string {
  if (/out of memory/i.test(message)) return OUT_OF_MEMORY
  const place = /script\.js:(\d+)/.exec(stack)?.[1]
  return `${message}${place === undefined ? '' : ` (line ${place})`}`.slice(0, 2000)
}

function tooLarge(what: string): ScriptFailure {
  return new ScriptFailure('logic', `${what}: more than 1 MB at once.`)
}
