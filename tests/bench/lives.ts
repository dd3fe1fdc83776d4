/** Whole lives of executions and bots next to the raw tables: guard, history, push and hints included. */
import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import type { BenchCluster, BenchDatabase } from './database.ts'
import { atLeast, atMost, compareRates, cpuOf, median, type Row, type Side } from './measure.ts'

const CLIENTS = [1, 8]
const MAX_CLIENTS = 8
const KILOBYTE = 'r'.repeat(1000)

export async function lives(cluster: BenchCluster): Promise<Row[]> {
  const rows: Row[] = []
  const database = await cluster.create()
  const clients = Array.from({ length: MAX_CLIENTS }, () => database.client())
  const on = (side: (sql: postgres.Sql, n: number) => Promise<unknown>): Side => {
    return (n) => side(clients[n] as postgres.Sql, n)
  }
  const flow = await newFlow(database, randomUUID(), 1)
  const raw = on((sql) => rawLife(sql, 3))
  const each = async (what: string, must: number, goal: number, first: Side, second: Side) => {
    for (const n of CLIENTS) {
      const { ratio, first: a, second: b } = await compareRates(n, first, second)
      rows.push(
        atLeast(
          `${what}, ${n} ${n === 1 ? 'client' : 'clients'}`,
          must,
          goal,
          ratio,
          `${b.toFixed(0)} of ${a.toFixed(0)} a second`,
        ),
      )
    }
  }

  const executed = on((sql) => executionLife(sql, flow, 1))
  await each('one-prompt execution, one owner', 0.42, 0.5, raw, executed)
  rows.push(
    await serverTime(
      database,
      (sql) => rawLife(sql, 3),
      (sql) => executionLife(sql, flow, 1),
    ),
  )

  const flows: string[] = []
  for (let n = 0; n < 10_000; n += 500) flows.push(...(await manyFlows(database, 500)))
  const any = () => flows[Math.floor(Math.random() * flows.length)] as string
  await each(
    'one-prompt execution, 10,000 owners',
    0.36,
    0.42,
    raw,
    on((sql) => executionLife(sql, any(), 1)),
  )

  const five = await newFlow(database, randomUUID(), 5)
  await each(
    'five-prompt execution, results of 1 KB',
    0.4,
    0.5,
    on((sql) => rawLife(sql, 7, KILOBYTE)),
    on((sql) => executionLife(sql, five, 5, KILOBYTE)),
  )

  const owner_id = randomUUID()
  const bot = on((sql) => botLife(sql, owner_id))
  const written = await rowsWritten(database, () => bot(0))
  await each(
    `bot, ${written} rows written`,
    0.33,
    0.4,
    on((sql) => rawRows(sql, written)),
    bot,
  )

  await database.sql`update lifecycle.settings set push = false`
  await each('one-prompt execution, without push', 0.52, 0.6, raw, executed)
  await each(
    'bot, without push',
    0.45,
    0.55,
    on((sql) => rawRows(sql, written)),
    bot,
  )
  await database.sql`update lifecycle.settings set push = true`

  rows.push(await pushesOf(database, flow))
  rows.push(...(await walOf(database, flow, owner_id)))
  return rows
}

/** create_run and so many advances, a transaction each; all but the first and the last store the text. */
export async function rawLife(sql: postgres.Sql, advances: number, text?: string): Promise<void> {
  const [run] = await sql`select raw.create_run() as id`
  for (let i = 0; i < advances; i++) {
    const is_step = i > 0 && i < advances - 1
    if (text !== undefined && is_step) {
      await sql`select raw.store(${run?.id}, ${`p${i}`}, ${{ text } as never})`
    } else {
      await sql`select raw.advance(${run?.id}, ${i === advances - 1 ? 'completed' : `p${i}`})`
    }
  }
}

/** As many rows as a bot's life writes, in its five transactions. */
async function rawRows(sql: postgres.Sql, rows: number): Promise<void> {
  const [run] = await sql`select raw.create_run() as id`
  let left = rows / 2 - 1
  for (let tx = 4; tx > 0; tx--) {
    const steps = Math.round(left / tx)
    left -= steps
    await sql`select raw.advance(${run?.id}, 'step') from generate_series(1, ${steps}::int)`
  }
}

async function newFlow({ sql }: BenchDatabase, owner_id: string, prompts: number): Promise<string> {
  const texts = Array.from({ length: prompts }, (_, n) => `Say something about ${n}.`)
  const [row] = await sql`
    select public.create_flow(${owner_id}, 'A flow', ${texts as never}::jsonb) ->> 'id' as id`
  return row?.id as string
}

async function manyFlows({ sql }: BenchDatabase, n: number): Promise<string[]> {
  const rows = await sql`
    select public.create_flow(gen_random_uuid(), 'A flow', '["Say something."]') ->> 'id' as id
    from generate_series(1, ${n}::int)`
  return rows.map((row) => row.id)
}

/** create, claim, one result a prompt, complete. */
export async function executionLife(
  sql: postgres.Sql,
  flow_id: string,
  prompts: number,
  response = 'An answer.',
): Promise<void> {
  await sql`select public.create_execution(flow_id => ${flow_id})`
  for (;;) {
    const [row] = await sql`select public.claim_execution('bench') as claim`
    // The oldest was being claimed by another client, and the newest was not visible yet.
    if (row?.claim === null) continue
    const { id, lease_token } = row?.claim ?? {}
    for (let n = 0; n < prompts; n++) {
      await sql`select public.update_execution_progress(${id}, ${n}, ${{ response, duration_ms: 1 } as never}, ${lease_token})`
    }
    await sql`select public.complete_execution(id => ${id}, status => 'completed', lease_token => ${lease_token})`
    return
  }
}

