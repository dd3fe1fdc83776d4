import { z } from 'zod'
import { RunError } from './errors.ts'
import { Platform } from './meeting.ts'

/** Did the work get done? */
export const BotStatus = z.enum(['pending', 'starting', 'running', 'completed', 'failed'])
export type BotStatus = z.infer<typeof BotStatus>

/** Is the bot in the room? */
export const MeetingStatus = z.enum([
  'requested',
  'joining',
  'awaiting_admission',
  'active',
  'stopping',
  'completed',
  'failed',
])
export type MeetingStatus = z.infer<typeof MeetingStatus>

/** Is the process alive? */
export const ContainerStatus = z.enum(['Requested', 'Starting', 'Up', 'Stopping', 'Exited', 'Failed'])
export type ContainerStatus = z.infer<typeof ContainerStatus>

export const CompletionReason = z.enum([
  'stopped',
  'validation_error',
  'awaiting_admission_timeout',
  'awaiting_admission_rejected',
  'left_alone',
  'evicted',
  'meeting_ended',
  'max_duration_exceeded',
  'other',
])
export type CompletionReason = z.infer<typeof CompletionReason>

/** What somebody said. Times are ISO 8601; whoever does not know the speaker or a time says null. */
export const Utterance = z.object({
  speaker: z.string().max(255).nullable().default(null),
  text: z.string(),
  started_at: z.iso.datetime({ offset: true }).nullable().default(null),
  ended_at: z.iso.datetime({ offset: true }).nullable().default(null),
})
export type Utterance = z.output<typeof Utterance>

/** A question that was asked in the meeting; without an answer if nobody gave one. */
export const QaPair = z.object({
  question: z.string(),
  answer: z.string().nullable(),
  asked_by: z.string().nullable(),
  answered_by: z.string().nullable(),
  at: z.string().nullable(),
})
export type QaPair = z.infer<typeof QaPair>

export const Insights = z.object({
  summary: z.string(),
  topics: z.array(z.string()),
  action_items: z.array(z.string()),
  sentiment: z.string().optional(),
})
export type Insights = z.infer<typeof Insights>

const Time = z.string()

/** One transition of a bot or its meeting, as `?include=events` lists them. */
export const BotEvent = z.looseObject({
  id: z.number(),
  machine: z.string(),
  seq: z.number(),
  from_status: z.string().nullable(),
  to_status: z.string(),
  source: z.string(),
  implied: z.boolean(),
  created_at: Time,
})
export type BotEvent = z.infer<typeof BotEvent>

/** A bot as every answer shows it: the columns of its row but the transcript, and what is computed from them. */
export const Bot = z.looseObject({
  workflow_thread_id: z.string(),
  bot_id: z.string(),
  owner_id: z.string().nullable(),
  retry_of: z.string().nullable(),
  status: BotStatus,
  bot_status: BotStatus,
  bot_status_updated_at: Time.nullable(),
  bot_started_at: Time.nullable(),
  bot_completed_at: Time.nullable(),
  meeting_status: MeetingStatus,
  meeting_status_updated_at: Time.nullable(),
  joined_at: Time.nullable(),
  left_at: Time.nullable(),
  completion_reason: CompletionReason.nullable(),
  failure_stage: z.enum(['requested', 'joining', 'awaiting_admission', 'active']).nullable(),
  container_id: z.string().nullable(),
  container_status: ContainerStatus.nullable(),
  platform: Platform.nullable(),
  native_meeting_id: z.string().nullable(),
  meeting_url: z.string().nullable(),
  room_url: z.string().nullable(),
  bot_name: z.string().nullable(),
  bot_config: z.record(z.string(), z.unknown()).nullable(),
  process_insights: z.boolean().nullable(),
  webhook_url: z.string().nullable(),
  metadata: z.record(z.string(), z.unknown()).nullable(),
  launched: z.boolean().nullable(),
  stop_requested_at: Time.nullable(),
  stop_reason: z.string().nullable(),
  last_heartbeat_at: Time.nullable(),
  participant_count: z.number().nullable(),
  deadline_at: Time.nullable(),
  version: z.number(),
  qa_pairs: z.array(QaPair).nullable(),
  insights: z.unknown(),
  created_at: Time,
  updated_at: Time,
  topic: z.string(),
  error: RunError.nullable(),
  out_of_sync: z.boolean(),
  allowed_actions: z.array(z.enum(['stop', 'retry'])),
  events: z.array(BotEvent).optional(),
  transcript: z.array(Utterance).nullable().optional(),
})
export type Bot = z.infer<typeof Bot>
