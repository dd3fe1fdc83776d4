import { RollcallError } from '../errors.ts'
import type { Clock, ServerClock } from './clock.ts'
import { merge, withProgress } from './merge.ts'
import { hasEnded, type RunRow, type Timeline } from './run.ts'
import type { RunDetail, RunsSource, Topic } from './source.ts'

/** A run that is followed closely. */
export interface OpenRun {
  id: string
  row: RunRow | null
  timeline: Timeline | null
  /** What GET of the run answers. */
  detail: RunDetail | null
  /** 404: there is no such run, or it is somebody else's. What was read before stays. */
  error: RollcallError | null
  is_loading: boolean
}

export interface OpenRunsEvents {
  changed(): void
  /** A row was read. */
  row(row: RunRow): void
  answered(): void
  failed(error: unknown): void
  /** After failures: nothing is read before this (ms, same clock). */
  notBefore(): number
}

/** One run is read at most this often (ms). */
const SPACING_MS = 500

type Entry = {
  run: OpenRun
  users: number
  is_reading: boolean
  /** Something is known to have changed since the last read. */
  is_due: boolean
  read_at: number
  hears: boolean
  cancel: () => void
  /** Ends hearing its topic; undefined before its kind is known. */
  stop: (() => void) | undefined
}

/** The runs that are followed closely, each read when its topic rings, and by every reconcile until it has ended. */
export class OpenRuns {
  readonly #source: RunsSource
  readonly #clock: Clock
  readonly #server: ServerClock
  readonly #on: OpenRunsEvents
  readonly #entries = new Map<string, Entry>()
  #signal: AbortSignal | undefined
  #is_hidden = false
  #snapshot: ReadonlyMap<string, OpenRun> | undefined

  constructor(source: RunsSource, clock: Clock, server: ServerClock, on: OpenRunsEvents) {
    this.#source = source
    this.#clock = clock
    this.#server = server
    this.#on = on
  }

  /** Some topic of theirs is being heard. */
  get hears(): boolean {
    for (const { hears } of this.#entries.values()) if (hears) return true
    return false
  }

  start(signal: AbortSignal): void {
    this.#signal = signal
    for (const entry of this.#entries.values()) {
      entry.is_due = true
      this.#listen(entry)
    }
  }

  stop(): void {
    this.#signal = undefined
    for (const entry of this.#entries.values()) this.#deafen(entry)
  }

  setHidden(hidden: boolean): void {
    this.#is_hidden = hidden
  }

  open(id: string, row: RunRow | undefined): () => void {
    let entry = this.#entries.get(id)
    if (!entry) {
      const run = { id, row: row ?? null, timeline: null, detail: null, error: null, is_loading: true }
      entry = {
        run,
        users: 0,
        is_reading: false,
        is_due: true,
        read_at: 0,
        hears: false,
        cancel() {},
        stop: undefined,
      }
      this.#entries.set(id, entry)
      this.#snapshot = undefined
      this.#listen(entry)
      this.#ask(entry)
    }
    entry.users += 1
    let is_open = true
    return () => {
      if (!is_open) return
      is_open = false
      entry.users -= 1
      if (entry.users > 0) return
      this.#deafen(entry)
      this.#entries.delete(id)
      this.#snapshot = undefined
      this.#on.changed()
    }
  }

  snapshot(): ReadonlyMap<string, OpenRun> {
    this.#snapshot ??= new Map(Array.from(this.#entries, ([id, { run }]) => [id, run]))
    return this.#snapshot
  }

  /** Reads all of them anew. */
  refresh(): void {
    for (const entry of this.#entries.values()) {
      entry.is_due = true
      this.#ask(entry)
    }
  }

  /** The history has something new of these subjects. */
  hear(subject_ids: readonly string[]): void {
    if (this.#entries.size === 0) return
    for (const id of subject_ids) {
      const entry = this.#entries.get(id)
      if (!entry) continue
      entry.is_due = true
      this.#ask(entry)
    }
  }

  /** A row was read elsewhere. Answers whether it is of one of these. */
  take(row: RunRow): boolean {
    const entry = this.#entries.get(row.id)
    if (!entry) return false
    this.#takeRow(entry, row)
    return true
  }

  /**
   * Reads what has not ended, in one request, and in full where that shows a change. Answers whether there was anything
   * to ask for.
   * @throws what the source throws.
   */
  async reconcile(): Promise<boolean> {
    const signal = this.#signal
    if (!signal) return false
    const due = [...this.#entries.values()].filter(
      ({ run, is_due, is_reading }) =>
        !is_reading && run.error?.status !== 404 && (is_due || run.row === null || !hasEnded(run.row)),
    )
    for (let from = 0; from < due.length; from += 100) {
      const some = due.slice(from, from + 100)
      const before = new Map(some.map(({ run }) => [run.id, run.row]))
      await this.#readRows(some, signal)
      for (const entry of some) {
        const { row } = entry.run
        const was = before.get(entry.run.id)
        const is_news = row?.version !== was?.version || row?.updated_at !== was?.updated_at
        if (row && (entry.is_due || is_news || entry.run.timeline === null))
          await this.#readRest(entry, row, signal)
      }
    }
    return due.length > 0
  }

  #listen(entry: Entry): void {
    const { row, id } = entry.run
    if (entry.stop || !this.#signal || !row) return
    const topic: Topic | undefined =
      row.kind !== 'handler'
        ? { kind: row.kind, id }
        : row.workflow_id
          ? { kind: 'workflow', id: row.workflow_id }
          : undefined
    if (!topic) return
    entry.stop = this.#source.listen(topic, {
      hint: (hint) => {
        entry.hears = true
        if (hint.event_id === undefined && hint.subject_id === id && entry.run.row) {
          this.#set(entry, { row: withProgress(entry.run.row, hint) })
        }
        entry.is_due = true
        this.#ask(entry)
      },
      ready: () => {
        entry.hears = true
        entry.is_due = true
        this.#on.changed()
        this.#ask(entry)
      },
      lost: () => {
        entry.hears = false
        this.#on.changed()
      },
    })
  }

  #deafen(entry: Entry): void {
    entry.cancel()
    entry.stop?.()
    entry.stop = undefined
    entry.hears = false
  }

