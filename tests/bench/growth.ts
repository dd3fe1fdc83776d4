/** Claims, sweeps and reads must cost what is due, not what exists. */
import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import type { BenchCluster, BenchDatabase } from './database.ts'
import { median, type Row } from './measure.ts'

const MANY = Number(process.env.BENCH_MANY ?? 1_000_000)
const FINISHED = Number(process.env.BENCH_FINISHED ?? 300_000)
const TIMES = 25

export async function growth(cluster: BenchCluster): Promise<Row[]> {
  const small = await cluster.create()
  const large = await cluster.create()
  for (const { superuser } of [small, large])
    await superuser`alter database postgres reset all`.catch(() => {})
  await finishedExecutions(large, FINISHED)
  const rows = [
    await compare(
      `claim with 0 and with ${FINISHED.toLocaleString('en')} finished executions`,
      small,
      large,
      {
        prepare: async ({ sql }) => {
          const [flow] = await sql`
          select public.create_flow(${randomUUID()}, 'x', '["Say something."]') ->> 'id' as id`
          await sql`select public.create_execution(flow_id => ${flow?.id})`
        },
        statement: `select public.claim_execution('bench')`,
      },
    ),
  ]
  const bots = { small: await openBots(small, 1000), large: await openBots(large, MANY) }
  rows.push(
    await compare(
      `sweep with nothing due among 1,000 and among ${MANY.toLocaleString('en')} open bots`,
      small,
      large,
      { prepare: async () => {}, statement: 'select lifecycle.sweep(50)' },
    ),
  )
  rows.push(
    await compare(
      `sweep with 10 due among 1,000 and among ${MANY.toLocaleString('en')} open bots`,
      small,
      large,
      {
        prepare: async ({ sql, superuser }) => {
          await superuser.begin(async (work) => {
            await work`set local session_replication_role = replica`
            await work`
            update public.workflow_threads set deadline_at = now() - interval '1 s',
              meeting_status_updated_at = now() - interval '1 h', bot_status = 'pending', meeting_status = 'requested',
              bot_completed_at = null, left_at = null, failure_stage = null, error_stage = null, error_code = null,
              error_message = null, bot_seq = bot_seq, native_meeting_id = gen_random_uuid()::text
            where bot_id = any (array(select t.bot_id from public.workflow_threads t order by t.workflow_thread_id limit 10))`
          })
          await sql`select 1`
        },
        statement: 'select lifecycle.sweep(50)',
      },
    ),
  )
  rows.push(
    await compare(`status by bot_id among 1,000 and among ${MANY.toLocaleString('en')} bots`, small, large, {
      prepare: async () => {},
      statement: ({ name }) => {
        const ids = name === small.name ? bots.small : bots.large
        return `select public.get_bot(bot_id => '${ids[Math.floor(Math.random() * ids.length)]}')`
      },
    }),
  )
  return rows
}

type Case = {
  prepare(database: BenchDatabase): Promise<unknown>
  statement: string | ((database: BenchDatabase) => string)
}

type Plan = {
  Plan: { 'Shared Hit Blocks': number; 'Shared Read Blocks': number }
  'Execution Time': number
}

async function compare(what: string, small: BenchDatabase, large: BenchDatabase, it: Case): Promise<Row> {
  const seen = { small: [] as Plan[], large: [] as Plan[] }
  for (let n = 0; n < TIMES; n++) {
    for (const [side, database] of [
      ['small', small],
      ['large', large],
    ] as const) {
      await it.prepare(database)
      const plan = await explain(
        database.sql,
        typeof it.statement === 'string' ? it.statement : it.statement(database),
      )
      // The first calls of a session load what the next ones find.
      if (n >= 8) seen[side].push(plan)
    }
  }
  const pages = (plans: Plan[]) =>
    median(plans.map(({ Plan: p }) => p['Shared Hit Blocks'] + p['Shared Read Blocks']))
  const time = (plans: Plan[]) => median(plans.map((plan) => plan['Execution Time']))
  const more = pages(seen.large) - pages(seen.small)
  const ratio = time(seen.large) / time(seen.small)
  return {
    what,
    must: 'within 4 pages, under 1.5 times',
    goal: '',
    measured: `${more >= 0 ? '+' : ''}${more} pages of ${pages(seen.small)}, ${ratio.toFixed(2)} times ${time(seen.small).toFixed(2)} ms`,
    reached: more <= 4 && ratio < 1.5,
  }
}

async function explain(sql: postgres.Sql, statement: string): Promise<Plan> {
  const [row] = await sql.unsafe(`explain (analyze, buffers, format json) ${statement}`)
  const plans = (row?.['QUERY PLAN'] ?? []) as Plan[]
  return plans[0] as Plan
}

async function finishedExecutions({ superuser }: BenchDatabase, n: number): Promise<void> {
  await superuser.begin(async (work) => {
    await work`set local session_replication_role = replica`
    await work`
      insert into public.flow_executions (
        flow_id, owner_id, status, flow_name, prompts, agent, total_prompts, current_prompt_index, created_at, completed_at
      )
      select gen_random_uuid(), gen_random_uuid(), 'completed', 'x', '["a"]', '{}', 1, 1, now(), now()
      from generate_series(1, ${n}::int)`
  })
  await superuser`vacuum analyze public.flow_executions`
}

/** Bots that wait for their machine, a minute before their deadline at the earliest. */
async function openBots({ superuser }: BenchDatabase, n: number): Promise<string[]> {
  await superuser.begin(async (work) => {
    await work`set local session_replication_role = replica`
    await work`
      insert into public.workflow_threads (
        owner_id, platform, native_meeting_id, bot_status, meeting_status, bot_config, metadata, created_at, updated_at,
        bot_status_updated_at, meeting_status_updated_at, deadline_at, bot_seq, meeting_seq, version
      )
      select gen_random_uuid(), 'room', gen_random_uuid()::text, 'pending', 'requested', '{}', '{}', now(), now(),
        now(), now(), now() + interval '1 h' + n * interval '1 ms', 1000000, 1000000, 2
      from generate_series(1, ${n}::int) n`
  })
  await superuser`vacuum analyze public.workflow_threads`
  const rows = await superuser`select bot_id from public.workflow_threads order by bot_id limit 1000`
  return rows.map((row) => row.bot_id)
}
