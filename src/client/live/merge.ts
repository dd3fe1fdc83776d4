import { hasEnded, type RunRow } from './run.ts'

/** How far an execution is, as its topic pushes it. */
export interface Progress {
  version?: number
  current_prompt_index?: number
  total_prompts?: number
}

/**
 * Which of two states of one run is shown: the newer one by version, then by updated_at; of two alike the one that was
 * read last. An ended run never goes back to one that has not ended. Answers `held` itself where nothing changes.
 */
export function merge<Row extends RunRow>(held: Row, read: Row): Row {
  if (hasEnded(held) && !hasEnded(read)) return held
  const becomes_ended = hasEnded(read) && !hasEnded(held)
  if (!becomes_ended) {
    if (read.version < held.version) return held
    if (read.version === held.version && read.updated_at < held.updated_at) return held
  }
  // Its progress may have been pushed since this was read.
  const is_behind = !hasEnded(read) && read.version === held.version && goneFurther(held, read)
  const merged = is_behind ? { ...read, progress_done: held.progress_done, progress_label: null } : read
  return isSame(held, merged) ? held : merged
}

/** A pushed progress patches the progress, forward only, and nothing else; never that of an ended run. */
export function withProgress<Row extends RunRow>(held: Row, progress: Progress): Row {
  const { version, current_prompt_index: done, total_prompts: total } = progress
  if (hasEnded(held) || typeof done !== 'number') return held
  if (typeof version === 'number' && version < held.version) return held
  if (held.progress_done !== null && done <= held.progress_done) return held
  // The label was that of the prompt before.
  return {
    ...held,
    progress_done: done,
    progress_total: total ?? held.progress_total,
    progress_label: null,
  }
}

/** Newest first: a negative number where `a` comes before `b`. */
export function byPlace(a: Pick<RunRow, 'created_at' | 'id'>, b: Pick<RunRow, 'created_at' | 'id'>): number {
  if (a.created_at !== b.created_at) return a.created_at < b.created_at ? 1 : -1
  if (a.id === b.id) return 0
  return a.id < b.id ? 1 : -1
}

function isSame(a: RunRow, b: RunRow): boolean {
  const keys = Object.keys(b) as (keyof RunRow)[]
  return keys.every((key) =>
    key === 'allowed_actions' ? a[key].join() === b[key].join() : Object.is(a[key], b[key]),
  )
}

function goneFurther(held: RunRow, read: RunRow): boolean {
  return held.progress_done !== null && read.progress_done !== null && held.progress_done > read.progress_done
}
