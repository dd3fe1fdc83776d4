import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { rpc } from './rpc.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests read rows and answers of every form
type Json = any

/** What the validator reads from a script with producer P, which publishes to t, and consumer C, which subscribes to it. */
export const config = {
  topics: ['t'],
  producers: { P: { schedule: { interval: '5m' }, publishes: ['t'] } },
  consumers: { C: { subscribe: ['t'], publishes: [], has_mutate: true, has_next: true } },
}

/** A run as its worker gets it. */
export interface PlayedRun {
  run_id: string
  handler_type: string
  handler_name: string
  phase: string
  status: string
  state: Json
  prepare_result: Json
  mutation_outcome: string | null
  mutation: Json
  retry_of: string | null
  events: { topic: string; message_id: string; payload: Json; attempt_number: number }[]
  result: { status: string; result?: Json }
}

/** A session as its worker gets it. */
export interface Session {
  session_id: string
  lease_token: string
  lease_expires_at: string
  workflow_id: string
  trigger: string
  script: { id: string; major: number; minor: number; config: Json }
  run: PlayedRun | null
}

/** A workflow with one script; of a new owner, active and due at once unless told otherwise. */
export async function automation(
  sql: postgres.Sql,
  { owner_id = randomUUID(), active = true, script = config as Json } = {},
): Promise<{ workflow_id: string; owner_id: string; script_id: string }> {
  const { workflow_id, script_id } = await rpc<{ workflow_id: string; script_id: string }>(
    sql,
    'create_workflow',
    { owner_id, title: 'Orders', code: 'workflow = {}', config: script },
  )
  if (active) await rpc(sql, 'activate_workflow', { workflow_id })
  return { workflow_id, owner_id, script_id }
}

/** The calls of a worker, on a connection of its own. */
export function worker(sql: postgres.Sql, name = 'w') {
  const call = (fn: string, args: Record<string, unknown>) => rpc<Json>(sql, fn, args)
  const held = ({ lease_token }: Session) => ({ lease_token })
  const self = {
    claim: () => call('claim_workflow_session', { worker: name }) as Promise<Session | null>,
    /** Claims, and fails where nothing is due. */
    async session(): Promise<Session> {
      const session = await self.claim()
      if (session === null) throw new Error('No session is due.')
      return session
    },
    renew: (session: Session) => call('renew_session', { session_id: session.session_id, ...held(session) }),
    yield: (session: Session) => call('yield_session', { session_id: session.session_id, ...held(session) }),
    finish: (session: Session) =>
      call('finish_session', { session_id: session.session_id, ...held(session) }),
    create: (session: Session, handler: { handler_type?: string; handler_name?: string } = {}) =>
      call('create_handler_run', { session_id: session.session_id, ...held(session), ...handler }),
    peek: (session: Session, { run_id }: { run_id: string }, topic = 't', max_rows = 100) =>
      call('peek_events', { run_id, ...held(session), topic, max_rows }),
    advance: (session: Session, { run_id }: { run_id: string }, phase: string, payload: Json = {}) =>
      call('advance_handler_run', { run_id, phase, payload, ...held(session) }),
    begin: (session: Session, { run_id }: { run_id: string }, more: Record<string, unknown> = {}) =>
      call('begin_mutation', { run_id, tool: 'Http.send', params: { url: 'x' }, ...held(session), ...more }),
    apply: (session: Session, { mutation_id }: { mutation_id: string }, result: Json = { id: 1 }) =>
      call('apply_mutation', { mutation_id, result, ...held(session) }),
    fail: (session: Session, { mutation_id }: { mutation_id: string }, error = 'HTTP 422') =>
      call('fail_mutation', { mutation_id, error, error_type: 'logic', ...held(session) }),
    end: (
      session: Session,
      { run_id }: { run_id: string },
      status: string,
      more: Record<string, unknown> = {},
    ) =>
      call('update_handler_run_status', {
        run_id,
        status,
        error: 'E!',
        error_type: 'network',
        ...held(session),
        ...more,
      }),
    commitProducer: (
      session: Session,
      { run_id }: { run_id: string },
      message_ids: string[],
      next_run_at: Date,
      more: Record<string, unknown> = {},
    ) =>
      call('commit_producer', {
        run_id,
        state: { seen: message_ids.length },
        publications: message_ids.map((message_id) => ({
          topic: 't',
          message_id,
          payload: { of: message_id },
        })),
        next_run_at,
        ...held(session),
        ...more,
      }),
    commitConsumer: (
      session: Session,
      { run_id }: { run_id: string },
      state: Json = { done: true },
      more: Record<string, unknown> = {},
    ) => call('commit_consumer', { run_id, state, publications: [], ...held(session), ...more }),

    /** Plays the producer of a fresh session: it publishes these messages, and is due again in an hour. */
    async publish(session: Session, message_ids: string[], now: Date): Promise<void> {
      const { run } = await self.create(session, { handler_type: 'producer', handler_name: 'P' })
      await self.advance(session, run, 'executing')
      await self.commitProducer(session, run, message_ids, new Date(now.getTime() + 3_600_000))
    },
    /** Begins a run of the consumer and takes it to a phase, with these events reserved. */
    async consumerAt(phase: string, session: Session, ids: string[] = ['e1']): Promise<PlayedRun> {
      let { run } = await self.create(session, { handler_type: 'consumer', handler_name: 'C' })
      const mutate = ids.length > 0 ? ['mutating', 'mutated'] : []
      const hops = ['preparing', 'prepared', ...mutate, 'emitting']
      for (const hop of phase === 'pending' ? [] : hops.slice(0, hops.indexOf(phase) + 1)) {
        const prepared = { result: { ids }, reservations: ids.length > 0 ? [{ topic: 't', ids }] : [] }
        run = { ...run, ...(await self.advance(session, run, hop, hop === 'prepared' ? prepared : {})).run }
      }
      return run
    },
  }
  return self
}