  #ask(entry: Entry): void {
    if (!this.#signal || this.#is_hidden || entry.is_reading) return
    entry.cancel()
    const at = Math.max(entry.read_at + SPACING_MS, this.#on.notBefore())
    const wait_ms = Math.max(0, at - this.#clock.now())
    entry.cancel = this.#clock.after(wait_ms, () => void this.#read(entry))
  }

  async #read(entry: Entry): Promise<void> {
    const signal = this.#signal
    if (!signal || entry.is_reading) return
    entry.is_reading = true
    entry.read_at = this.#clock.now()
    entry.is_due = false
    let has_failed = false
    try {
      await this.#readRows([entry], signal)
      if (entry.run.row) await this.#readRest(entry, entry.run.row, signal)
      if (!signal.aborted) this.#on.answered()
    } catch (error) {
      has_failed = true
      entry.is_due = true
      if (!signal.aborted) this.#on.failed(error)
    } finally {
      entry.is_reading = false
      if (entry.is_due && !has_failed && this.#entries.has(entry.run.id)) this.#ask(entry)
    }
  }

  async #readRows(entries: Entry[], signal: AbortSignal): Promise<void> {
    const asked_at = this.#clock.now()
    const ids = entries.map(({ run }) => run.id)
    const { items, as_of } = await this.#source.get(ids, {}, signal)
    this.#server.measure(as_of, asked_at)
    const rows = new Map(items.map((row) => [row.id, row]))
    for (const entry of entries) {
      const row = rows.get(entry.run.id)
      if (row) this.#takeRow(entry, row)
      else this.#set(entry, { error: noRun(entry.run.id), is_loading: false })
    }
    for (const row of items) this.#on.row(row)
  }

  async #readRest(entry: Entry, row: RunRow, signal: AbortSignal): Promise<void> {
    entry.is_due = false
    try {
      const [timeline, detail] = await Promise.all([
        this.#source.timeline(row.id, signal),
        this.#source.detail(row, signal),
      ])
      this.#set(entry, { timeline, detail, error: null, is_loading: false })
    } catch (error) {
      if (signal.aborted) return
      entry.is_due = true
      const known = error instanceof RollcallError ? error : undefined
      this.#set(entry, { ...(known && { error: known }), is_loading: false })
      // Of this run alone: it was purged just now, say. The rest of the reads goes on.
      if (known && [403, 404, 422].includes(known.status)) entry.is_due = false
      else throw error
    }
  }

  #takeRow(entry: Entry, row: RunRow): void {
    const merged = entry.run.row ? merge(entry.run.row, row) : row
    if (merged !== entry.run.row) this.#set(entry, { row: merged })
    this.#listen(entry)
  }

  #set(entry: Entry, change: Partial<OpenRun>): void {
    entry.run = { ...entry.run, ...change }
    this.#snapshot = undefined
    this.#on.changed()
  }
}

function noRun(id: string): RollcallError {
  return new RollcallError({
    status: 404,
    code: 'run_not_found',
    message: `There is no run ${id}.`,
    hint: 'It may have been purged, or it belongs to somebody else.',
  })
}
