import type { SupabaseClient } from '@supabase/supabase-js'
import { type Change, type HistoryRow, rowOf, toChange } from './change.ts'
import type { Hint } from './channel.ts'
import type { RollcallError } from './errors.ts'
import { type ChangesPage, readChanges, readRuns } from './history.ts'
import { type Hub, hubOf, type Reader } from './hub.ts'

/** From so many runs on, one cursor over everything of the owner is cheaper than asking for each run. */
const MANY = 50

const PAGE = 500

/** One who follows one run. */
export class Follower {
  readonly subject_id: string
  readonly push: (change: Change) => void
  readonly fail: (error: RollcallError) => void
  /** Its run has no history, or none that the reader may see. Asked once. */
  readonly empty: () => void
  /** The last event that was pushed. */
  last_id: number
  /** Its run must be read by itself; until then what the cursor brings is not for it. */
  is_due = true
  #was_empty = false
  readonly #seqs = new Map<string, number>()

  constructor(subject_id: string, after: number, on: Pick<Follower, 'push' | 'fail' | 'empty'>) {
    this.subject_id = subject_id
    this.last_id = after
    this.push = on.push
    this.fail = on.fail
    this.empty = on.empty
  }

  /** Takes the next row of its run; answers whether it was new. */
  take(row: HistoryRow): boolean {
    if (row.id <= this.last_id) return false
    this.last_id = row.id
    this.#seqs.set(row.machine, row.seq)
    this.push(toChange(row))
    return true
  }

  /** Whether events between the last one and this row are missing. */
  hasGapBefore(row: HistoryRow): boolean {
    const seq = this.#seqs.get(row.machine)
    return row.id > this.last_id && seq !== undefined && row.seq !== seq + 1
  }

