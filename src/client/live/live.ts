/**
 * The list of runs that keeps itself up to date, and single runs that are followed closely: the one algorithm behind the
 * page and the commands. It knows no DOM and draws nothing: it reads from a RunsSource, by the clock it is given, and tells
 * listeners that snapshot() has changed.
 *
 *     const live = createLive({ source: createProjectSource({ url, key, token }) })
 *     live.subscribe(() => render(live.snapshot()))
 *     live.start()
 *
 * It subscribes, then reads. Pushes are hints: they make it read on from its cursor (at once, then at most every 500 ms,
 * one read at a time), and a reconcile every 15 s (5 s without a feed) finds what no hint told. Errors back off; data that
 * was read stays.
 */
import { backoff, read_steps_ms } from '../backoff.ts'
import { RollcallError } from '../errors.ts'
import { type Clock, machine_clock, ServerClock } from './clock.ts'
import { type OpenRun, OpenRuns } from './open_runs.ts'
import { type LiveRow, Rows } from './rows.ts'
import type { RunRow, RunsCounts, RunsFilter, RunsPlace } from './run.ts'
import type { Catalog, RunsSource, TopicEvents } from './source.ts'
import { type LiveConnection, liveVerdict } from './verdict.ts'

export interface LiveOptions {
  source: RunsSource
  clock?: Clock
  /** For the jitter of back-offs. */
  random?: () => number
  filter?: RunsFilter
  /** Rows of a page; 50 if absent, at most 200. */
  page_size?: number
  /** Listeners are told at most this often (ms). */
  flush_ms?: number
  /** False: no list and no counts, only runs that are opened. */
  with_list?: boolean
  /** How long after a read the next one comes if nothing asks for one (ms): with a feed, and without. */
  reconcile_ms?: { hearing: number; deaf: number }
  /** For tests of the bound. */
  max_rows?: number
}

/** The parts that fail each by itself. */
export type LivePart = 'catalog' | 'counts' | 'list' | 'older' | 'changes'

export interface LiveSnapshot {
  filter: RunsFilter
  /** Newest first. The array and its rows are the same objects until they change. */
  rows: readonly LiveRow[]
  /** Older ones can be loaded. */
  has_more: boolean
  is_loading: 'first' | 'older' | null
  counts: RunsCounts | null
  catalog: Catalog | null
  connection: LiveConnection
  /** When the last reconcile succeeded, by the server's clock (ms); null before the first. */
  data_at: number | null
  /** When reading is tried again after failures, by the server's clock (ms). */
  retry_at: number | null
  /** Reads that failed in a row. */
  failures: number
  /** New rows that wait for showNew(). */
  new_count: number
  /** Changes held back while paused. */
  waiting: number
  paused_at: number | null
  is_following: boolean
  errors: Record<LivePart, RollcallError | null>
  open: ReadonlyMap<string, OpenRun>
}

export interface Live {
  start(): void
  /** Frees everything; it can be started again. */
  stop(): void
  setFilter(filter: RunsFilter): void
  loadOlder(): void
  /** Reads everything now, whatever the back-off; rows that no longer match go. */
  refresh(): void
  pause(): void
  resume(): void
  follow(on: boolean): void
  showNew(): void
  /** Somebody has focus, hover or a selection in the table, or has scrolled: following waits. */
  setBusy(busy: boolean): void
  /** The rows on screen: the open ones are read again at each reconcile. */
  setVisible(ids: readonly string[]): void
  /** While hidden nothing is asked; visible again, everything once. */
  setHidden(hidden: boolean): void
  setOnline(online: boolean): void
  /** There is a new token: everything goes on. */
  signedIn(): void
  /** Follows one run closely until the returned function is called: its topic, timeline and detail. */
  openRun(id: string): () => void
  subscribe(listener: () => void): () => void
  snapshot(): LiveSnapshot
  /** The server's time (ms): every age is reckoned from it. */
  now(): number
}

