import { z } from 'zod'
import { Bot, Utterance } from './bots.ts'

/** What a bot can say of itself, in the words of the database. `exited`: only its exit code tells how it ended. */
export type ReportedStatus =
  | 'joining'
  | 'awaiting_admission'
  | 'active'
  | 'completed'
  | 'failed'
  | 'exited'
  | 'heartbeat'
  | 'transcript'

/** The words of the wire, some of them synonyms. */
const STATUSES = {
  starting: 'joining',
  joining: 'joining',
  awaiting_admission: 'awaiting_admission',
  running: 'active',
  active: 'active',
  completed: 'completed',
  failed: 'failed',
  heartbeat: 'heartbeat',
} as const satisfies Record<string, ReportedStatus>

const Status = z.enum(Object.keys(STATUSES) as (keyof typeof STATUSES)[])

/** The sub-paths of callback that say a status, and the statuses they allow. `` is callback itself. */
const PATHS: Record<string, readonly ReportedStatus[]> = {
  '': ['joining', 'awaiting_admission', 'active', 'completed', 'failed', 'heartbeat'],
  status_change: ['joining', 'awaiting_admission', 'active', 'completed', 'failed', 'heartbeat'],
  joining: ['joining'],
  awaiting_admission: ['awaiting_admission'],
  started: ['active'],
  exited: ['completed', 'failed'],
  heartbeat: ['heartbeat'],
  transcript: ['transcript'],
}

const Word = z.string().min(1).max(255)
const int = z.int().min(-2_147_483_648).max(2_147_483_647)

/** A text that must not get lost because it is long: what exceeds the limit is cut off. */
const cut = (max: number) =>
  z
    .string()
    .min(1)
    .transform((text) => (text.length <= max ? text : text.slice(0, max).toWellFormed()))

const Timestamp = z.iso.datetime({ offset: true }).transform((text, context) => {
  const date = new Date(text)
  if (date.getUTCFullYear() >= 1970 && date.getUTCFullYear() <= 9999) return date.toISOString()
  context.issues.push({ code: 'custom', message: 'The time must be between 1970 and 9999.', input: text })
  return z.NEVER
})

const Body = z.object({
  bot_id: z.guid().optional(),
  /** The same as `bot_id`. */
  connection_id: z.guid().optional(),
  status: z.union([Status, z.literal('transcript')]).optional(),
  /** A report sent twice with the same event_id counts once. */
  event_id: Word.optional(),
  container_id: Word.optional(),
  reason: cut(4096).optional(),
  completion_reason: cut(4096).optional(),
  exit_code: int.optional(),
  error_code: Word.optional(),
  error_message: cut(16_384).optional(),
  error_details: z.record(z.string(), z.unknown()).optional(),
  failure_stage: Word.optional(),
  participant_count: int.min(0).optional(),
  transcript: z.array(Utterance).optional(),
  bot_logs: z.string().optional(),
  /** When it happened by the bot's clock. */
  timestamp: Timestamp.optional(),
})

const TranscriptBody = Body.extend({
  utterances: z.array(Utterance),
  /** Which part of the transcript this is; a part sent twice counts once. */
  chunk: int.min(0),
})

/** What a bot may send to callback. Unknown fields are dropped. */
export type CallbackInput = z.input<typeof Body> | z.input<typeof TranscriptBody>

/**
 * The body of `POST /functions/v1/callback[/<path>]`: its output has one name for each thing and always a status.
 * Null if there is no such path.
 */
export function callbackRequest(path: string) {
  const allowed = Object.hasOwn(PATHS, path) ? PATHS[path] : undefined
  if (allowed === undefined) return null
  const body: z.ZodType<z.output<typeof Body> & { utterances?: Utterance[]; chunk?: number }> =
    path === 'transcript' ? TranscriptBody : Body
  return body.transform((input, context) => {
    const { connection_id, timestamp, ...rest } = input
    const refuse = (field: string, message: string) => {
      context.issues.push({ code: 'custom', path: [field], message, input })
      return z.NEVER
    }
    const bot_id = input.bot_id ?? connection_id
    if (bot_id === undefined) return refuse('bot_id', 'Say which bot reports: bot_id.')
    if (bot_id.toLowerCase() !== (connection_id ?? bot_id).toLowerCase()) {
      return refuse('connection_id', 'connection_id is another name of bot_id: they must be equal.')
    }
    const said =
      input.status === undefined || input.status === 'transcript' ? input.status : STATUSES[input.status]
    const wrong = () =>
      refuse(
        'status',
        `The status disagrees with the ${path === 'exited' ? 'path or the exit code' : 'path'}.`,
      )
    if (said !== undefined && !allowed.includes(said)) return wrong()
    const order = { ...rest, bot_id, occurred_at: timestamp }
    if (path === 'exited' && input.exit_code !== undefined) {
      if (said === undefined) return { ...order, status: 'exited' as ReportedStatus }
      if (said !== (input.exit_code === 0 ? 'completed' : 'failed')) return wrong()
    }
    const status: ReportedStatus | undefined = said ?? (allowed.length === 1 ? allowed[0] : undefined)
    if (status !== undefined) return { ...order, status }
    return path === 'exited'
      ? refuse('exit_code', 'Say how the bot ended: exit_code.')
      : refuse('status', `Say what the bot does: ${Object.keys(STATUSES).join(', ')}.`)
  })
}

/** One report of a bot, as the database takes it. */
export type CallbackReport = z.output<NonNullable<ReturnType<typeof callbackRequest>>>

/** The 200 of callback: where the bot stands, not its settings and results. `command` tells it what to do next. */
export const CallbackResponse = Bot.pick({
  workflow_thread_id: true,
  bot_id: true,
  status: true,
  bot_status: true,
  bot_status_updated_at: true,
  bot_started_at: true,
  bot_completed_at: true,
  error: true,
  meeting_status: true,
  joined_at: true,
  left_at: true,
  completion_reason: true,
  failure_stage: true,
  container_id: true,
  container_status: true,
  participant_count: true,
  version: true,
}).extend({
  result: z.enum(['processed', 'unchanged', 'ignored', 'container_updated']),
  command: z.literal('leave').optional(),
})
export type CallbackResponse = z.infer<typeof CallbackResponse>
