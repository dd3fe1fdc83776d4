import { type Host, MAX_JSON, withSandbox, wordsOf } from './sandbox.ts'
import { type LogLine, ScriptFailure } from './script_failure.ts'

/** What logs of one phase may hold, in characters. */
const MAX_LOG = 64 * 1024

/** What a line takes beside its text. */
const LINE_OF_LOG = 64

/** How many Http.get a phase makes, and how many of them at a time: the others wait. */
const MAX_GETS = 1000
const GETS_AT_A_TIME = 8

const MAX_PUBLICATIONS = 1000
const MAX_PAYLOAD = 64 * 1024
const MAX_MESSAGES = 100
const MAX_MESSAGE = 16_000

export type Phase = 'handler' | 'prepare' | 'mutate' | 'next'

/** An event that a script publishes; visible to others when its run commits. */
export interface Publication {
  topic: string
  message_id: string
  payload: unknown
}

/** What each tool answers, as JSON; a ScriptFailure ends the phase with its class. */
export interface PhaseTools {
  peek?: (topic: string, limit: number | undefined) => Promise<unknown>
  get?: (request: Record<string, unknown>) => Promise<unknown>
  send?: (request: Record<string, unknown>) => Promise<unknown>
}

export interface PhaseRequest {
  code: string
  handler_type: 'producer' | 'consumer'
  handler_name: string
  phase: Phase
  /** JSON values. */
  args: unknown[]
  config: {
    producers: Record<string, { publishes?: string[] | undefined }>
    consumers: Record<string, { publishes?: string[] | undefined }>
  }
  /** ISO: the only time that the script knows. */
  started_at: string
  cpu_ms: number
  wall_ms: number
  signal: AbortSignal
  tools: PhaseTools
}

export interface PhaseResult {
  value: unknown
  publications: Publication[]
  messages: string[]
  logs: LogLine[]
  cpu_ms: number
}

/** Which tools each phase has; the console and the clock are everywhere. */
const ALLOWED: Record<Phase, readonly string[]> = {
  handler: ['Http.get', 'Topics.publish', 'User.send'],
  prepare: ['Http.get', 'Topics.peek'],
  mutate: ['Http.send'],
  next: ['Topics.publish', 'User.send'],
}

/**
 * Runs one phase of a script. A tool that fails ends the phase with its class, whatever the script does with the error;
 * a phase ends when every call that it made has ended.
 * @throws ScriptFailure, and the reason of `signal` when that is aborted.
 */
export async function runPhase(request: PhaseRequest): Promise<PhaseResult> {
  const { code, started_at, cpu_ms, handler_type, handler_name, phase, signal } = request
  const calls = new PhaseCalls(request)
  let late: ReturnType<typeof setTimeout> | undefined
  const aborted = () => calls.halt(new ScriptFailure('internal', 'The phase was broken off.'))
  signal.addEventListener('abort', aborted)
  try {
    signal.throwIfAborted()
    const args = JSON.stringify(request.args)
    if (args.length > 2 * MAX_JSON)
      throw new ScriptFailure('logic', `${phase}() would be given more than 2 MB.`)
    return await withSandbox({ code, started_at, cpu_ms, host: calls }, async (sandbox) => {
      // Not before its turn has come.
      const too_long = new ScriptFailure('logic', `${phase}() took more than ${request.wall_ms / 1000} s.`)
      late = setTimeout(() => calls.halt(too_long), request.wall_ms)
      const kind = `${handler_type}s` as const
      const answer = await sandbox.run(kind, handler_name, phase, args, () => calls.failure !== null)
      signal.throwIfAborted()
      if (calls.failure !== null) throw calls.failure
      const told = JSON.parse(answer ?? '{}') as {
        value?: unknown
        failure?: { message: string; stack: string }
      }
      if (told.failure !== undefined) {
        throw new ScriptFailure('logic', wordsOf(told.failure.message, told.failure.stack))
      }
      const { publications, messages, logs } = calls
      return { value: told.value ?? null, publications, messages, logs, cpu_ms: sandbox.cpu_ms }
    })
  } catch (error) {
    signal.throwIfAborted()
    throw error instanceof ScriptFailure ? error.withLogs(calls.logs) : error
  } finally {
    clearTimeout(late)
    signal.removeEventListener('abort', aborted)
  }
}

/** The calls of one phase: what it may, what it has published and said, and why it was halted. */
class PhaseCalls implements Host {
  readonly publications: Publication[] = []
  readonly messages: string[] = []
  readonly logs: LogLine[] = []
  /** The first thing that went wrong with a tool: it ends the phase. */
  failure: ScriptFailure | null = null
  readonly #request: PhaseRequest
  readonly #halted = Promise.withResolvers<never>()
  #logged = 0
  #sent = 0
  #begun_gets = 0
  /** The last one in each place of those that go on at a time. */
  readonly #gets: Promise<void>[] = []

  constructor(request: PhaseRequest) {
    this.#request = request
    this.#halted.promise.catch(() => {})
  }

  halt(failure: ScriptFailure): void {
    this.failure ??= failure
    this.#halted.reject(failure)
  }

