import type { HistoryRow } from '../change.ts'

/** What is listed: bots, handler runs, workflows and executions of flows. */
export type RunKind = 'bot' | 'handler' | 'workflow' | 'flow'

/** The kinds in the order in which they are shown. */
export const run_kinds = ['bot', 'handler', 'workflow', 'flow'] as const satisfies readonly RunKind[]

/** One run as lists show it. Times are ISO 8601 in UTC, by the server's clock. */
export interface RunRow {
  id: string
  kind: RunKind
  name: string
  /** The exact word: bot_status, status of the handler run or execution, derived state of the workflow. */
  state: string
  /** Of bots. */
  meeting_status: string | null
  container_status: string | null
  /** Why it ended or waits, beside the error: completion_reason and the like. */
  reason: string | null
  state_since: string
  /** Grows with each transition. */
  version: number
  /** Microseconds, and of one width: compares as text. */
  updated_at: string
  /** Likewise; with the id the place in every list. */
  created_at: string
  started_at: string | null
  /** Set if and only if the run has ended. */
  finished_at: string | null
  error_stage: string | null
  error_code: string | null
  error_message: string | null
  progress_done: number | null
  /** Null: unknown, or nothing to count. */
  progress_total: number | null
  progress_label: string | null
  attempt: number
  last_heartbeat_at: string | null
  deadline_at: string | null
  stop_requested_at: string | null
  retry_of: string | null
  /** The name of the rule by which it is stuck; its words are in `stuck_rules` of the counts. */
  stuck_rule: string | null
  /** Of handler runs. */
  workflow_id: string | null
  session_id: string | null
  /** What the caller may do now, by the server's word: stop, cancel, retry, pause, resume ... */
  allowed_actions: readonly string[]
}

/** A row as it is sent: without what is null. */
export type SentRow = Pick<RunRow, 'id' | 'kind' | 'name' | 'state' | 'state_since' | 'version'> &
  Pick<RunRow, 'updated_at' | 'created_at' | 'attempt' | 'allowed_actions'> &
  Partial<RunRow>

/** Which runs. Absent parts do not narrow; unknown words are refused (422) with the words there are. */
export interface RunsFilter {
  kind?: RunKind | readonly RunKind[]
  /** Exact states of any kind. */
  state?: string | readonly string[]
  stuck?: boolean
  code?: string
  stage?: string
  /** Created at or after this, and before that (ISO 8601). */
  since?: string
  until?: string
  /** Ended at or after this (ISO 8601). */
  ended_since?: string
  /** An id or at least 6 of its first or last characters, the beginning of a name, or an error code. */
  search?: string
  /** Of this owner alone: for operators and secret keys. */
  owner_id?: string
}

/** The place behind a row, from which a list goes on. */
export interface RunsPlace {
  before_created: string
  before_id: string
}

export interface RunsPage {
  items: RunRow[]
  /** Null at the end. A page may be short, or empty, and still have a next: the filter was rare in what was read. */
  next: RunsPlace | null
  /** The server's clock (ISO 8601). */
  as_of: string
}

export interface RunsCount {
  kind: RunKind
  state: string
  n: number
  /** False: there are more, `n` is where counting ended. */
  exact: boolean
}

export interface RunsCounts {
  /** Of every kind and state there is; 0 where there are none. `state` and `stuck` of the filter do not narrow them. */
  counts: RunsCount[]
  stuck: { n: number; exact: boolean }
  failed_last_hour: { n: number; exact: boolean }
  /** Every rule there is, in words. */
  stuck_rules: { rule: string; kind: RunKind; words: string }[]
  /** All of the numbers are exact. */
  exact: boolean
  as_of: string
}

/** One transition of a run, with what the server made of it. */
export interface Transition extends Omit<HistoryRow, 'created_at'> {
  created_at: string
  /** How long the run was in the state that this transition began (ms); null while it still is. */
  duration_ms: number | null
  /** How long others were in that state lately; null where too few were. */
  p50_ms: number | null
  p95_ms: number | null
}

/** An attempt that was refused. */
export interface Rejection {
  id: number
  machine: string
  from_status: string
  to_status: string
  source: string
  code: string
  created_at: string
}

export interface Timeline {
  id: string
  kind: RunKind
  /** In order; at most the newest 200, all machines of the run. */
  transitions: Transition[]
  /** Transitions before those. */
  omitted: number
  rejections: Rejection[]
  /** The run that this one repeats, and the newest that repeats this one. */
  retry_of: string | null
  retried_by: string | null
  as_of: string
}

export interface StateTiming {
  state: string
  n: number
  p50_ms: number | null
  p90_ms: number | null
  p95_ms: number | null
  p99_ms: number | null
  max_ms: number | null
  /** In the state now, which the numbers before leave out. */
  open_n: number
  oldest_open_at: string | null
}

export interface Timing {
  machine: string
  since: string
  until: string
  states: StateTiming[]
  /** False: only the newest transitions of the window were read. */
  exact: boolean
  as_of: string
}

export interface FailureCount {
  kind: RunKind
  stage: string | null
  code: string
  n: number
  last_at: string
}

export interface Failures {
  failures: FailureCount[]
  exact: boolean
  as_of: string
}

/** A row with everything that was left out as null. */
export function toRunRow(sent: SentRow): RunRow {
  return { ...nothing, ...sent }
}

/** Whether a run has ended for good. Workflows never do. */
export function hasEnded(row: Pick<RunRow, 'finished_at'>): boolean {
  return row.finished_at !== null
}

const nothing = {
  meeting_status: null,
  container_status: null,
  reason: null,
  started_at: null,
  finished_at: null,
  error_stage: null,
  error_code: null,
  error_message: null,
  progress_done: null,
  progress_total: null,
  progress_label: null,
  last_heartbeat_at: null,
  deadline_at: null,
  stop_requested_at: null,
  retry_of: null,
  stuck_rule: null,
  workflow_id: null,
  session_id: null,
}
