import { RollcallError } from '../../src/client/errors.ts'
import type { Clock } from '../../src/client/live/clock.ts'
import { byPlace } from '../../src/client/live/merge.ts'
import { type RunRow, type RunsFilter, toRunRow } from '../../src/client/live/run.ts'
import type { RunsSource, Topic, TopicEvents } from '../../src/client/live/source.ts'

/** A clock that stands still until it is moved; what is due runs in order. */
export class ManualClock implements Clock {
  #now = Date.parse('2026-11-21T00:00:00Z')
  #timers: { at: number; callback: () => void }[] = []

  now(): number {
    return this.#now
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + ms, callback }
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer)
    }
  }

  get timers(): number {
    return this.#timers.length
  }

  /** Moves on, and lets everything that became due run with all that follows from it. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms
    await settle()
    for (;;) {
      const next = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (!next) break
      this.#timers = this.#timers.filter((other) => other !== next)
      this.#now = Math.max(this.#now, next.at)
      next.callback()
      await settle()
    }
    this.#now = end
  }

  /** The machine sleeps: time passes, and for its timers it does not. */
  async sleep(ms: number): Promise<void> {
    this.#now += ms
    this.#timers = this.#timers.map((timer) => Object.assign(timer, { at: timer.at + ms }))
    await this.advance(0)
  }
}

/** Lets promises that can settle do so. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 30; i++) await Promise.resolve()
}

export type Call = keyof Omit<RunsSource, 'listen'>

/** A project in memory: rows, a history of which of them changed, and topics that a test rings. */
export class FakeRuns implements RunsSource {
  readonly clock: ManualClock
  readonly rows = new Map<string, RunRow>()
  readonly history: string[] = []
  readonly calls: { call: Call; at: number; args: unknown }[] = []
  /** Thrown by the calls named, until it is taken away. */
  readonly failing = new Map<Call, RollcallError>()
  /** How long answers take (ms). */
  latency_ms = 0
  /** How far the server's clock is ahead (ms). */
  ahead_ms = 0
  reset = false
  running = 0
  most_running = 0
  readonly topics = new Map<string, TopicEvents>()

  constructor(clock: ManualClock) {
    this.clock = clock
  }

  count(call: Call): number {
    return this.calls.filter((made) => made.call === call).length
  }

  /** Puts a run there, or moves it on: one more version, and an event of the history. */
  put(id: string, change: Partial<RunRow> = {}): RunRow {
    const before = this.rows.get(id)
    const at = new Date(this.clock.now() + this.ahead_ms).toISOString().replace('Z', '000Z')
    const row = toRunRow({
      kind: 'bot',
      name: `run ${id}`,
      state: 'running',
      created_at: at,
      attempt: 1,
      allowed_actions: ['stop'],
      ...before,
      id,
      state_since: at,
      updated_at: at,
      version: (before?.version ?? 0) + 1,
      ...change,
    })
    this.rows.set(id, row)
    this.history.push(id)
    return row
  }

  end(id: string, state = 'completed', change: Partial<RunRow> = {}): RunRow {
    const finished_at = new Date(this.clock.now() + this.ahead_ms).toISOString()
    return this.put(id, { state, finished_at, allowed_actions: [], ...change })
  }

  ring(topic = 'everything', hint: Parameters<TopicEvents['hint']>[0] = {}): void {
    this.topics.get(topic)?.hint(hint)
  }

  async #answer<T>(call: Call, args: unknown, signal: AbortSignal, make: () => T): Promise<T> {
    signal.throwIfAborted()
    this.calls.push({ call, at: this.clock.now(), args })
    this.running += 1
    this.most_running = Math.max(this.most_running, this.running)
    try {
      // What a slow answer says is from the time of the question.
      const failure = this.failing.get(call)
      const answer = failure ? undefined : make()
      if (this.latency_ms > 0) {
        await new Promise<void>((done, fail) => {
          this.clock.after(this.latency_ms, done)
          signal.addEventListener('abort', () => fail(signal.reason))
        })
      }
      if (failure) throw failure
      return answer as T
    } finally {
      this.running -= 1
    }
  }

  #as_of(): string {
    return new Date(this.clock.now() + this.ahead_ms).toISOString()
  }

  #passes(row: RunRow, { state, kind }: RunsFilter): boolean {
    return (
      (state === undefined || [state].flat().includes(row.state)) &&
      (kind === undefined || [kind].flat().includes(row.kind))
    )
  }

  catalog(signal: AbortSignal) {
    return this.#answer('catalog', null, signal, () => ({ schema_version: 1, machines: [], error_codes: [] }))
  }

  list: RunsSource['list'] = (filter, before, max_rows, signal) =>
    this.#answer('list', { filter, before }, signal, () => {
      const place = before && { created_at: before.before_created, id: before.before_id }
      const all = [...this.rows.values()]
        .filter((row) => this.#passes(row, filter) && (!place || byPlace(place, row) < 0))
        .sort(byPlace)
      const items = all.slice(0, max_rows)
      const last = items.at(-1)
      const next =
        last && all.length > max_rows ? { before_created: last.created_at, before_id: last.id } : null
      return { items, next, as_of: this.#as_of() }
    })

  get: RunsSource['get'] = (ids, filter, signal) =>
    this.#answer('get', { ids, filter }, signal, () => {
      const items = ids.flatMap((id) => this.rows.get(id) ?? [])
      const matches = items.filter((row) => this.#passes(row, filter)).map(({ id }) => id)
      return { items, matches, as_of: this.#as_of() }
    })

  counts: RunsSource['counts'] = (filter, signal) =>
    this.#answer('counts', filter, signal, () => ({
      counts: [],
      stuck: { n: 0, exact: true },
      failed_last_hour: { n: 0, exact: true },
      stuck_rules: [],
      exact: true,
      as_of: this.#as_of(),
    }))

  changes: RunsSource['changes'] = (after, max_rows, signal) =>
    this.#answer('changes', { after, max_rows }, signal, () => {
      const from = after === null ? 0 : Number(after)
      if (this.reset || max_rows === 0) {
        const reset = this.reset && max_rows > 0
        this.reset = false
        return { events: [], next: String(this.history.length), has_more: false, reset }
      }
      const found = this.history.slice(from, from + max_rows)
      const events = found.map((subject_id, i) => ({ subject_id, cursor: String(from + i + 1) }))
      return {
        events: events as never,
        next: String(from + found.length),
        has_more: from + found.length < this.history.length,
        reset: false,
      }
    })

  timeline: RunsSource['timeline'] = (id, signal) =>
    this.#answer('timeline', id, signal, () => ({
      id,
      kind: 'bot',
      transitions: [],
      omitted: 0,
      rejections: [],
      retry_of: null,
      retried_by: null,
      as_of: this.#as_of(),
    }))

  detail: RunsSource['detail'] = ({ id }, signal) =>
    this.#answer('detail', id, signal, () => ({ id, version: this.rows.get(id)?.version }))

  timing: RunsSource['timing'] = () => Promise.reject(new Error('not part of these tests'))
  recent: RunsSource['recent'] = () => Promise.reject(new Error('not part of these tests'))
  failures: RunsSource['failures'] = () => Promise.reject(new Error('not part of these tests'))

  listen(topic: Topic, events: TopicEvents): () => void {
    const name = 'kind' in topic ? `${topic.kind}:${topic.id}` : 'everything'
    this.topics.set(name, events)
    return () => this.topics.delete(name)
  }
}

/** No answer came. */
export const no_answer = new RollcallError({ status: 0, code: 'unreachable', message: 'No answer.' })
