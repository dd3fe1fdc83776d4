/** A consumer's run with a side effect, from its creation to its commit, next to what would be written by hand. */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type postgres from 'postgres'
import type { BenchCluster, BenchDatabase } from './database.ts'
import { atLeast, compareRates, type Row } from './measure.ts'

const CLIENTS = [1, 8]
const MAX_CLIENTS = 8

/** More than one client gets through in all rounds. */
const EVENTS = Number(process.env.BENCH_EVENTS ?? 15_000)

/** A session with events to work on; `next` is the number of the one that comes next. */
export type BenchSession = { sql: postgres.Sql; session_id: string; lease_token: string; next: number }

export async function handlerRuns(cluster: BenchCluster): Promise<Row[]> {
  const database = await cluster.create()
  await installByHand(database)
  const clients = <T>(begin: () => Promise<T>) =>
    Promise.all(Array.from({ length: MAX_CLIENTS }, () => begin()))
  const by_hand = await clients(() => sessionByHand(database))
  const guarded = await guardedSessions(database, MAX_CLIENTS)
  const rows: Row[] = []
  for (const n of CLIENTS) {
    const { ratio, first, second } = await compareRates(
      n,
      (client) => runByHand(by_hand[client] as BenchSession),
      (client) => guardedRun(guarded[client] as BenchSession),
    )
    rows.push(
      atLeast(
        `handler run: create, five phases, one mutation, commit; ${n} ${n === 1 ? 'client' : 'clients'}`,
        0.5,
        null,
        ratio,
        `${second.toFixed(0)} of ${first.toFixed(0)} a second`,
      ),
    )
  }
  return rows
}

export async function installByHand({ sql }: BenchDatabase): Promise<void> {
  await sql.unsafe(readFileSync(join(import.meta.dirname, 'handler_runs.sql'), 'utf8'))
}

export async function sessionByHand(database: BenchDatabase): Promise<BenchSession> {
  const sql = database.client()
  const [session] = await sql`insert into raw.session default values returning id, lease_token`
  const { id, lease_token } = session ?? {}
  await sql`insert into raw.handler_state (session_id, handler) values (${id}, 'C')`
  await sql`
    insert into raw.event (session_id, message_id, payload)
    select ${id}, 'e' || n, '{"item": 1}' from generate_series(1, ${EVENTS}::int) n`
  await sql`vacuum analyze raw.event`
  return { sql, session_id: id, lease_token, next: 1 }
}

/** Eight transactions, as the worker makes them. */
export async function runByHand(session: BenchSession): Promise<void> {
  const { sql, session_id, lease_token } = session
  const held = sql`${session_id}, ${lease_token}`
  const ids = [`e${session.next++}`]
  const [run] = await sql`select raw.begin_run(${held}) as id`
  const id = run?.id
  await sql`select raw.set_phase(${held}, ${id}, 'preparing')`
  await sql`select raw.set_prepared(${held}, ${id}, ${ids}, ${{ data: { item: 1 } } as never}, null)`
  await sql`select raw.set_phase(${held}, ${id}, 'mutating')`
  const [mutation] = await sql`
    select raw.begin_mutation(${held}, ${id}, 'Http.send', ${{ url: 'https://x.test' } as never}) as id`
  await sql`select raw.apply_mutation(${held}, ${id}, ${mutation?.id}, ${{ id: 1 } as never})`
  await sql`select raw.set_phase(${held}, ${id}, 'emitting')`
  await sql`select raw.commit_run(${held}, ${id}, ${{ last: 1 } as never})`
}

const config = {
  topics: ['t'],
  producers: {},
  consumers: { C: { subscribe: ['t'], publishes: [], has_mutate: true, has_next: true } },
}

export async function guardedSessions(database: BenchDatabase, n: number): Promise<BenchSession[]> {
  const { sql, superuser } = database
  await sql`update lifecycle.settings set session_lease = '1 h'`
  const sessions: BenchSession[] = []
  for (let i = 0; i < n; i++) {
    const [made] = await sql`
      select public.create_workflow(${randomUUID()}::uuid, title => 'A workflow', code => 'workflow = {}',
        config => ${config as never}::jsonb) ->> 'workflow_id' as id`
    await sql`select public.activate_workflow(${made?.id}::uuid)`
    await superuser.begin(async (work) => {
      await work`set local session_replication_role = replica`
      await work`
        insert into public.workflow_events (workflow_id, owner_id, topic_id, message_id, payload, created_at, updated_at)
        select t.workflow_id, t.owner_id, t.id, 'e' || n, '{"item": 1}', now(), now()
        from public.workflow_topics t, generate_series(1, ${EVENTS}::int) n where t.workflow_id = ${made?.id}`
    })
    const client = database.client()
    const [row] = await client`select public.claim_workflow_session('bench') as claim`
    const { session_id, lease_token } = row?.claim ?? {}
    sessions.push({ sql: client, session_id, lease_token, next: 1 })
  }
  await superuser`vacuum analyze public.workflow_events`
  return sessions
}

export async function guardedRun(session: BenchSession): Promise<void> {
  const { sql, session_id, lease_token } = session
  const payload = {
    result: { data: { item: 1 } },
    reservations: [{ topic: 't', ids: [`e${session.next++}`] }],
    wake_at: null,
  }
  const [created] =
    await sql`select public.create_handler_run(${session_id}, ${lease_token}) -> 'run' ->> 'run_id' as id`
  const id = created?.id
  const advance = (phase: string) =>
    sql`select public.advance_handler_run(${id}, ${phase}, lease_token => ${lease_token})`
  await advance('preparing')
  await sql`select public.advance_handler_run(${id}, 'prepared', ${payload as never}, ${lease_token})`
  await advance('mutating')
  const [begun] = await sql`
    select public.begin_mutation(${id}, 'Http.send', ${{ url: 'https://x.test' } as never},
      lease_token => ${lease_token}) ->> 'mutation_id' as id`
  await sql`select public.apply_mutation(${begun?.id}, ${{ id: 1 } as never}, ${lease_token})`
  await advance('emitting')
  await sql`select public.commit_consumer(${id}, ${{ last: 1 } as never}, '[]', ${lease_token})`
}
