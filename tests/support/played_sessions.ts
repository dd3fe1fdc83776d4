import type postgres from 'postgres'
import { rpc } from './rpc.ts'

/** A session that the test plays itself, as a worker would: no script is run. */
export interface PlayedSession {
  session_id: string
  lease_token: string
  workflow_id: string
}

interface Run {
  run_id: string
  handler_type: string
  handler_name: string
}

/** Claims the workflow that is due first, which must be this one. */
export async function claimSession(sql: postgres.Sql, workflow_id: string): Promise<PlayedSession> {
  const session = await rpc<PlayedSession | null>(sql, 'claim_workflow_session', { worker: 'test' })
  if (session?.workflow_id === workflow_id) return session
  throw new Error(`Not ${workflow_id} is due, but ${session?.workflow_id ?? 'none'}.`)
}

async function startRun(sql: postgres.Sql, { session_id, lease_token }: PlayedSession): Promise<Run> {
  const { run } = await rpc<{ run: Run | null }>(sql, 'create_handler_run', { session_id, lease_token })
  if (run === null) throw new Error('No handler is due.')
  return run
}

/** Plays the producer of `sendingScript`, which publishes one item. */
export async function playProducer(sql: postgres.Sql, session: PlayedSession, item: string): Promise<void> {
  const { lease_token } = session
  const { run_id } = await startRun(sql, session)
  await rpc(sql, 'advance_handler_run', { run_id, phase: 'executing', lease_token })
  await rpc(sql, 'commit_producer', {
    run_id,
    state: { n: 1 },
    publications: [{ topic: 'items', message_id: item, payload: { item } }],
    next_run_at: new Date(Date.now() + 86_400_000),
    lease_token,
  })
}

/** Plays the consumer of `sendingScript` up to the side effect, which is under way then. */
export async function playUntilSent(
  sql: postgres.Sql,
  session: PlayedSession,
  item: string,
): Promise<{ run_id: string; mutation_id: string }> {
  const { lease_token } = session
  const { run_id } = await startRun(sql, session)
  await rpc(sql, 'advance_handler_run', { run_id, phase: 'preparing', lease_token })
  const reservations = [{ topic: 'items', ids: [item] }]
  await rpc(sql, 'advance_handler_run', {
    run_id,
    phase: 'prepared',
    payload: { result: { item }, reservations, wake_at: null },
    lease_token,
  })
  await rpc(sql, 'advance_handler_run', { run_id, phase: 'mutating', lease_token })
  const { mutation_id } = await rpc<{ mutation_id: string }>(sql, 'begin_mutation', {
    run_id,
    tool: 'Http.send',
    params: { url: 'https://example.com/hook', method: 'POST', body: { item } },
    lease_token,
  })
  return { run_id, mutation_id }
}

/** The side effect happened, and the session ends well. */
export async function playToEnd(
  sql: postgres.Sql,
  session: PlayedSession,
  { run_id, mutation_id }: { run_id: string; mutation_id: string },
): Promise<void> {
  const { session_id, lease_token } = session
  await rpc(sql, 'apply_mutation', { mutation_id, result: { status: 201 }, lease_token })
  await rpc(sql, 'advance_handler_run', { run_id, phase: 'emitting', lease_token })
  await rpc(sql, 'commit_consumer', { run_id, state: {}, publications: [], lease_token })
  await rpc(sql, 'finish_session', { session_id, lease_token })
}

/** Nobody knows whether the side effect happened. */
export async function playUncertain(
  sql: postgres.Sql,
  { lease_token }: PlayedSession,
  run_id: string,
): Promise<void> {
  await rpc(sql, 'update_handler_run_status', {
    run_id,
    status: 'paused:reconciliation',
    error: 'The connection was cut.',
    error_type: 'network',
    lease_token,
  })
}
