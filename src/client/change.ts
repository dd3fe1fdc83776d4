import type { BotStatus, MeetingStatus } from '../contract/bots.ts'
import type { Database } from '../database.types.ts'
import type { Hint } from './channel.ts'

/** One transition of one run, as the history has it. */
export interface Change<Machine extends string = string, Status extends string = string> {
  /** Grows along one run; says nothing about the order of different runs. */
  id: number
  machine: Machine
  /** The run: a bot's `bot_id` for the machines bot and meeting. */
  subject_id: string
  /** 1, 2, 3 ... per machine and run. */
  seq: number
  /** Null for the first of a machine. */
  from: Status | null
  to: Status
  source: Database['public']['Enums']['event_source']
  reason: string | null
  error_stage: string | null
  error_code: string | null
  error_message: string | null
  details: unknown
  /** A hop that nobody reported: a later callback walked it. */
  implied: boolean
  /** When the reporter says that it happened (ISO 8601). */
  occurred_at: string | null
  /** When it was written (ISO 8601). */
  at: string
}

/** A transition of a bot: of its work (`machine: 'bot'`) or of its presence in the meeting. */
export type BotChange = Change<'bot', BotStatus> | Change<'meeting', MeetingStatus>

/** A row of `status_events`, as far as it is read. */
export type HistoryRow = Omit<Change, 'from' | 'to' | 'at'> & {
  from_status: string | null
  to_status: string
  created_at: string
}

/** The columns that a change is made of. */
export const history_columns =
  'id,machine,subject_id,seq,from_status,to_status,source,reason,error_stage,error_code,error_message,details,implied,occurred_at,created_at'

/** A row of the history as readers see it. */
export function toChange(row: HistoryRow): Change {
  const { id, machine, subject_id, seq, from_status, to_status, source, reason, created_at, ...rest } = row
  const { error_stage, error_code, error_message, details, implied, occurred_at } = rest
  return {
    id,
    machine,
    subject_id,
    seq,
    from: from_status,
    to: to_status,
    source,
    reason,
    error_stage,
    error_code,
    error_message,
    details,
    implied,
    occurred_at,
    at: created_at,
  }
}

/** The row that a push tells of, where it tells all of it. */
export function rowOf(hint: Hint): HistoryRow | undefined {
  const { event_id, machine, subject_id, seq, to, at, source } = hint
  if (event_id === undefined || machine === undefined || subject_id === undefined || seq === undefined) return
  if (to === undefined || at === undefined || source == null) return
  return {
    id: event_id,
    machine,
    subject_id,
    seq,
    from_status: hint.from ?? null,
    to_status: to,
    source,
    reason: hint.reason ?? null,
    error_stage: hint.error_stage ?? null,
    error_code: hint.error_code ?? null,
    error_message: hint.error_message ?? null,
    details: null,
    implied: hint.implied ?? false,
    occurred_at: hint.occurred_at ?? null,
    created_at: at,
  }
}
