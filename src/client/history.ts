import type { SupabaseClient } from '@supabase/supabase-js'
import { type HistoryRow, history_columns } from './change.ts'
import { fromDatabase } from './errors.ts'

/** A run and the id of the last of its events that is known; 0 for none. */
export type ReadFrom = { subject_id: string; after: number }

/** Rows of one page; a project's API gives no more than this many by default. */
const PAGE = 1000

/** How long the filter of one request may be: well below what proxies take as a URL. */
const FILTER_CHARACTERS = 4000

/**
 * Reads on in the histories of runs, as many in one request as fit. One run is read by (subject_id, id > after), so
 * nothing of it can be missed. `count` hears of each request.
 * @throws RollcallError
 */
export async function* readRuns(
  supabase: SupabaseClient,
  runs: ReadFrom[],
  signal: AbortSignal,
  count: () => void,
): AsyncGenerator<{ read: ReadFrom[]; rows: HistoryRow[] }> {
  const left = [...runs]
  while (left.length > 0) {
    const { filter, taken } = filterFor(left)
    count()
    const answer = await supabase
      .from('status_events')
      .select(history_columns, { count: 'exact' })
      .or(filter)
      .order('subject_id')
      .order('id')
      .limit(PAGE)
      .retry(false)
      .abortSignal(signal)
    signal.throwIfAborted()
    if (answer.error) throw fromDatabase(answer.error, answer.status)
    const rows = answer.data as HistoryRow[]
    const batch = left.splice(0, taken)
    // A page that is cut holds the first runs whole and the last one as far as it got.
    const cut = rows.length > 0 && rows.length < (answer.count ?? 0) ? rows.at(-1) : undefined
    const read = cut ? batch.filter(({ subject_id }) => subject_id < cut.subject_id) : batch
    if (cut) {
      const rest = batch.filter(({ subject_id }) => subject_id >= cut.subject_id)
      left.unshift(
        ...rest.map((run) => (run.subject_id === cut.subject_id ? { ...run, after: cut.id } : run)),
      )
    }
    yield { read, rows }
  }
}

function filterFor(runs: ReadFrom[]): { filter: string; taken: number } {
  const fresh: string[] = []
  const known: string[] = []
  let length = 0
  let taken = 0
  for (const { subject_id, after } of runs) {
    const part = after === 0 ? subject_id : `and(subject_id.eq.${subject_id},id.gt.${after})`
    length += part.length + 1
    if (taken > 0 && length > FILTER_CHARACTERS) break
    taken += 1
    if (after === 0) fresh.push(part)
    else known.push(part)
  }
  if (fresh.length > 0) known.push(`subject_id.in.(${fresh.join(',')})`)
  return { filter: known.join(','), taken }
}

/** A page of `status_changes()`. */
export type ChangesPage = {
  events: (HistoryRow & { cursor: string })[]
  next: string
  has_more: boolean
  /** The cursor is older than the history that is kept, or from another database. */
  reset: boolean
}

/**
 * Reads on behind a cursor in everything of an owner; null for from the beginning, max_rows 0 for a cursor alone.
 * @throws RollcallError
 */
export async function readChanges(
  supabase: SupabaseClient,
  after: string | null,
  max_rows: number,
  owner_id: string | undefined,
  signal: AbortSignal,
): Promise<ChangesPage> {
  const { data, error, status } = await supabase
    .rpc('status_changes', { max_rows, ...(after !== null && { after }), ...(owner_id && { owner_id }) })
    .retry(false)
    .abortSignal(signal)
  signal.throwIfAborted()
  if (error) throw fromDatabase(error, status)
  return data as ChangesPage
}
