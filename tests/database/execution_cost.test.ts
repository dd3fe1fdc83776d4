import { afterEach, beforeEach, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { type Claimed, claimExecution, running } from '../support/flows.ts'

// Ratios and counts of what is written and read, never times.
let database: TestDatabase
beforeEach(async () => {
  database = await createTestDatabase()
})
afterEach(() => database.drop())

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number

test('the cost of a step does not grow with the steps before it', async () => {
  const sql = database.connect('postgres', { max: 1 })
  await running(
    sql,
    Array.from({ length: 200 }, (_, n) => `Prompt ${n}: ${'p'.repeat(3000)}`),
  )
  const lease = (await claimExecution(sql)) as Claimed
  await sql`update lifecycle.settings set push = false`
  const writes = async () => {
    await sql`select pg_stat_force_next_flush()`
    await sql`select pg_stat_clear_snapshot()`
    const [row] = await sql`
      select sum(n_tup_ins + n_tup_upd + n_tup_del)::int as rows,
        sum(n_tup_hot_upd)::int as hot, sum(n_tup_upd)::int as updates
      from pg_stat_user_tables where schemaname in ('public', 'lifecycle', 'private')`
    return row as { rows: number; hot: number; updates: number }
  }
  const before = await writes()
  const bytes: number[] = []
  const response = 'r'.repeat(1000)
  for (let n = 0; n < 199; n++) {
    // What this call alone wrote: other databases of the cluster write at the same time.
    const [row] = await sql`
      explain (analyze, wal, format json)
      select public.update_execution_progress(${lease.id}, ${n}, ${{ response } as never}, ${lease.lease_token})`
    bytes.push(row?.['QUERY PLAN'][0].Plan['WAL Bytes'])
  }
  const after = await writes()
  // Its own result, and where the execution stands: nothing else.
  expect(after.rows - before.rows).toBe(2 * 199)
  expect((after.hot - before.hot) / (after.updates - before.updates)).toBeGreaterThan(0.95)
  expect(median(bytes.slice(150)) / median(bytes.slice(10, 60))).toBeLessThan(1.1)
  expect(median(bytes)).toBeLessThan(3 * response.length)
})

test('a claim and its lease are HOT updates', async () => {
  const sql = database.connect('postgres', { max: 1 })
  await running(sql, ['a', 'b'])
  const hot = async () => {
    await sql`select pg_stat_force_next_flush()`
    await sql`select pg_stat_clear_snapshot()`
    const [row] = await sql`
      select n_tup_hot_upd::int as hot, n_tup_upd::int as updates from pg_stat_user_tables where relname = 'flow_executions'`
    return row
  }
  const { id, lease_token } = (await claimExecution(sql)) as Claimed
  await sql`select public.renew_execution_lease(${id}, ${lease_token})`
  await sql`select public.yield_execution(${id}, ${lease_token}, true)`
  expect(await hot()).toEqual({ hot: 3, updates: 3 })
})

test('a claim costs the same with 100,000 finished executions as with none', async () => {
  const sql = database.connect('postgres', { max: 1 })
  type Plan = { Plan: { 'Shared Hit Blocks': number; 'Shared Read Blocks': number } }
  const pages = async () => {
    for (let n = 0; n < 3; n++) await running(sql, ['a'])
    // The first calls of a session load what the next ones find.
    await claimExecution(sql)
    await claimExecution(sql)
    const [row] = await sql.unsafe(
      `explain (analyze, buffers, format json) select public.claim_execution('w')`,
    )
    const plans = (row?.['QUERY PLAN'] ?? []) as Plan[]
    return plans.reduce((sum, { Plan: it }) => sum + it['Shared Hit Blocks'] + it['Shared Read Blocks'], 0)
  }
  const empty = await pages()
  await sql`delete from public.flow_executions`
  await database.superuser.begin(async (work) => {
    await work`set local session_replication_role = replica`
    await work`
      insert into public.flow_executions (
        flow_id, owner_id, status, flow_name, prompts, agent, total_prompts, current_prompt_index, created_at, completed_at
      )
      select gen_random_uuid(), gen_random_uuid(), 'completed', 'x', '["a"]', '{}', 1, 1, now(), now()
      from generate_series(1, 100000)`
  })
  await database.superuser`vacuum analyze public.flow_executions`
  expect((await pages()) - empty).toBeLessThanOrEqual(4)
})