/** Deltas are read at most this often (ms). */
const SPACING_MS = 500
/** Counts are read at most this often where much happens (ms). */
const COUNTS_SPACING_MS = 2000
/** Events of one page of changes, and subjects that are read again at once. */
const PAGE = 100
/** Pages of changes that one read takes before what they name is shown. */
const PAGES = 10
/** A timer that is late by this much means that the machine slept (ms). */
const SLEEP_MS = 30_000
const BEAT_MS = 5000
/** Without changes the counts are read at every fourth reconcile: 8 requests a minute, all together. */
const QUIET_COUNTS = 4

/** Makes a list; nothing happens before start(). */
export function createLive(options: LiveOptions): Live {
  return new LiveRuns(options)
}

class LiveRuns implements Live {
  readonly #source: RunsSource
  readonly #clock: Clock
  readonly #server: ServerClock
  readonly #random: () => number
  readonly #page_size: number
  readonly #flush_ms: number
  readonly #with_list: boolean
  readonly #reconcile_ms: { hearing: number; deaf: number }
  readonly #rows: Rows
  readonly #open: OpenRuns
  readonly #listeners = new Set<() => void>()

  #over: AbortController | undefined
  #stop_listening: (() => void) | undefined
  #filter: RunsFilter
  #visible: readonly string[] | undefined
  #is_busy = false
  #is_following = false
  #is_hidden = false
  #is_online = true
  #signed_out = false
  #hears = false
  #paused_at: number | null = null
  /** Read while paused, and shown by resume(). */
  readonly #held = new Map<string, { row: RunRow; matches: boolean }>()

  #catalog: Catalog | null = null
  #counts: RunsCounts | null = null
  #next: RunsPlace | null = null
  #loading: 'first' | 'older' | null = null
  #errors = noErrors()
  #cursor: string | undefined
  #data_at: number | null = null
  #failures = 0
  #reachable = true

  /** The first page is wanted: at the start, for a new filter, and after a reset. */
  #list_is_due = true
  #counts_are_due = true
  #counts_at = Number.NEGATIVE_INFINITY
  #quiet_rounds = 0
  #list_read: AbortController | undefined

  #is_reading = false
  /** When a read is due because somebody hinted, and when one of everything that may have changed unseen. */
  #hinted_at = Number.POSITIVE_INFINITY
  #reconcile_at = Number.POSITIVE_INFINITY
  #not_before = 0
  #last_start = Number.NEGATIVE_INFINITY
  #cancel_read = nothing
  #cancel_beat = nothing
  #beat_at = 0

  #snapshot: LiveSnapshot | undefined
  #connection: LiveConnection = 'connecting'
  #cancel_flush: (() => void) | undefined
  #flushed_at = Number.NEGATIVE_INFINITY