const token_hash = 'ab'.repeat(32)

/** request, joining, awaiting_admission, active, left: nine transitions, without anything to process. */
export async function botLife(sql: postgres.Sql, owner_id: string): Promise<void> {
  const [row] = await sql`
    select public.request_bot(owner_id => ${owner_id}, token_hash => ${token_hash}, platform => 'room',
      native_meeting_id => ${randomUUID()}, launch => false) ->> 'bot_id' as id`
  for (const status of ['joining', 'awaiting_admission', 'active', 'completed']) {
    await sql`select public.report_bot(bot_id => ${row?.id}, token_hash => ${token_hash}, status => ${status})`
  }
}

async function rowsWritten({ superuser }: BenchDatabase, life: () => Promise<unknown>): Promise<number> {
  const count = async () => {
    await superuser`select pg_stat_force_next_flush()`
    const [row] = await superuser`
      select sum(n_tup_ins + n_tup_upd + n_tup_del)::int as n from pg_stat_all_tables
      where schemaname in ('public', 'private')`
    return row?.n as number
  }
  // The statistics of a session arrive a second after the last ones, with its next transaction at the latest.
  const settle = async () => {
    await new Promise((done) => setTimeout(done, 1500))
    await life()
    await new Promise((done) => setTimeout(done, 12_000))
  }
  const lives = 20
  await settle()
  const before = await count()
  for (let i = 0; i < lives; i++) await life()
  await settle()
  const rows = ((await count()) - before) / (lives + 1)
  return 2 * Math.round(rows / 2)
}

/** The CPU time of the server for a life: what is left of the comparison when clients and network cost nothing. */
async function serverTime(
  database: BenchDatabase,
  first: (sql: postgres.Sql) => Promise<unknown>,
  second: (sql: postgres.Sql) => Promise<unknown>,
): Promise<Row> {
  const what = 'one-prompt execution: CPU time of the server alone, of raw'
  if (process.platform !== 'linux') {
    return { what, must: '', goal: '', measured: 'only known on Linux', reached: null }
  }
  const sql = database.client()
  const [row] = await sql`select pg_backend_pid() as pid`
  const times: { first: number; second: number }[] = []
  for (let round = 0; round < 11; round++) {
    const spend = async (life: (sql: postgres.Sql) => Promise<unknown>) => {
      const before = cpuOf(row?.pid)
      for (let i = 0; i < 60; i++) await life(sql)
      return (cpuOf(row?.pid) - before) / 60
    }
    times.push({ first: await spend(first), second: await spend(second) })
  }
  const ratio = median(times.map((it) => it.first / it.second))
  const [a, b] = [median(times.map((it) => it.first)), median(times.map((it) => it.second))]
  return {
    what,
    must: '',
    goal: '',
    measured: `${ratio.toFixed(2)} (${a.toFixed(0)} of ${b.toFixed(0)} µs a life)`,
    reached: null,
  }
}

async function pushesOf(database: BenchDatabase, flow: string): Promise<Row> {
  await database.superuser`update lifecycle.hints set quiet_until = now() + interval '1 min'`
  await database.superuser`truncate realtime.messages`
  await executionLife(database.sql, flow, 1)
  const sent = await database.superuser`
    select event, octet_length(payload::text)::int as bytes from realtime.messages order by inserted_at, event`
  return {
    what: 'pushes of a one-prompt execution',
    must: '',
    goal: '',
    measured: sent.map(({ event, bytes }) => `${event} ${bytes} bytes`).join(', '),
    reached: null,
  }
}

async function walOf(database: BenchDatabase, flow: string, owner_id: string): Promise<Row[]> {
  const { superuser, sql } = database
  const lives = 200
  const at = async () =>
    Number((await superuser`select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as n`)[0]?.n)
  const events = async () =>
    Number((await superuser`select count(*)::int as n from public.status_events`)[0]?.n)
  const bytes = async (life: () => Promise<unknown>) => {
    await superuser`update lifecycle.hints set quiet_until = now() - interval '1 min'`
    await superuser`checkpoint`
    for (let i = 0; i < 50; i++) await life()
    const before = { at: await at(), events: await events() }
    for (let i = 0; i < lives; i++) await life()
    const written = (await at()) - before.at
    return { life: written / lives, transition: written / ((await events()) - before.events) }
  }
  const execution = await bytes(() => executionLife(sql, flow, 1))
  const bot = await bytes(() => botLife(sql, owner_id))
  const before = await at()
  for (let i = 0; i < lives; i++) await rawLife(sql, 3)
  const raw = ((await at()) - before) / (lives * 4)
  return [
    atMost(
      'WAL bytes a transition of an execution (its claim, its result and its pushes included)',
      2100,
      1700,
      execution.transition,
      `${(execution.life / 4).toFixed(0)} a transaction, where raw has ${raw.toFixed(0)}`,
    ),
    atMost('WAL bytes a transition of a bot', 2500, 1700, bot.transition),
  ]
}
