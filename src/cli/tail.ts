import { backoff, read_steps_ms } from '../client/backoff.ts'
import type { HistoryRow } from '../client/change.ts'
import { RollcallError } from '../client/errors.ts'
import type { RunRow } from '../client/live/run.ts'
import { type Command, type Context, emit, listOf, print, say, spanOf, textOf } from './context.ts'
import { CommandError, type ExitCode, exit, usageError } from './exit_codes.ts'
import { kindsOf } from './filter.ts'
import { duration } from './format.ts'
import { transitionLine } from './frame.ts'
import { inTone, toneOf } from './style.ts'

const PAGE = 500
/** Without a hint the history is read this often (ms). */
const EVERY_MS = 5000

/** One line per transition of everything, as they come. */
export const tail: Command = {
  usage: `rollcall tail [<name or id>] [--kind K] [--state S,..] [--code C] [--since 10m] [--no-follow] [--give-up 5m]
              [-o default|json]`,
  options: {
    kind: { type: 'string', multiple: true },
    state: { type: 'string', multiple: true },
    code: { type: 'string' },
    since: { type: 'string' },
    'no-follow': { type: 'boolean' },
    'give-up': { type: 'string' },
    output: { type: 'string', short: 'o' },
  },
  async run(context) {
    const output = textOf(context.values, 'output') ?? (context.is_json ? 'json' : 'default')
    if (output !== 'default' && output !== 'json') throw usageError('-o is default or json.')
    const is_json = output === 'json'
    const teller = new Teller(context, is_json)
    const code = await read(context, teller)
    if (is_json) emit(context, 'result', { exit_code: code, n: teller.told })
    return code
  },
}

async function read(context: Context, teller: Teller): Promise<ExitCode> {
  const source = context.source()
  const { signal } = context
  const since = new Date(Date.now() - (spanOf(context.values, 'since') ?? 600_000)).toISOString()
  const give_up_ms = spanOf(context.values, 'give-up') ?? 300_000
  const follows = context.values['no-follow'] !== true
  let cursor: string | undefined
  let failures = 0
  let failing_since = 0
  let ring = () => {}
  const leave = follows
    ? source.listen({ everything: true }, { hint: () => ring(), ready: () => ring(), lost() {} })
    : () => {}
  try {
    for (;;) {
      let wait_ms = EVERY_MS
      try {
        if (cursor === undefined) {
          const { events, next } = await source.recent(since, 1000, signal)
          await teller.tell(events)
          cursor = next
        } else {
          const { events, next, has_more, reset } = await source.changes(cursor, PAGE, signal)
          await teller.tell(events)
          cursor = next
          if (reset) say(context, 'The history before this was pruned.')
          if (has_more) continue
        }
        if (failures > 0) say(context, 'reconnected')
        failures = 0
        if (!follows) return exit.completed
      } catch (error) {
        if (signal.aborted) return exit.interrupted
        const status = error instanceof RollcallError ? error.status : -1
        if (status !== 0 && status !== 429 && status < 500) throw error
        failures += 1
        if (failures === 1) failing_since = Date.now()
        if (!follows || Date.now() - failing_since > give_up_ms) {
          throw new CommandError(
            exit.gave_up,
            'gave_up',
            `The project did not answer for ${duration(Date.now() - failing_since)}.`,
          )
        }
        say(context, `reconnecting (${failures})`)
        const asked_s = error instanceof RollcallError ? Number(error.details?.retry_after_s) || 0 : 0
        wait_ms = Math.max(asked_s * 1000, backoff(failures, read_steps_ms))
      }
      const is_failing = failures > 0
      await new Promise<void>((done) => {
        const timer = setTimeout(done, wait_ms)
        const end = () => {
          clearTimeout(timer)
          done()
        }
        // A hint makes the next read sooner, unless the project is in trouble.
        ring = is_failing ? () => {} : () => setTimeout(end, 100)
        signal.addEventListener('abort', end, { once: true })
      })
      ring = () => {}
      if (signal.aborted) return exit.interrupted
    }
  } finally {
    leave()
  }
}

/** Prints transitions that pass the filter, with the names of their runs. */
class Teller {
  told = 0
  readonly #context: Context
  readonly #is_json: boolean
  readonly #runs = new Map<string, RunRow | null>()
  readonly #last = new Map<string, string>()
  readonly #kinds: ReturnType<typeof kindsOf>
  readonly #states: string[] | undefined
  readonly #code: string | undefined
  readonly #word: string | undefined

  constructor(context: Context, is_json: boolean) {
    this.#context = context
    this.#is_json = is_json
    this.#kinds = kindsOf(context.values)
    this.#states = listOf(context.values, 'state')
    this.#code = textOf(context.values, 'code')
    this.#word = context.positionals[0]?.toLowerCase()
    if (context.positionals.length > 1) throw usageError('tail takes one name or id.')
  }

  async tell(events: readonly HistoryRow[]): Promise<void> {
    const unknown = [...new Set(events.map(({ subject_id }) => subject_id))].filter(
      (id) => !this.#runs.has(id),
    )
    for (let from = 0; from < unknown.length; from += 100) {
      const ids = unknown.slice(from, from + 100)
      const { items } = await this.#context.source().get(ids, {}, this.#context.signal)
      const found = new Map(items.map((row) => [row.id, row]))
      for (const id of ids) this.#runs.set(id, found.get(id) ?? null)
    }
    for (const event of events) this.#tellOne(event)
    // Names are asked for again rather than kept for ever.
    if (this.#runs.size > 20_000) this.#runs.clear()
    if (this.#last.size > 20_000) this.#last.clear()
  }

  #tellOne(event: HistoryRow): void {
    const run = this.#runs.get(event.subject_id) ?? null
    const key = `${event.machine} ${event.subject_id}`
    const last = this.#last.get(key)
    this.#last.set(key, event.created_at)
    if (this.#kinds && !(run && this.#kinds.includes(run.kind))) return
    if (this.#states && !this.#states.includes(event.to_status)) return
    if (this.#code && event.error_code !== this.#code) return
    const word = this.#word
    if (
      word &&
      !run?.name.toLowerCase().includes(word) &&
      !event.subject_id.startsWith(word) &&
      !event.subject_id.endsWith(word)
    )
      return
    this.told += 1
    const before_ms = last === undefined ? null : Date.parse(event.created_at) - Date.parse(last)
    if (this.#is_json) {
      emit(this.#context, 'transition', {
        run_id: event.subject_id,
        kind: run?.kind ?? null,
        name: run?.name ?? null,
        ...event,
        before_ms,
      })
      return
    }
    const line = transitionLine(event, run?.name ?? '-', before_ms)
    print(this.#context, inTone(toneOf(event.to_status), line, this.#context.style))
  }
}