  constructor({ source, clock = machine_clock, random = Math.random, filter = {}, ...more }: LiveOptions) {
    this.#source = source
    this.#clock = clock
    this.#server = new ServerClock(clock)
    this.#random = random
    this.#filter = filter
    this.#page_size = more.page_size ?? 50
    this.#flush_ms = more.flush_ms ?? 200
    this.#with_list = more.with_list ?? true
    this.#reconcile_ms = more.reconcile_ms ?? { hearing: 15_000, deaf: 5000 }
    this.#rows = new Rows(more.max_rows)
    this.#open = new OpenRuns(source, clock, this.#server, {
      changed: () => this.#changed(),
      row: (row) => this.#take(row, this.#rows.get(row.id)?.matches ?? true),
      answered: () => this.#answered(),
      failed: (error) => this.#noteFailure(error),
      notBefore: () => this.#not_before,
    })
  }

  // What callers do

  start(): void {
    if (this.#over) return
    this.#over = new AbortController()
    this.#list_is_due = this.#with_list
    this.#counts_are_due = this.#with_list
    this.#cursor = undefined
    this.#failures = 0
    this.#not_before = 0
    this.#signed_out = false
    this.#beat()
    if (this.#with_list) this.#stop_listening = this.#source.listen({ everything: true }, this.#topicEvents())
    this.#open.start(this.#over.signal)
    this.#reconcile()
  }

  stop(): void {
    this.#over?.abort()
    this.#over = undefined
    this.#list_read?.abort()
    this.#stop_listening?.()
    this.#stop_listening = undefined
    this.#open.stop()
    this.#cancel_read()
    this.#cancel_beat()
    this.#cancel_flush?.()
    this.#cancel_flush = undefined
    this.#hears = false
    this.#hinted_at = Number.POSITIVE_INFINITY
    this.#reconcile_at = Number.POSITIVE_INFINITY
  }

  setFilter(filter: RunsFilter): void {
    this.#filter = filter
    this.#list_read?.abort()
    this.#rows.clear()
    this.#held.clear()
    this.#next = null
    this.#loading = null
    this.#errors = { ...noErrors(), catalog: this.#errors.catalog }
    this.#counts = null
    this.#list_is_due = this.#with_list
    this.#counts_are_due = this.#with_list
    this.#counts_at = Number.NEGATIVE_INFINITY
    this.#not_before = 0
    this.#changed()
    this.#reconcile()
  }

  loadOlder(): void {
    if (this.#over && this.#next && this.#loading === null && !this.#signed_out) {
      void this.#readOlder(this.#over.signal, this.#next)
    }
  }

  refresh(): void {
    this.#rows.dropUnmatched()
    this.#counts_are_due = this.#with_list
    this.#counts_at = Number.NEGATIVE_INFINITY
    this.#not_before = 0
    this.#signed_out = false
    this.#changed()
    this.#reconcile()
    this.#open.refresh()
  }

  pause(): void {
    this.#paused_at ??= this.#server.now()
    this.#changed()
  }

  resume(): void {
    this.#paused_at = null
    const held = [...this.#held.values()]
    this.#held.clear()
    for (const { row, matches } of held) this.#take(row, matches)
    this.#changed()
  }

  follow(on: boolean): void {
    this.#is_following = on
    this.#applyNew()
    this.#changed()
  }

  showNew(): void {
    this.#next = this.#rows.showNew() ?? this.#next
    this.#changed()
  }

  setBusy(busy: boolean): void {
    this.#is_busy = busy
    if (!busy) this.#applyNew()
  }

  setVisible(ids: readonly string[]): void {
    this.#visible = ids
  }

  setHidden(hidden: boolean): void {
    if (hidden === this.#is_hidden) return
    this.#is_hidden = hidden
    this.#open.setHidden(hidden)
    if (hidden) this.#cancel_read()
    else this.#wakeUp()
  }

  setOnline(online: boolean): void {
    if (online === this.#is_online) return
    this.#is_online = online
    this.#reachable = online
    this.#changed()
    if (online) this.#wakeUp()
  }

  signedIn(): void {
    this.#signed_out = false
    this.#changed()
    this.#wakeUp()
    this.#open.refresh()
  }

  openRun(id: string): () => void {
    const close = this.#open.open(id, this.#rows.get(id))
    this.#changed()
    return close
  }

  subscribe(listener: () => void): () => void {
    const own = () => listener()
    this.#listeners.add(own)
    return () => this.#listeners.delete(own)
  }

  now(): number {
    return this.#server.now()
  }

  snapshot(): LiveSnapshot {
    this.#snapshot ??= {
      filter: this.#filter,
      rows: this.#rows.shown,
      has_more: this.#next !== null,
      is_loading: this.#loading,
      counts: this.#counts,
      catalog: this.#catalog,
      connection: this.#judge(),
      data_at: this.#data_at === null ? null : this.#data_at + this.#server.now() - this.#clock.now(),
      retry_at: this.#failures > 0 ? this.#not_before + this.#server.now() - this.#clock.now() : null,
      failures: this.#failures,
      new_count: this.#rows.new_count,
      waiting: this.#held.size,
      paused_at: this.#paused_at,
      is_following: this.#is_following,
      errors: this.#errors,
      open: this.#open.snapshot(),
    }
    return this.#snapshot
  }

  // When to read

  #topicEvents(): TopicEvents {
    return {
      hint: (hint) => {
        this.#hears = true
        if (hint.event_id === undefined && hint.subject_id !== undefined) {
          if (this.#paused_at === null && this.#rows.progress(hint.subject_id, hint)) this.#changed()
          return
        }
        this.#ask(this.#last_start + SPACING_MS)
      },
      ready: () => {
        this.#hears = true
        this.#changed()
        this.#ask(this.#last_start + SPACING_MS)
      },
      lost: () => {
        this.#hears = false
        this.#changed()
        this.#reconcile(this.#clock.now() + this.#reconcile_ms.deaf)
      },
    }
  }

  #reconcile(at = this.#clock.now()): void {
    if (at < this.#reconcile_at) this.#reconcile_at = at
    this.#schedule()
  }

  #wakeUp(): void {
    this.#not_before = 0
    this.#reconcile()
    this.#open.refresh()
  }

  #ask(at: number): void {
    if (at < this.#hinted_at) this.#hinted_at = at
    this.#schedule()
  }

  #schedule(): void {
    this.#cancel_read()
    if (!this.#over || this.#is_reading) return
    if (this.#is_hidden || this.#signed_out || !this.#is_online) return
    const at = Math.max(Math.min(this.#hinted_at, this.#reconcile_at), this.#not_before)
    if (!Number.isFinite(at)) return
    this.#cancel_read = this.#clock.after(Math.max(0, at - this.#clock.now()), () => void this.#read())
  }

  /** Finds out that the machine slept, and that data grew old. */
  #beat(): void {
    const now = this.#clock.now()
    if (this.#beat_at > 0 && now - this.#beat_at > BEAT_MS + SLEEP_MS) this.#wakeUp()
    this.#beat_at = now
    if (this.#judge() !== this.#connection) this.#changed()
    this.#cancel_beat = this.#clock.after(BEAT_MS, () => this.#beat())
  }

  // Reading

  async #read(): Promise<void> {
    const over = this.#over
    if (!over || this.#is_reading || this.#is_hidden) return
    this.#is_reading = true
    this.#last_start = this.#clock.now()
    const is_reconcile = this.#reconcile_at <= this.#last_start
    this.#hinted_at = Number.POSITIVE_INFINITY
    if (is_reconcile) this.#reconcile_at = Number.POSITIVE_INFINITY
    try {
      if (this.#catalog === null) void this.#readCatalog(over.signal)
      const has_more = this.#with_list && (await this.#readList(over.signal, is_reconcile))
      const has_asked = (is_reconcile && (await this.#open.reconcile())) || this.#with_list
      if (this.#over !== over) return
      if (has_asked) {
        this.#errors = { ...this.#errors, changes: null }
        this.#answered()
      }
      if (has_more) this.#hinted_at = this.#clock.now()
      const { hearing, deaf } = this.#reconcile_ms
      this.#reconcile_at = Math.min(
        this.#reconcile_at,
        this.#clock.now() + (this.#isHearing() ? hearing : deaf),
      )
    } catch (error) {
      if (this.#over !== over) return
      this.#errors = { ...this.#errors, changes: toError(error) }
      this.#noteFailure(error)
    } finally {
      this.#is_reading = false
      this.#schedule()
    }
  }

  /** Whether there is more to read at once. */
  async #readList(signal: AbortSignal, is_reconcile: boolean): Promise<boolean> {
    if (this.#cursor === undefined) this.#cursor = (await this.#source.changes(null, 0, signal)).next
    if (this.#list_is_due) await this.#readFirst(signal)
    const { subjects, has_more } = await this.#readChanges(signal)
    if (is_reconcile && !this.#countsTurn(subjects.size > 0)) {
      for (const id of this.#rows.open(this.#visible, PAGE)) subjects.add(id)
    }
    const ids = [...subjects]
    for (let from = 0; from < ids.length; from += PAGE) {
      await this.#readRows(ids.slice(from, from + PAGE), signal)
    }
    await this.#readCounts(signal)
    return has_more
  }

  /** At every fourth quiet reconcile the counts are read, and the rows are not. */
  #countsTurn(found: boolean): boolean {
    this.#quiet_rounds = found ? 0 : this.#quiet_rounds + 1
    if (this.#quiet_rounds < QUIET_COUNTS) return false
    this.#quiet_rounds = 0
    this.#counts_are_due = true
    return true
  }

  async #readChanges(signal: AbortSignal): Promise<{ subjects: Set<string>; has_more: boolean }> {
    const subjects = new Set<string>()
    for (let page = 0; ; page++) {
      const { events, next, has_more, reset } = await this.#source.changes(this.#cursor ?? null, PAGE, signal)
      this.#cursor = next
      for (const { subject_id } of events) subjects.add(subject_id)
      if (reset) {
        this.#list_is_due = true
        await this.#readFirst(signal)
        return { subjects: new Set(), has_more: false }
      }
      this.#open.hear(events.map(({ subject_id }) => subject_id))
      if (!has_more || page + 1 === PAGES) return { subjects, has_more }
    }
  }

  async #readRows(ids: string[], signal: AbortSignal): Promise<void> {
    const asked_at = this.#clock.now()
    const filter = this.#filter
    const { items, matches, as_of } = await this.#source.get(ids, filter, signal)
    this.#server.measure(as_of, asked_at)
    // Judged by a filter that is no more: the first page of the new one is on its way.
    if (filter !== this.#filter) return
    const matching = new Set(matches)
    for (const row of items) {
      const is_match = matching.has(row.id)
      if (this.#paused_at === null) this.#take(row, is_match)
      else this.#hold(row, is_match)
    }
  }

  /** The newest state of a run, into the list or beside it. */
  #take(row: RunRow, matches: boolean): void {
    const is_open = this.#open.take(row)
    const before = this.#rows.get(row.id)
    if (before) {
      if (this.#rows.update(row, matches)) {
        if (before.state !== row.state || before.stuck_rule !== row.stuck_rule) this.#counts_are_due = true
        this.#changed()
      }
      return
    }
    if (is_open) this.#changed()
    if (!this.#with_list || !matches || this.#list_is_due) return
    // Older than what was loaded: it comes with its page.
    if (this.#next !== null && !this.#rows.reaches(row)) return
    this.#rows.wait(row)
    this.#counts_are_due = true
    this.#applyNew()
    this.#changed()
  }

  #hold(row: RunRow, matches: boolean): void {
    const held = this.#held.get(row.id)
    const shown = this.#rows.get(row.id)
    if (!held && shown?.version === row.version && shown.updated_at === row.updated_at) return
    if (!held && !shown && !matches) return
    this.#held.set(row.id, { row, matches })
    this.#changed()
  }

  /** New rows come by themselves only where that moves nothing under anybody's hand. */
  #applyNew(): void {
    if (this.#rows.new_count === 0 || this.#paused_at !== null) return
    if (this.#rows.size === 0 || (this.#is_following && !this.#is_busy)) this.showNew()
  }

  async #readFirst(signal: AbortSignal): Promise<void> {
    this.#loading = 'first'
    this.#changed()
    const attempt = this.#newListRead(signal)
    const filter = this.#filter
    try {
      const asked_at = this.#clock.now()
      const page = await this.#source.list(filter, null, this.#page_size, attempt.signal)
      this.#server.measure(page.as_of, asked_at)
      if (filter !== this.#filter) return
      this.#rows.clear()
      this.#held.clear()
      this.#next = this.#rows.add(page.items) ?? page.next
      this.#list_is_due = false
      this.#errors = { ...this.#errors, list: null }
    } catch (error) {
      if (filter !== this.#filter) return
      if (signal.aborted) throw error
      this.#errors = { ...this.#errors, list: toError(error) }
      // What is wrong with the request itself stays wrong: the rest lives on.
      if (isRefusal(error)) this.#list_is_due = false
      else throw error
    } finally {
      if (filter === this.#filter) {
        this.#loading = null
        this.#changed()
      }
    }
  }

  async #readOlder(signal: AbortSignal, from: RunsPlace): Promise<void> {
    this.#loading = 'older'
    this.#changed()
    const attempt = this.#newListRead(signal)
    const filter = this.#filter
    let next: RunsPlace | null = from
    try {
      let found = 0
      // A rare filter makes short pages: a few of them are one.
      for (let page = 0; next !== null && page < 5 && found < this.#page_size; page++) {
        const answer = await this.#source.list(filter, next, this.#page_size, attempt.signal)
        if (filter !== this.#filter) return
        found += answer.items.length
        next = this.#rows.add(answer.items) ?? answer.next
        this.#next = next
        this.#changed()
      }
      this.#errors = { ...this.#errors, older: null }
    } catch (error) {
      if (filter !== this.#filter || signal.aborted) return
      this.#errors = { ...this.#errors, older: toError(error) }
      if (isUnauthorized(error)) this.#noteFailure(error)
    } finally {
      if (filter === this.#filter) {
        this.#loading = null
        this.#changed()
      }
    }
  }

  #newListRead(signal: AbortSignal): AbortController {
    this.#list_read?.abort()
    const attempt = new AbortController()
    this.#list_read = attempt
    if (signal.aborted) attempt.abort()
    signal.addEventListener('abort', () => attempt.abort(), { once: true, signal: attempt.signal })
    return attempt
  }

  async #readCounts(signal: AbortSignal): Promise<void> {
    const now = this.#clock.now()
    if (!this.#counts_are_due) return
    if (now - this.#counts_at < COUNTS_SPACING_MS) {
      this.#ask(this.#counts_at + COUNTS_SPACING_MS)
      return
    }
    this.#counts_at = now
    this.#counts_are_due = false
    const filter = this.#filter
    try {
      const counts = await this.#source.counts(filter, signal)
      this.#server.measure(counts.as_of, now)
      if (filter !== this.#filter) return
      this.#counts = counts
      this.#errors = { ...this.#errors, counts: null }
    } catch (error) {
      if (signal.aborted || isUnauthorized(error)) throw error
      this.#errors = { ...this.#errors, counts: toError(error) }
    }
    this.#changed()
  }

  async #readCatalog(signal: AbortSignal): Promise<void> {
    try {
      this.#catalog = await this.#source.catalog(signal)
      this.#errors = { ...this.#errors, catalog: null }
    } catch (error) {
      if (signal.aborted) return
      this.#errors = { ...this.#errors, catalog: toError(error) }
    }
    this.#changed()
  }

  // How it went

  #answered(): void {
    this.#failures = 0
    this.#not_before = 0
    this.#reachable = this.#is_online
    this.#data_at = this.#clock.now()
    this.#changed()
  }

  #noteFailure(error: unknown): void {
    this.#reachable = this.#is_online && !(error instanceof RollcallError && error.status === 0)
    if (isUnauthorized(error)) this.#signed_out = true
    this.#failures += 1
    const asked_ms = (error instanceof RollcallError ? Number(error.details?.retry_after_s) : 0) * 1000
    const wait_ms = Math.max(backoff(this.#failures, read_steps_ms, this.#random), asked_ms || 0)
    this.#not_before = this.#clock.now() + wait_ms
    this.#changed()
    this.#reconcile(this.#not_before)
  }

  #isHearing(): boolean {
    return this.#with_list ? this.#hears : this.#open.hears
  }

  #judge(): LiveConnection {
    return liveVerdict({
      is_paused: this.#paused_at !== null,
      signed_out: this.#signed_out,
      reachable: this.#reachable && this.#is_online,
      hears: this.#isHearing(),
      data_age_ms: this.#data_at === null ? null : this.#clock.now() - this.#data_at,
    })
  }

  // Telling

  #changed(): void {
    this.#snapshot = undefined
    this.#connection = this.#judge()
    if (this.#cancel_flush || !this.#over) return
    const wait_ms = Math.max(0, this.#flushed_at + this.#flush_ms - this.#clock.now())
    this.#cancel_flush = this.#clock.after(wait_ms, () => {
      this.#cancel_flush = undefined
      this.#flushed_at = this.#clock.now()
      for (const listener of this.#listeners) listener()
    })
  }
}

function nothing(): void {}

function noErrors(): Record<LivePart, RollcallError | null> {
  return { catalog: null, counts: null, list: null, older: null, changes: null }
}

function toError(error: unknown): RollcallError {
  if (error instanceof RollcallError) return error
  return new RollcallError({ status: 0, code: 'unreachable', message: String(error), cause: error })
}

function isUnauthorized(error: unknown): boolean {
  return error instanceof RollcallError && error.status === 401
}

/** The request itself is at fault: asking again would not help. */
function isRefusal(error: unknown): boolean {
  return error instanceof RollcallError && [400, 403, 404, 422].includes(error.status)
}