  async call(tool: string, json: string): Promise<string> {
    try {
      const { phase } = this.#request
      if (this.failure !== null) throw this.failure
      const args = argumentsIn(tool, json)
      if (!ALLOWED[phase].includes(tool)) {
        const allowed = ALLOWED[phase].join(', ')
        throw new ScriptFailure('logic', `${tool} can not be used in ${phase}(): it has ${allowed}.`)
      }
      const work = this.#run(tool, args)
      // A send is waited for to its end: what became of it must be known. Everything else may be left alone.
      const answer = tool === 'Http.send' ? await work : await Promise.race([work, this.#halted.promise])
      const text = JSON.stringify(answer ?? null)
      if (text.length > 2 * MAX_JSON) throw new ScriptFailure('logic', `${tool} answered more than 2 MB.`)
      return text
    } catch (error) {
      const failure =
        error instanceof ScriptFailure
          ? error
          : new ScriptFailure('internal', `${tool} broke off on our side.`)
      this.halt(failure)
      throw failure
    }
  }

  async #run(tool: string, [first, second]: unknown[]): Promise<unknown> {
    const { tools } = this.#request
    switch (tool) {
      case 'Topics.publish':
        return this.#publish(first, second)
      case 'User.send':
        return this.#say(first)
      case 'Topics.peek':
        return this.#tool(tools.peek)(textOf(first, 'a topic'), limitOf(second))
      case 'Http.get':
        return this.#get(typeof first === 'string' ? { url: first } : recordOf(first, tool))
      case 'Http.send':
        this.#sent++
        if (this.#sent > 1)
          throw new ScriptFailure('logic', 'mutate() sends once: it has called Http.send before.')
        return this.#tool(tools.send)(recordOf(first, tool))
      default:
        throw new ScriptFailure('logic', `There is no tool ${tool}.`)
    }
  }

  async #get(request: Record<string, unknown>): Promise<unknown> {
    const get = this.#tool(this.#request.tools.get)
    const index = this.#begun_gets++
    if (index >= MAX_GETS) throw new ScriptFailure('logic', 'A phase makes at most 1000 calls of Http.get.')
    const place = index % GETS_AT_A_TIME
    const before = this.#gets[place]
    const mine = Promise.withResolvers<void>()
    this.#gets[place] = mine.promise
    try {
      await before
      if (this.failure !== null) throw this.failure
      return await get(request)
    } finally {
      mine.resolve()
    }
  }

  #tool<T>(tool: T | undefined): T {
    if (tool === undefined) throw new ScriptFailure('internal', 'The tool is not there.')
    return tool
  }

  #publish(topic: unknown, message: unknown): null {
    const { handler_type, handler_name, config } = this.#request
    const name = textOf(topic, 'a topic')
    const { id, payload = null } = recordOf(message, 'Topics.publish')
    const declared = config[`${handler_type}s`][handler_name]?.publishes ?? []
    if (!declared.includes(name)) {
      throw new ScriptFailure(
        'logic',
        `${handler_name} publishes to ${name}, which its publishes does not name.`,
      )
    }
    if (typeof id !== 'string' || id === '' || id.length > 255) {
      throw new ScriptFailure('logic', 'Topics.publish takes { id, payload }: id has 1 to 255 characters.')
    }
    if (new TextEncoder().encode(JSON.stringify(payload)).length > MAX_PAYLOAD) {
      throw new ScriptFailure('logic', 'Topics.publish: a payload has at most 64 KB.')
    }
    if (this.publications.length >= MAX_PUBLICATIONS) {
      throw new ScriptFailure(
        'logic',
        'A run publishes at most 1000 events: publish the rest in the next one.',
      )
    }
    this.publications.push({ topic: name, message_id: id, payload })
    return null
  }

  #say(text: unknown): null {
    const message = textOf(text, 'a text')
    if (this.messages.length >= MAX_MESSAGES)
      throw new ScriptFailure('logic', 'A run says at most 100 messages.')
    this.messages.push(message.slice(0, MAX_MESSAGE))
    return null
  }

  log(level: string, text: string): void {
    const left = MAX_LOG - this.#logged
    if (left <= 0) return
    this.#logged += text.length + LINE_OF_LOG
    const cut = text.length > left ? `${text.slice(0, left)} ... (the rest is not kept)` : text
    this.logs.push({
      at: new Date().toISOString(),
      level: level as LogLine['level'],
      text: cut.toWellFormed().replaceAll('\0', '\uFFFD'),
    })
  }
}

function argumentsIn(tool: string, json: string): unknown[] {
  if (json.length > MAX_JSON) throw new ScriptFailure('logic', `${tool}: more than 1 MB at once.`)
  try {
    const args: unknown = JSON.parse(json)
    if (Array.isArray(args)) return args
  } catch {
    // Said below.
  }
  throw new ScriptFailure('logic', `${tool} was given something that is no JSON.`)
}

function textOf(value: unknown, what: string): string {
  if (typeof value === 'string' && value !== '') return value
  throw new ScriptFailure('logic', `A tool was called without ${what}.`)
}

function recordOf(value: unknown, tool: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>
  throw new ScriptFailure('logic', `${tool} takes an object.`)
}

function limitOf(options: unknown): number | undefined {
  const limit =
    typeof options === 'object' && options !== null ? (options as { limit?: unknown }).limit : undefined
  if (limit === undefined || limit === null) return undefined
  if (typeof limit !== 'number' || !Number.isInteger(limit) || limit < 1 || limit > 1000) {
    throw new ScriptFailure('logic', 'Topics.peek takes { limit } as a whole number from 1 to 1000.')
  }
  return limit
}
