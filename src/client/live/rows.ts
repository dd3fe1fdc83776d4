import { byPlace, merge, type Progress, withProgress } from './merge.ts'
import { hasEnded, type RunRow, type RunsPlace } from './run.ts'

/** A row as it is shown. Replaced by a new object when it changes, and only then. */
export interface LiveRow extends RunRow {
  /** False: the filter lets it through no more; it stays, dimmed, until the next refresh. */
  matches: boolean
}

/** At most so many rows are kept; the oldest go, and can be loaded again. */
export const MAX_ROWS = 10_000

/** The rows of a list: those that are shown, in order, and the new ones that wait for a click. */
export class Rows {
  readonly #max_rows: number
  readonly #rows = new Map<string, LiveRow>()
  readonly #waiting = new Map<string, LiveRow>()
  #order: string[] = []
  #shown: readonly LiveRow[] | undefined

  constructor(max_rows = MAX_ROWS) {
    this.#max_rows = max_rows
  }

  /** Newest first; the same array until something changed. */
  get shown(): readonly LiveRow[] {
    this.#shown ??= this.#order.map((id) => this.#rows.get(id) as LiveRow)
    return this.#shown
  }

  /** How many new ones wait. */
  get new_count(): number {
    return this.#waiting.size
  }

  get size(): number {
    return this.#order.length
  }

  get(id: string): LiveRow | undefined {
    return this.#rows.get(id) ?? this.#waiting.get(id)
  }

  clear(): void {
    this.#rows.clear()
    this.#waiting.clear()
    this.#order = []
    this.#shown = undefined
  }

  /** Keeps only rows that match. Answers whether any went. */
  dropUnmatched(): boolean {
    const before = this.#order.length
    for (const [id, row] of this.#rows) if (!row.matches) this.#rows.delete(id)
    this.#order = this.#order.filter((id) => this.#rows.has(id))
    if (this.#order.length !== before) this.#shown = undefined
    return this.#order.length !== before
  }

  /** Rows of a page that was asked for. Answers where to load on from if older rows had to go. */
  add(rows: readonly RunRow[]): RunsPlace | null {
    for (const row of rows) {
      this.#waiting.delete(row.id)
      this.#put(row, true)
    }
    return this.#trim()
  }

  /** The newest state of a row that is shown or waits. Answers whether that changed anything. */
  update(row: RunRow, matches: boolean): boolean {
    const waiting = this.#waiting.get(row.id)
    if (waiting) {
      if (matches) this.#waiting.set(row.id, patched(waiting, row, true))
      else this.#waiting.delete(row.id)
      return true
    }
    const held = this.#rows.get(row.id)
    if (!held) return false
    const next = patched(held, row, matches)
    if (next === held) return false
    this.#rows.set(row.id, next)
    this.#shown = undefined
    return true
  }

  /** A row that matches and is not in the list yet. */
  wait(row: RunRow): void {
    if (!this.#rows.has(row.id)) this.#waiting.set(row.id, { ...row, matches: true })
  }

  /** What waits comes into the list. Answers as `add` does. */
  showNew(): RunsPlace | null {
    const waiting = [...this.#waiting.values()]
    return this.add(waiting)
  }

  progress(id: string, progress: Progress): boolean {
    const held = this.#rows.get(id)
    if (!held) return false
    const next = withProgress(held, progress)
    if (next === held) return false
    this.#rows.set(id, next)
    this.#shown = undefined
    return true
  }

  /** The ids among these that have not ended, newest first; of all where none are named. */
  open(ids: Iterable<string> | undefined, max: number): string[] {
    const open: string[] = []
    for (const id of ids ?? this.#order) {
      const row = this.#rows.get(id)
      if (row && !hasEnded(row)) open.push(id)
      if (open.length === max) break
    }
    return open
  }

  /** Whether a place is within what was loaded: at or before the last row. */
  reaches(row: RunRow): boolean {
    const last = this.#rows.get(this.#order.at(-1) ?? '')
    return last !== undefined && byPlace(row, last) <= 0
  }

  #put(row: RunRow, matches: boolean): void {
    const held = this.#rows.get(row.id)
    this.#rows.set(row.id, held ? patched(held, row, matches) : { ...row, matches })
    this.#shown = undefined
    if (held) return
    const last = this.#rows.get(this.#order.at(-1) ?? '')
    if (last === undefined || byPlace(last, row) < 0) {
      this.#order.push(row.id)
      return
    }
    this.#order.splice(this.#placeOf(row), 0, row.id)
  }

  #placeOf(row: RunRow): number {
    let low = 0
    let high = this.#order.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (byPlace(this.#rows.get(this.#order[middle] as string) as LiveRow, row) < 0) low = middle + 1
      else high = middle
    }
    return low
  }

  #trim(): RunsPlace | null {
    if (this.#order.length <= this.#max_rows) return null
    for (const id of this.#order.splice(this.#max_rows)) this.#rows.delete(id)
    const last = this.#rows.get(this.#order.at(-1) as string) as LiveRow
    return { before_created: last.created_at, before_id: last.id }
  }
}

function patched(held: LiveRow, row: RunRow, matches: boolean): LiveRow {
  const merged = merge<RunRow>(held, row)
  if (merged === held && held.matches === matches) return held
  return { ...merged, matches }
}
