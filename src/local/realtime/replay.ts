import type { Sql } from 'postgres'
import type { UserBroadcast } from './broadcast.ts'
import { limits } from './limits.ts'

export type ReplayRequest = { since: number; limit: number }

/** Reads `config.broadcast.replay` of a join; undefined when it is not one. */
export function parseReplay(replay: unknown): ReplayRequest | undefined {
  if (typeof replay !== 'object' || replay === null) return undefined
  const { since, limit = limits.replay_messages } = replay as { since?: unknown; limit?: unknown }
  if (!Number.isInteger(since) || !Number.isInteger(limit)) return undefined
  if (Number.isNaN(new Date(since as number).getTime())) return undefined
  return { since: since as number, limit: Math.max(1, Math.min(limit as number, limits.replay_messages)) }
}

/** The latest private messages of a topic that were sent from the database since a moment, oldest first. */
export async function readReplay(
  sql: Sql,
  topic: string,
  { since, limit }: ReplayRequest,
): Promise<UserBroadcast[]> {
  const rows = await sql<
    { id: string; event: string; payload: string | null; binary_payload: Buffer | null }[]
  >`
    select id, event, payload::text, binary_payload
    from realtime.messages
    where topic = ${topic}
      and private
      and extension = 'broadcast'
      and inserted_at >= ${new Date(since).toISOString()}::timestamp
      and inserted_at < (now() at time zone 'utc') + interval '1 minute'
    order by inserted_at desc
    limit ${limit}
  `
  return rows.reverse().map(({ id, event, payload, binary_payload }) => ({
    event,
    encoding: binary_payload ? 'binary' : 'json',
    body: binary_payload ?? Buffer.from(payload ?? '{}'),
    meta: { replayed: true, id },
  }))
}
