import { readdirSync, readFileSync } from 'node:fs'
import type postgres from 'postgres'
import { createTestDatabase, type TestDatabase } from './database.ts'

const migrations = new URL('../../supabase/migrations/', import.meta.url)
const optional = new URL('../../supabase/optional/', import.meta.url)

/** The migrations of each step of docs/migrate.md, by the versions that bound them. */
export const steps = {
  baseline: { after: '', to: '20261121001000' },
  statuses: { after: '20261121001000', to: '20261121002500' },
  dual_write: { after: '20261121002500', to: '20261121002600' },
  cutover: { after: '20261121002600', to: '20261121002700' },
  rest: { after: '20261121002700', to: '99999999999999' },
} as const

/** A database with the tables of old code, empty, with the rights that older projects gave everybody. */
export async function createLegacyDatabase(): Promise<TestDatabase> {
  const database = await createTestDatabase({ migrated: false })
  await database.owner.unsafe(readFileSync(new URL('../cases/legacy.sql', import.meta.url), 'utf8'))
  await database.owner.unsafe(`
    grant all on public.bot_sessions, public.workflow_threads to anon, authenticated, service_role`)
  return database
}

/** Applies the migrations of one step, file by file, each in a transaction of its own. Returns how long it took, in seconds. */
export async function applyStep(sql: postgres.Sql, step: keyof typeof steps): Promise<number> {
  const { after, to } = steps[step]
  const began = performance.now()
  for (const file of readdirSync(migrations).sort()) {
    const version = file.split('_')[0] as string
    if (!file.endsWith('.sql') || version <= after || version > to) continue
    try {
      await sql.unsafe(readFileSync(new URL(file, migrations), 'utf8'))
    } catch (error) {
      throw new Error(`${file}: ${(error as Error).message}`, { cause: error })
    }
  }
  return (performance.now() - began) / 1000
}

/** Runs a file of supabase/optional. */
export async function applyOptional(sql: postgres.Sql, name: string): Promise<void> {
  await sql.unsafe(readFileSync(new URL(`${name}.sql`, optional), 'utf8'))
}

/**
 * Fills the tables with `rows` threads and as many sessions, of every shape that old code could leave, and keeps a
 * copy in the schema `before`. Everything follows from the number of the row: each run makes the same.
 */