  /**
   * Whether this is exactly the next event of the run: the next of its machine, and the version says that no machine
   * of the run has another one between. Only once the run was read, so that all its events so far are known.
   */
  isNext(row: HistoryRow, version: number | undefined): boolean {
    if (this.is_due || this.last_id === 0 || row.id <= this.last_id) return false
    let known = 0
    for (const seq of this.#seqs.values()) known += seq
    return version === known + 1 && row.seq === (this.#seqs.get(row.machine) ?? 0) + 1
  }

  wasRead(): void {
    this.is_due = false
    if (this.last_id > 0 || this.#was_empty) return
    this.#was_empty = true
    this.empty()
  }
}

/**
 * Reads for everybody who follows runs of one owner. A few runs are read by (subject_id, id > last) in one request.
 * Many are read once like that, and then by one cursor over everything of the owner.
 */
export class Runs implements Reader {
  readonly #supabase: SupabaseClient
  readonly #owner_id: string | undefined
  readonly #hub: Hub
  readonly #followers = new Set<Follower>()
  readonly #by_subject = new Map<string, Set<Follower>>()
  #cursor: string | undefined
  #leave: (() => void) | undefined

  constructor(supabase: SupabaseClient, owner_id: string | undefined) {
    this.#supabase = supabase
    this.#owner_id = owner_id
    this.#hub = hubOf(supabase, owner_id)
  }

  get topic(): string | undefined {
    const [only] = this.#by_subject.keys()
    return this.#by_subject.size === 1 ? `bot:${only}` : undefined
  }

  /** Somebody follows a run from now on. Returns how to end that. */
  add(follower: Follower): () => void {
    this.#followers.add(follower)
    const same = this.#by_subject.get(follower.subject_id) ?? new Set()
    this.#by_subject.set(follower.subject_id, same.add(follower))
    if (this.#leave === undefined) this.#leave = this.#hub.add(this)
    else this.#hub.refresh()
    return () => this.#remove(follower)
  }

  async read(signal: AbortSignal, count: () => void): Promise<boolean> {
    const found_by_cursor = await this.#readOn(signal, count)
    const found = await this.#readDue(signal, count)
    return found_by_cursor || found
  }

  isBehind({ subject_id, event_id }: Hint): boolean {
    if (subject_id === undefined || event_id === undefined) return true
    for (const { last_id } of this.#by_subject.get(subject_id) ?? []) if (last_id < event_id) return true
    return false
  }

  hear(hint: Hint): boolean {
    const row = rowOf(hint)
    if (row === undefined) return false
    let heard = false
    for (const follower of [...(this.#by_subject.get(row.subject_id) ?? [])]) {
      if (follower.isNext(row, hint.version) && follower.take(row)) heard = true
    }
    return heard
  }

  fail(error: RollcallError): void {
    for (const follower of [...this.#followers]) follower.fail(error)
  }

  #remove(follower: Follower): void {
    this.#followers.delete(follower)
    const same = this.#by_subject.get(follower.subject_id)
    same?.delete(follower)
    if (same?.size === 0) this.#by_subject.delete(follower.subject_id)
    if (this.#followers.size > 0) return
    this.#cursor = undefined
    this.#leave?.()
    this.#leave = undefined
  }

  /** With many runs: what is new to any of them. With few: all of them are due. */
  async #readOn(signal: AbortSignal, count: () => void): Promise<boolean> {
    const is_many = this.#by_subject.size > (this.#cursor === undefined ? MANY : MANY / 2)
    if (!is_many) {
      this.#cursor = undefined
      this.#allDue()
      return false
    }
    if (this.#cursor === undefined) {
      this.#cursor = (await this.#changes(null, 0, signal, count)).next
      this.#allDue()
      return false
    }
    let found = false
    for (;;) {
      const { events, next, has_more, reset } = await this.#changes(this.#cursor, PAGE, signal, count)
      for (const row of events) if (this.#offer(row)) found = true
      this.#cursor = next
      if (reset) this.#allDue()
      if (!has_more) return found
    }
  }

  #offer(row: HistoryRow): boolean {
    let found = false
    for (const follower of [...(this.#by_subject.get(row.subject_id) ?? [])]) {
      if (follower.is_due) continue
      // Can not be, as long as cursors keep their promise; reading the run itself puts it right.
      if (follower.hasGapBefore(row)) follower.is_due = true
      else if (follower.take(row)) found = true
    }
    return found
  }

  async #readDue(signal: AbortSignal, count: () => void): Promise<boolean> {
    const due = new Map<string, { subject_id: string; after: number }>()
    for (const { subject_id, last_id, is_due } of this.#followers) {
      if (!is_due) continue
      due.set(subject_id, { subject_id, after: Math.min(last_id, due.get(subject_id)?.after ?? last_id) })
    }
    const asked = new Set(this.#followers)
    let found = false
    for await (const { read, rows } of readRuns(this.#supabase, [...due.values()], signal, count)) {
      for (const row of rows) {
        for (const follower of [...(this.#by_subject.get(row.subject_id) ?? [])]) {
          if (asked.has(follower) && follower.take(row)) found = true
        }
      }
      for (const { subject_id } of read) {
        for (const follower of [...(this.#by_subject.get(subject_id) ?? [])]) {
          if (asked.has(follower)) follower.wasRead()
        }
      }
    }
    return found
  }

  #allDue(): void {
    for (const follower of this.#followers) follower.is_due = true
  }

  #changes(after: string | null, rows: number, signal: AbortSignal, count: () => void): Promise<ChangesPage> {
    count()
    return readChanges(this.#supabase, after, rows, this.#owner_id, signal)
  }
}

const all = new WeakMap<SupabaseClient, Map<string | undefined, Runs>>()

/** The runs that are followed with a client for an owner. */
export function runsOf(supabase: SupabaseClient, owner_id: string | undefined): Runs {
  const own = all.get(supabase) ?? new Map<string | undefined, Runs>()
  all.set(supabase, own)
  const runs = own.get(owner_id) ?? new Runs(supabase, owner_id)
  own.set(owner_id, runs)
  return runs
}
