/** What the guard adds to an update, and what a sign of life costs. */
import { randomUUID } from 'node:crypto'
import type { BenchCluster, BenchDatabase } from './database.ts'
import { atLeast, compareRates, type Row } from './measure.ts'

const CLIENTS = [1, 8]

export async function guard(cluster: BenchCluster): Promise<Row[]> {
  const guarded = await cluster.create()
  const bare = await cluster.create()
  await bare.sql`alter table public.workflow_tasks disable trigger user`
  await bare.sql`alter table public.workflow_threads disable trigger user`
  const rows: Row[] = []

  const move = [await movedTasks(bare), await movedTasks(guarded)] as const
  for (const n of CLIENTS) {
    const { ratio } = await compareRates(n, ...move)
    rows.push(atLeast(`a guarded move (task, without history), ${named(n)}`, 0.8, 0.9, ratio))
  }
  const beat = [await heartbeats(bare, 'update'), await heartbeats(guarded, 'update')] as const
  for (const n of CLIENTS) {
    const { ratio } = await compareRates(n, ...beat)
    rows.push(atLeast(`a heartbeat on the guarded row, ${named(n)}`, 0.8, null, ratio))
  }
  const reported = [await heartbeats(bare, 'update'), await heartbeats(guarded, 'rpc')] as const
  for (const n of CLIENTS) {
    const { ratio, first, second } = await compareRates(n, ...reported)
    rows.push({
      what: `report_bot() of a heartbeat (token, limit a second and answer), ${named(n)}`,
      must: '',
      goal: '',
      measured: `${ratio.toFixed(2)} (${second.toFixed(0)} of ${first.toFixed(0)} a second)`,
      reached: null,
    })
  }
  return rows
}

const named = (n: number) => `${n} ${n === 1 ? 'client' : 'clients'}`

/** Each client moves a task of its own to and fro. */
async function movedTasks(database: BenchDatabase): Promise<(client: number) => Promise<unknown>> {
  const clients = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const [workflow] = await database.sql`
        select public.create_workflow(${randomUUID()}::uuid, message => 'Write a script.') ->> 'id' as id`
      const [task] = await database.sql`
        select id from public.workflow_tasks where workflow_id = ${workflow?.id}`
      return { sql: database.client(), id: task?.id }
    }),
  )
  return (n) => {
    const { sql, id } = clients[n] as (typeof clients)[number]
    return sql`
      update public.workflow_tasks
      set state = case state when 'queued' then 'waiting' else 'queued' end::public.workflow_task_state
      where id = ${id}`
  }
}

const token_hash = 'cd'.repeat(32)

async function heartbeats(
  database: BenchDatabase,
  how: 'update' | 'rpc',
): Promise<(client: number) => Promise<unknown>> {
  const clients = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const [bot] = await database.sql`
        select public.request_bot(owner_id => ${randomUUID()}, token_hash => ${token_hash}, platform => 'room',
          native_meeting_id => ${randomUUID()}, launch => false) ->> 'bot_id' as id`
      return { sql: database.client(), id: bot?.id }
    }),
  )
  if (how === 'rpc') {
    // Nobody beats this fast: the limit is not what is measured.
    await database.sql`update lifecycle.settings set callbacks_per_second = 1000000`
  }
  return (n) => {
    const { sql, id } = clients[n] as (typeof clients)[number]
    return how === 'rpc'
      ? sql`select public.report_bot(bot_id => ${id}, token_hash => ${token_hash}, status => 'heartbeat')`
      : sql`update public.workflow_threads set last_heartbeat_at = clock_timestamp() where bot_id = ${id}`
  }
}
