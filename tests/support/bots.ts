import { createHash, randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { rpc } from './rpc.ts'

export type Answer = {
  ok: boolean
  changed: boolean
  result: string
  code?: string
  command?: string
  bot_id: string
  workflow_thread_id: string
  launch_token: string | null
  bot_status: string
  meeting_status: string
  error: null | {
    stage: string
    code: string
    message: string
    details: Record<string, unknown> | null
    attribution: string | null
    retryable: boolean | null
    meaning: string | null
  }
  [column: string]: unknown
}

export type TestBot = {
  bot_id: string
  workflow_thread_id: string
  owner_id: string
  launch_token: string | null
}

const token_hash = createHash('sha256').update('token').digest('hex')

/** Asks for a bot of a new owner in a new meeting, unless told otherwise. */
export async function requestBot(sql: postgres.Sql, more: Record<string, unknown> = {}): Promise<TestBot> {
  const owner_id = (more.owner_id as string) ?? randomUUID()
  const answer = await rpc<Answer>(sql, 'request_bot', {
    owner_id,
    token_hash,
    platform: 'room',
    native_meeting_id: `room-${randomUUID().slice(0, 8)}`,
    meeting_url: 'http://127.0.0.1:54321/room/x',
    ...more,
  })
  if (!answer.ok) throw new Error(`request_bot answered ${answer.code}`)
  return {
    bot_id: answer.bot_id,
    workflow_thread_id: answer.workflow_thread_id,
    owner_id,
    launch_token: answer.launch_token,
  }
}

/** A callback of the bot, with its right token. */
export function report(
  sql: postgres.Sql,
  bot: TestBot,
  status: string,
  more: Record<string, unknown> = {},
): Promise<Answer> {
  return rpc<Answer>(sql, 'report_bot', { bot_id: bot.bot_id, token_hash, status, ...more })
}

/** Utterances enough for a result to be made of. */
export const transcript = [
  { speaker: 'Ada', text: 'Who takes the notes?', started_at: null, ended_at: null },
  { speaker: 'Grace', text: 'I will take the notes.', started_at: null, ended_at: null },
]

/** Brings a new bot to an open meeting status. */
export async function botIn(
  sql: postgres.Sql,
  meeting_status: 'requested' | 'joining' | 'awaiting_admission' | 'active' | 'stopping',
  more: Record<string, unknown> = {},
): Promise<TestBot> {
  const bot = await requestBot(sql, more)
  if (meeting_status !== 'requested') {
    await report(sql, bot, meeting_status === 'stopping' ? 'active' : meeting_status)
  }
  if (meeting_status === 'stopping') {
    await sql`
      update public.workflow_threads
      set meeting_status = 'stopping', stop_requested_at = lifecycle.now(), stop_reason = 'stopped'
      where bot_id = ${bot.bot_id}`
  }
  return bot
}

/** The row as the table has it. */
export async function rowOf(sql: postgres.Sql, bot: TestBot): Promise<Record<string, unknown>> {
  const [row] = await sql`select * from public.workflow_threads where bot_id = ${bot.bot_id}`
  if (!row) throw new Error(`no row for bot ${bot.bot_id}`)
  return row
}

export type Event = {
  id: string
  machine: string
  seq: number
  from_status: string | null
  to_status: string
  source: string
  reason: string | null
  implied: boolean
  details: Record<string, unknown> | null
  error_code: string | null
}

/** The history of one machine of a bot. */
export async function historyOf(
  sql: postgres.Sql,
  bot: TestBot,
  machine: 'bot' | 'meeting',
): Promise<Event[]> {
  return sql<Event[]>`
    select * from public.status_events where subject_id = ${bot.bot_id} and machine = ${machine} order by seq`
}

/** How often each message was sent on a bot's topic: the pushes, in the order of their events. */
export async function pushesOf(sql: postgres.Sql, bot: TestBot): Promise<Record<string, unknown>[]> {
  const rows = await sql`
    select payload from realtime.messages where topic = ${`bot:${bot.bot_id}`} order by (payload ->> 'event_id')::bigint`
  return rows.map((row) => row.payload)
}