/** Claims the one workflow that is due, publishes these messages, and returns the session. */
export async function published(
  sql: postgres.Sql,
  now: Date,
  message_ids: string[] = ['e1', 'e2'],
): Promise<Session> {
  const w = worker(sql)
  const session = await w.session()
  await w.publish(session, message_ids, now)
  return session
}

const tables = [
  'workflows',
  'script_runs',
  'handler_runs',
  'workflow_events',
  'workflow_mutations',
  'handler_states',
  'producer_schedules',
  'workflow_messages',
  'workflow_notifications',
  'workflow_tasks',
  'status_events',
] as const

/** Every row of every table of automations, to be compared with what is there later. */
export async function everything(
  sql: postgres.Sql | postgres.TransactionSql,
): Promise<Record<string, Json[]>> {
  const all: Record<string, Json[]> = {}
  for (const table of tables) {
    const rows = await sql.unsafe(`select to_jsonb(t) as row from public.${table} t order by 1`)
    all[table] = rows.map(({ row }) => row)
  }
  return all
}

/** The rows that matter of a workflow: itself, its newest sessions first, its runs, events and mutations. */
export async function stateOf(sql: postgres.Sql, workflow_id: string): Promise<Json> {
  const [workflow] = await sql`
    select w.*, private.workflow_state(w) as state from public.workflows w where id = ${workflow_id}`
  // A clock that stands still gives equal times: the history tells what came first.
  const begun = '(select e.id from public.status_events e where e.subject_id = t.id and e.seq = 1)'
  const of = (table: string, order: string) =>
    sql.unsafe(`select * from public.${table} t where workflow_id = $1 order by ${order}`, [workflow_id])
  return {
    ...workflow,
    sessions: await of('script_runs', `${begun} desc`),
    runs: await of('handler_runs', begun),
    events: await of('workflow_events', 'position'),
    mutations: await of('workflow_mutations', begun),
    handlers: await of('handler_states', 'handler_type, handler_name'),
    notifications: await of('workflow_notifications', 'created_at, id'),
    messages: await of('workflow_messages', 'created_at, id'),
  }
}
