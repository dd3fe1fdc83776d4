import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { rpc } from './rpc.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests read answers of every form
export type Json = any

/** A producer that publishes to a topic, and a consumer with a side effect: no code of it ever runs. */
export const config = {
  topics: ['items'],
  producers: { feed: { schedule: { interval: '5m' }, publishes: ['items'] } },
  consumers: { send: { subscribe: ['items'], publishes: [], has_mutate: true, has_next: true } },
}

export type Workflow = { workflow_id: string; owner_id: string; script_id: string }

/** A workflow with script 1.0; of a new owner unless one is given. */
export async function readyWorkflow(
  sql: postgres.Sql,
  { owner_id = randomUUID(), ...more }: Record<string, unknown> & { owner_id?: string } = {},
): Promise<Workflow> {
  const { workflow_id, script_id } = await rpc<Json>(sql, 'create_workflow', {
    owner_id,
    title: 'Orders',
    code: 'workflow = {}',
    config,
    ...more,
  })
  return { workflow_id, owner_id, script_id }
}

export async function activeWorkflow(sql: postgres.Sql, more = {}): Promise<Workflow> {
  const workflow = await readyWorkflow(sql, more)
  await rpc(sql, 'activate_workflow', { workflow_id: workflow.workflow_id })
  return workflow
}

/** A workflow of which nothing but a message is there, and its planner's task. */
export async function draftWorkflow(
  sql: postgres.Sql,
  message = 'Send me the weather.',
): Promise<{ workflow_id: string; owner_id: string; task_id: string }> {
  const owner_id = randomUUID()
  const { workflow_id, task_id } = await rpc<Json>(sql, 'create_workflow', { owner_id, message })
  return { workflow_id, owner_id, task_id }
}

export const workflowOf = (sql: postgres.Sql, { workflow_id }: { workflow_id: string }): Promise<Json> =>
  rpc(sql, 'get_workflow', { workflow_id })

export const claimTask = (sql: postgres.Sql, has_agent = true): Promise<Json> =>
  rpc(sql, 'claim_task', { worker: 'w', has_agent })

/** What was said about a workflow, the oldest first. */
export async function messagesOf(
  sql: postgres.Sql,
  { workflow_id }: { workflow_id: string },
): Promise<Json[]> {
  const { items } = await rpc<Json>(sql, 'list_workflow_messages', { workflow_id, max_rows: 200 })
  return items.toReversed()
}

/** Claims a session, which must be this workflow's, and begins its first run. */
export async function beginRun(sql: postgres.Sql, { workflow_id }: { workflow_id: string }): Promise<Json> {
  const session = await rpc<Json>(sql, 'claim_workflow_session', { worker: 'w' })
  if (session?.workflow_id !== workflow_id) throw new Error(`claimed ${JSON.stringify(session)}`)
  const { session_id, lease_token } = session
  const { run } = await rpc<Json>(sql, 'create_handler_run', { session_id, lease_token })
  return { session_id, lease_token, run_id: run.run_id }
}

/** The producer of a due workflow runs and fails for its script. */
export async function failLogic(sql: postgres.Sql, workflow: { workflow_id: string }): Promise<string> {
  const { run_id, lease_token } = await beginRun(sql, workflow)
  await rpc(sql, 'advance_handler_run', { run_id, phase: 'executing', lease_token })
  await rpc(sql, 'update_handler_run_status', {
    ...{ run_id, lease_token, status: 'failed:logic', error: 'x is not a function', error_type: 'logic' },
    logs: [{ at: '2026-03-01T12:00:00Z', level: 'log', text: 'before x' }],
  })
  return run_id
}

/** A run of a due workflow whose side effect nobody knows the outcome of; `reconcile`: it can be asked after. */
export async function uncertainRun(
  sql: postgres.Sql,
  workflow: { workflow_id: string },
  { reconcile = null as object | null, status = 'paused:reconciliation', items = ['a'] } = {},
): Promise<{ run_id: string; mutation_id: string; session_id: string }> {
  const { session_id, lease_token, run_id: producer } = await beginRun(sql, workflow)
  const advance = (run_id: string, phase: string, payload = {}) =>
    rpc(sql, 'advance_handler_run', { run_id, phase, payload, lease_token })
  await advance(producer, 'executing')
  await rpc(sql, 'commit_producer', {
    ...{ run_id: producer, lease_token, state: null, next_run_at: '2026-03-02T12:00:00Z' },
    publications: items.map((message_id) => ({ topic: 'items', message_id, payload: {} })),
  })
  const { run } = await rpc<Json>(sql, 'create_handler_run', { session_id, lease_token })
  const run_id: string = run.run_id
  await advance(run_id, 'preparing')
  await advance(run_id, 'prepared', {
    result: {},
    reservations: [{ topic: 'items', ids: items }],
    wake_at: null,
  })
  await advance(run_id, 'mutating')
  const { mutation_id } = await rpc<Json>(sql, 'begin_mutation', {
    ...{ run_id, lease_token, tool: 'Http.send', params: { url: 'https://x.test' }, reconcile },
  })
  await rpc(sql, 'update_handler_run_status', {
    ...{ run_id, lease_token, status, error: 'timed out', error_type: 'network' },
  })
  if (reconcile !== null) {
    // Nobody could tell.
    await sql`update public.workflow_mutations set status = 'indeterminate' where id = ${mutation_id}`
  }
  return { run_id, mutation_id, session_id }
}