export async function fillLegacyTables(sql: postgres.Sql, rows: number): Promise<void> {
  await sql.unsafe(`
    insert into public.bot_sessions (
      bot_id, room_url, room_name, status, started_at, completed_at, process_insights, bot_config, transcript_text,
      qa_pairs, insights, error, created_at, updated_at
    )
    select md5('bot' || n)::uuid,
      'https://team.daily.co/room-' || n,
      case when n % 31 = 0 then 'other room ' || n else 'room-' || n end,
      (array['running', 'completed', 'failed', 'completed', ' Completed', 'RUNNING', 'processing', 'failed', 'completed'])[1 + n % 9],
      at, case when n % 4 <> 0 then at + interval '30 min' end,
      (array[true, false, null])[1 + n % 3],
      case when n % 503 = 0 then jsonb_build_object('prompt', repeat('x', 70000))
        when n % 17 = 0 then '[1]' when n % 19 = 0 then 'null' when n % 2 = 0 then jsonb_build_object('voice', n) end,
      case when n % 997 = 0 then repeat('word ' || n || ' ', 100000)
        when n % 5 = 0 then '' when n % 5 = 1 then E'Ada: \\t"quoted" \\\\ and\\nlines ' || n when n % 5 = 2 then 'said ' || n end,
      case when n % 6 = 0 then jsonb_build_array(jsonb_build_object('question', 'q' || n, 'answer', null)) when n % 6 = 1 then 'null' end,
      case when n % 7 < 3 then jsonb_build_object('summary', 's' || n, 'mood', null) end,
      case when n % 8 = 0 then 'error ' || n when n % 8 = 1 then ' ' end,
      at, at + interval '1 h'
    from generate_series(1, ${rows}) n, lateral (select timestamptz '2026-01-01' + n * interval '1 min' as at) t;

    insert into public.workflow_threads (
      workflow_thread_id, created_at, updated_at, room_name, room_url, bot_enabled, bot_id, bot_config, meeting_status,
      meeting_start_time, meeting_end_time, transcript_text, insights, qa_pairs, metadata, bot_join_time,
      bot_leave_time, email, provider
    )
    select 'thread-' || n, at, at + interval '2 h', 'room-' || n, case when n % 3 > 0 then 'https://team.daily.co/room-' || n end,
      n % 2 = 0,
      case n % 10
        when 0 then null
        when 1 then ''
        when 2 then 'bot number ' || n
        -- Of two with the same id the second is the newer; some of these bots have a session.
        when 3 then md5('twins' || n / 20)
        when 4 then upper(md5('bot' || n)::uuid::text)
        when 5 then md5('no session' || n)::uuid::text
        else md5('bot' || n)::uuid::text
      end,
      case when n % 701 = 0 then jsonb_build_object('prompt', repeat('y', 70000))
        when n % 23 = 0 then '"text"' when n % 3 = 0 then jsonb_build_object('voice', n / 2 * 2) end,
      (array['in_progress', 'completed', 'failed', null, 'scheduled', 'ended', 'in_progress'])[1 + n % 7],
      case when n % 5 = 0 then at + interval '1 min' end, case when n % 4 = 0 then at + interval '50 min' end,
      case when n % 991 = 0 then repeat('thread ' || n || ' ', 100000) when n % 9 = 0 then '  ' when n % 9 < 4 then 'heard ' || n end,
      case when n % 4 = 0 then jsonb_build_object('score', n) end,
      case when n % 11 = 0 then jsonb_build_array('q' || n) end,
      case n % 6 when 0 then null when 1 then '[1, 2]' when 2 then 'null' when 3 then '"text"' else jsonb_build_object('candidate', n) end,
      case when n % 13 = 0 then at + interval '2 min' end, case when n % 14 = 0 then at + interval '40 min' end,
      n || '@example.com', case when n % 29 = 0 then 'teams' when n % 37 = 0 then 'skype' else 'daily' end
    from generate_series(1, ${rows}) n, lateral (select timestamptz '2026-01-01' + n * interval '1 min' as at) t;

    create schema before;
    create table before.sessions as select * from public.bot_sessions;
    create table before.threads as select * from public.workflow_threads;
    create index on before.sessions (bot_id);
    create index on before.threads (workflow_thread_id);
    analyze;`)
}

/** What invariant_violations shows: nothing, after every step. */
export function violationsOf(database: TestDatabase): Promise<Record<string, unknown>[]> {
  return database.owner`select * from public.invariant_violations`
}

/** How many rows there are in `from`: a table, with joins and conditions as they stand in SQL. */
export async function countRows(database: TestDatabase, from: string): Promise<number> {
  const [row] = await database.owner.unsafe(`select count(*)::int as n from ${from}`)
  return row?.n
}

/** What the checks of a step in docs/migrate.md find: nothing, unless something is wrong. */
export async function checkStep(database: TestDatabase, step: number): Promise<Record<string, unknown>[]> {
  const guide = readFileSync(new URL('../../docs/migrate.md', import.meta.url), 'utf8')
  const section = guide.split(/^## /m).find((part) => part.startsWith(`${step}. `)) ?? ''
  const checks = [...section.matchAll(/^```sql\n(.*?)^```/gms)].flatMap(
    ([, block]) => block?.split(';\n') ?? [],
  )
  const found = []
  for (const check of checks.filter((statement) => statement.trim() !== '')) {
    found.push(...(await database.owner.unsafe(check)))
  }
  if (checks.length === 0) throw new Error(`docs/migrate.md has no check for step ${step}`)
  return found
}
