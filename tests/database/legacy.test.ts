import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { botIn, report } from '../support/bots.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import {
  applyOptional,
  applyStep,
  checkStep,
  countRows,
  createLegacyDatabase,
  fillLegacyTables,
  violationsOf,
} from '../support/legacy.ts'
import { rpc } from '../support/rpc.ts'

const rows = 20_000

describe('forty thousand rows of old code', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createLegacyDatabase()
    await fillLegacyTables(database.owner, rows)
  }, 120_000)
  afterAll(() => database.drop())

  const sessions_are_as_before = async () => {
    expect(await countRows(database, 'public.bot_sessions')).toBe(rows)
    expect(
      await countRows(
        database,
        '(select * from before.sessions except select * from public.bot_sessions) gone',
      ),
    ).toBe(0)
  }

  test('the baseline changes nothing', async () => {
    expect(await applyStep(database.owner, 'baseline')).toBeLessThan(60)
    await sessions_are_as_before()
    expect(
      await countRows(
        database,
        '(select * from before.threads except select * from public.workflow_threads) gone',
      ),
    ).toBe(0)
  }, 120_000)

  test('the statuses are there in less than a minute', async () => {
    expect(await applyStep(database.owner, 'statuses')).toBeLessThan(60)
    await database.owner.unsafe('analyze')
  }, 120_000)

  test('no invariant is broken, and the guide’s checks find nothing', async () => {
    expect(await violationsOf(database)).toEqual([])
    expect(await checkStep(database, 2)).toEqual([])
  })

  test('no session and no thread is lost, and sessions are as they were', async () => {
    await sessions_are_as_before()
    expect(
      await countRows(
        database,
        'before.threads b where not exists (select from public.workflow_threads t where t.workflow_thread_id = b.workflow_thread_id)',
      ),
    ).toBe(0)
    expect(
      await countRows(
        database,
        'before.sessions b where not exists (select from public.workflow_threads t where t.bot_id = b.bot_id and t.bot_status is not null)',
      ),
    ).toBe(0)
  })

  test('what only old code knows is as it was', async () => {
    const kept = `created_at, room_url, room_id, session_id, bot_enabled, meeting_start_time, meeting_end_time,
      transcript_text, bot_join_time, bot_leave_time, email, provider, webhook_callback_url`
    const [row] = await database.owner.unsafe(`
      select count(*)::int as same, count(*) filter (where t.legacy_meeting_status is distinct from b.meeting_status)::int as changed
      from before.threads b join public.workflow_threads t using (workflow_thread_id)
      where (${kept.replace(/(\w+)/g, 't.$1')}) is not distinct from (${kept.replace(/(\w+)/g, 'b.$1')})`)
    expect(row).toEqual({ same: rows, changed: 0 })
  })

  test('ids: uuids become the uuid, of duplicates the newest, others are kept in metadata', async () => {
    const threads = await database.owner`
      select b.workflow_thread_id, b.bot_id as said, t.bot_id, t.metadata ->> 'legacy_bot_id' as legacy_bot_id, t.bot_status,
        b.workflow_thread_id = first_value(b.workflow_thread_id) over (
          partition by lower(replace(b.bot_id, '-', '')) order by b.created_at desc) as newest
      from before.threads b join public.workflow_threads t using (workflow_thread_id)`
    const plain = (id: string) => id.toLowerCase().replaceAll('-', '')
    let [uuids, duplicates, others, none] = [0, 0, 0, 0]
    for (const thread of threads) {
      if (!thread.said) {
        none++
        expect(thread).toMatchObject({ legacy_bot_id: null, bot_status: null })
      } else if (!/^[0-9a-f]{32}$/.test(plain(thread.said))) {
        others++
        expect(thread.legacy_bot_id).toBe(thread.said)
      } else if (thread.newest) {
        uuids++
        expect(plain(thread.bot_id)).toBe(plain(thread.said))
        expect(thread.legacy_bot_id).toBeNull()
      } else {
        duplicates++
        expect(plain(thread.bot_id)).not.toBe(plain(thread.said))
        expect(thread.legacy_bot_id).toBe(thread.said)
      }
      if (thread.said) expect(thread.bot_status).not.toBeNull()
    }
    for (const n of [uuids, duplicates, others, none]) expect(n).toBeGreaterThan(500)
  })

  test('the session decides the status', async () => {
    const found = await database.owner`
      select b.status as said, t.bot_status, t.meeting_status, t.completion_reason, t.failure_stage, t.error_stage, t.error_code,
        bool_and(case when t.bot_status = 'failed'
          then t.error_message = coalesce(nullif(nullif(b.error, ' '), ''), 'Failed before the migration.') else t.error_message is null end) as says_why,
        bool_and(t.bot_started_at = b.started_at) as started,
        bool_and(case when t.bot_status = 'running' then t.bot_completed_at is null and t.left_at is null
          else t.bot_completed_at = coalesce(b.completed_at, t.bot_leave_time, t.meeting_end_time, b.updated_at) and t.left_at is not null end) as ended,
        bool_and(t.deadline_at is not distinct from case when t.bot_status = 'running' then b.started_at + interval '4 h' end) as due,
        bool_and(t.version = 2 and t.bot_seq = 1 and t.meeting_seq = 1 and not t.launched and t.owner_id is null) as counted
      from before.sessions b join public.workflow_threads t using (bot_id)
      group by 1, 2, 3, 4, 5, 6, 7 order by 1`
    const all = { says_why: true, started: true, ended: true, due: true, counted: true }
    const none = { completion_reason: null, failure_stage: null, error_stage: null, error_code: null }
    const completed = {
      ...none,
      ...all,
      bot_status: 'completed',
      meeting_status: 'completed',
      completion_reason: 'other',
    }
    const running = { ...none, ...all, bot_status: 'running', meeting_status: 'active' }
    expect(found).toEqual([
      { ...completed, said: ' Completed' },
      { ...running, said: 'RUNNING' },
      { ...completed, said: 'completed' },
      {
        ...all,
        said: 'failed',
        bot_status: 'failed',
        meeting_status: 'failed',
        completion_reason: null,
        failure_stage: 'active',
        error_stage: 'running',
        error_code: 'LEGACY_FAILURE',
      },
      { ...running, said: 'processing' },
      { ...running, said: 'running' },
    ])
  })

  test('without a session the old meeting status decides, of threads that had a bot', async () => {
    const found = await database.owner`
      select b.meeting_status as said, coalesce(b.bot_id, '') <> '' as had_bot, t.bot_status, t.meeting_status, t.error_message
      from before.threads b join public.workflow_threads t using (workflow_thread_id)
      where not exists (select from before.sessions s where s.bot_id = t.bot_id)
      group by 1, 2, 3, 4, 5`
    const expected: Record<string, [string, string]> = {
      completed: ['completed', 'completed'],
      ended: ['completed', 'completed'],
      failed: ['failed', 'failed'],
    }
    expect(found).toHaveLength(12)
    for (const group of found) {
      const [bot_status, meeting_status] = group.had_bot
        ? (expected[group.said] ?? ['running', 'active'])
        : [null, null]
      expect(group).toMatchObject({
        bot_status,
        meeting_status,
        error_message: bot_status === 'failed' ? 'Failed before the migration.' : null,
      })
    }
  })

  test('text becomes one utterance without a speaker; the session decides, the thread keeps its text', async () => {
    expect(
      await countRows(
        database,
        `public.workflow_threads t
        left join before.sessions s using (bot_id)
        cross join lateral (select coalesce(nullif(btrim(s.transcript_text), ''), nullif(btrim(t.transcript_text), '')) as said) x
        where (said is null) <> (t.transcript is null)
          or said <> btrim(t.transcript -> 0 ->> 'text') or jsonb_array_length(t.transcript) <> 1
          or t.transcript -> 0 ->> 'speaker' is not null or not t.transcript -> 0 ?& '{speaker,text,started_at,ended_at}'`,
      ),
    ).toBe(0)
  })

  test('every result and setting is in its column or in metadata', async () => {
    for (const column of ['qa_pairs', 'insights', 'bot_config']) {
      const holds = (from: string) => `
        before.${from === 'workflow_threads' ? 'threads' : 'sessions'} b
        join public.workflow_threads t using (${from === 'workflow_threads' ? 'workflow_thread_id' : 'bot_id'})
        where nullif(b.${column}, 'null') is not null`
      for (const from of ['workflow_threads', 'bot_sessions']) {
        expect(await countRows(database, holds(from))).toBeGreaterThan(1000)
        expect(
          await countRows(
            database,
            `${holds(from)} and b.${column} is distinct from t.${column}
              and b.${column} is distinct from t.metadata #> '{legacy_values,${from}.${column}}'`,
          ),
          `${from}.${column}`,
        ).toBe(0)
      }
    }
    expect(
      await countRows(
        database,
        `before.sessions b join public.workflow_threads t using (bot_id)
        where btrim(b.error) <> ''
          and b.error not in (coalesce(t.error_message, ''), coalesce(t.metadata #>> '{legacy_values,bot_sessions.error}', ''))`,
      ),
    ).toBe(0)
    expect(
      await countRows(
        database,
        `before.threads b join public.workflow_threads t using (workflow_thread_id)
        where b.room_name not in (t.room_name, coalesce(t.metadata #>> '{legacy_values,workflow_threads.room_name}', ''))`,
      ),
    ).toBe(0)
    expect(
      await countRows(
        database,
        `before.threads b join public.workflow_threads t using (workflow_thread_id)
        where nullif(b.metadata, 'null') is not null and not t.metadata @> b.metadata
          and t.metadata -> 'legacy_metadata' is distinct from b.metadata`,
      ),
    ).toBe(0)
  })

  test('what was repaired has a note', async () => {
    const found = await database.owner`
      select note, count(*)::int as n from public.workflow_threads t, jsonb_array_elements_text(t.metadata -> 'legacy_notes') note
      group by 1 order by 1`
    expect(found.map((row) => row.note)).toEqual([
      'The status was unknown: taken as running, kept in legacy_values.',
      'There was an end although the bot was running: kept in legacy_values.',
      'There was an error although the bot had not failed: kept in legacy_values.',
      'There was no time of the end: the last update stands in for it.',
      'bot_config is over 64 KB: kept in legacy_values.',
      'bot_config of the session is over 64 KB or no object: kept in legacy_values.',
      'bot_config of the thread is no object: kept in legacy_values.',
    ])
  })

  test('each adopted status has one row of history, and nothing was pushed', async () => {
    const history = await database.owner`
      select machine, seq, from_status, source, reason, count(*)::int as n,
        count(distinct subject_id)::int as subjects, min(owner_id::text) as owner_id
      from public.status_events group by 1, 2, 3, 4, 5 order by 1`
    const bots = await countRows(database, 'public.workflow_threads where bot_status is not null')
    const row = {
      seq: 1,
      from_status: null,
      source: 'system',
      reason: 'adopted',
      n: bots,
      subjects: bots,
      owner_id: null,
    }
    expect(history).toEqual([
      { ...row, machine: 'bot' },
      { ...row, machine: 'meeting' },
    ])
    expect(await countRows(database, "realtime.messages where event = 'status_changed'")).toBe(0)
    expect(await countRows(database, 'lifecycle.hints')).toBe(0)
    expect(
      await countRows(
        database,
        `public.status_events e join public.workflow_threads t on t.bot_id = e.subject_id
        where e.to_status <> case e.machine when 'bot' then t.bot_status::text else t.meeting_status::text end
          or (e.error_code, e.error_message) is distinct from (t.error_code, t.error_message)`,
      ),
    ).toBe(0)
  })

  test('threads that never had a bot are nobody’s work', async () => {
    const none = 'public.workflow_threads where bot_status is null'
    expect(await countRows(database, none)).toBe(rows / 5)
    expect(
      await countRows(
        database,
        `${none} and num_nonnulls(meeting_status, deadline_at, bot_status_updated_at, probe_due_at, launch_due_at, processing_due_at) > 0`,
      ),
    ).toBe(0)
    const [thread] = await database.owner`
      update public.workflow_threads set email = 'other@example.com' where workflow_thread_id = 'thread-10' returning *`
    expect(thread).toMatchObject({ bot_status: null, version: 0, deadline_at: null })
    expect(await rpc(database.owner, 'get_bot', { workflow_thread_id: 'thread-10' })).toBeNull()
    expect(await rpc(database.owner, 'stop_bot', { bot_id: thread?.bot_id })).toMatchObject({
      code: 'bot_not_found',
    })
    const list = await rpc<{ items: { bot_status: string }[] }>(database.owner, 'list_bots', {
      max_rows: 200,
    })
    expect(list.items).toHaveLength(200)
    expect(list.items.every((bot) => bot.bot_status !== null)).toBe(true)
  })

  test('the policies for everybody are gone, and so are the rights of anon and authenticated', async () => {
    const policies = await database.owner`
      select policyname from pg_policies where schemaname = 'public' and tablename in ('bot_sessions', 'workflow_threads')`
    expect(policies.map((row) => row.policyname)).toEqual(['owners read their threads'])
    const [rights] = await database.owner`
      select has_table_privilege('anon', 'public.bot_sessions', 'select') or has_table_privilege('authenticated', 'public.bot_sessions', 'select') as sessions,
        has_any_column_privilege('anon', 'public.workflow_threads', 'select, insert, update') as threads`
    expect(rights).toEqual({ sessions: false, threads: false })
  })

  test('the sweep gives up on bots of old code after four hours, and does not miss their heartbeats', async () => {
    const sql = database.connect('postgres', { max: 1 })
    // The newest bot began at about 2026-01-14 21:20.
    await sql`select set_config('rollcall.now', '2026-01-01T04:30:00Z', false)`
    const before = await countRows(database, "public.workflow_threads where bot_status = 'running'")
    const due = await countRows(
      database,
      "public.workflow_threads where bot_status = 'running' and bot_started_at <= '2026-01-01T00:30:00Z'",
    )
    expect(due).toBeGreaterThan(3)
    expect(await rpc(sql, 'lifecycle.sweep', { max_rows: 1000 })).toEqual({
      checked: due,
      changed: due,
      errors: 0,
    })
    expect(await rpc(sql, 'lifecycle.sweep', { max_rows: 1000 })).toMatchObject({ checked: 0 })
    const found = await database.owner`
      select bot_status, meeting_status, error_stage, error_code, failure_stage, count(*)::int as n
      from public.workflow_threads where error_code = 'LEGACY_ABANDONED' group by 1, 2, 3, 4, 5`
    expect(found).toEqual([
      {
        bot_status: 'failed',
        meeting_status: 'failed',
        error_stage: 'running',
        error_code: 'LEGACY_ABANDONED',
        failure_stage: 'active',
        n: due,
      },
    ])
    expect(await countRows(database, "public.workflow_threads where bot_status = 'running'")).toBe(
      before - due,
    )
    expect(await violationsOf(database)).toEqual([])
  })

  test('dual write begins in less than a minute, without a change where there is no news', async () => {
    await database.owner`
      update public.bot_sessions b set status = 'completed', completed_at = now(), insights = '{"late": true}'
      from public.workflow_threads t
      where t.bot_id = b.bot_id and t.bot_status = 'running' and b.started_at > '2026-01-10'`
    await database.owner`
      insert into public.bot_sessions (room_url, room_name, status, transcript_text)
      select 'https://team.daily.co/late', 'late', 'running', 'late ' || n from generate_series(1, 1000) n`
    await database.owner`create table before.late as select * from public.bot_sessions`
    expect(await applyStep(database.owner, 'dual_write')).toBeLessThan(60)
    const late = await database.owner`
      select bot_status, count(*)::int as n from public.workflow_threads t join before.late b using (bot_id)
      where b.insights = '{"late": true}' or b.room_name = 'late' group by 1 order by 1`
    expect(late).toEqual([
      { bot_status: 'running', n: 1000 },
      { bot_status: 'completed', n: expect.any(Number) },
    ])
    expect(late[1]?.n).toBeGreaterThan(1000)
    const changed = await database.owner`
      select b.status as said, s.status, count(*)::int as n from before.late b left join public.bot_sessions s using (bot_id)
      where b is distinct from s group by 1, 2 order by 1`
    // Only of what the sweep gave up in the meantime.
    expect(changed.map((row) => row.status)).toEqual(changed.map(() => 'failed'))
    expect(await violationsOf(database)).toEqual([])
    expect(await checkStep(database, 3)).toEqual([])
  }, 120_000)

  test('the cutover takes less than a minute, and the view shows what the table had', async () => {
    await database.owner`create table before.cutover as select * from public.bot_sessions`
    expect(await applyStep(database.owner, 'cutover')).toBeLessThan(60)
    const differing = await database.owner`
      select count(*)::int as n,
        count(*) filter (where v.bot_id is null)::int as gone,
        count(*) filter (where v.status <> case when b.status in ('completed', 'failed', 'running') then b.status
          when b.status = ' Completed' then 'completed' else 'running' end)::int as status,
        count(*) filter (where v.room_name <> b.room_name or v.room_url <> b.room_url)::int as room,
        count(*) filter (where v.started_at <> b.started_at or v.created_at <> b.created_at)::int as times,
        count(*) filter (where b.status in ('completed', 'failed') and b.insights is distinct from '{"late": true}'
          and v.completed_at <> b.completed_at)::int as ended,
        count(*) filter (where btrim(b.transcript_text) <> '' and v.transcript_text is distinct from b.transcript_text)::int as transcript,
        count(*) filter (where v.qa_pairs <> nullif(b.qa_pairs, 'null') or v.insights <> nullif(b.insights, 'null'))::int as results,
        count(*) filter (where btrim(b.error) <> '' and v.error is distinct from b.error)::int as error
      from before.cutover b left join public.bot_sessions v using (bot_id)`
    expect(differing).toEqual([
      {
        n: rows + 1000,
        gone: 0,
        status: 0,
        room: 0,
        times: 0,
        ended: 0,
        transcript: 0,
        results: 0,
        error: 0,
      },
    ])
    const columns = await database.owner`
      select array_agg(attname::text order by attnum) filter (where attrelid = 'public.bot_sessions'::regclass) as now,
        array_agg(attname::text order by attnum) filter (where attrelid = 'before.sessions'::regclass) as before,
        array_agg(atttypid order by attnum) filter (where attrelid = 'public.bot_sessions'::regclass)
          = array_agg(atttypid order by attnum) filter (where attrelid = 'before.sessions'::regclass) as types
      from pg_attribute where attnum > 0`
    expect(columns[0]?.now).toEqual(columns[0]?.before)
    expect(columns[0]?.types).toBe(true)
    expect(await violationsOf(database)).toEqual([])
    expect(await checkStep(database, 4)).toEqual([])
  }, 120_000)

  test('a room is still found by its name, from an index', async () => {
    const [row] = await database.as(
      'service_role',
      {},
      (sql) => sql`select status, room_url from public.bot_sessions where room_name = 'room-4'`,
    )
    expect(row).toMatchObject({ room_url: 'https://team.daily.co/room-4' })
    const plan = await database.owner`explain select * from public.bot_sessions where room_name = 'room-4'`
    expect(plan.map((line) => line['QUERY PLAN']).join()).toContain('workflow_threads_by_room_name')
  })

  test('at the end bot_sessions goes, and no bot with it', async () => {
    const bots = await countRows(database, 'public.workflow_threads')
    await applyStep(database.owner, 'rest')
    await applyOptional(database.owner, 'drop_bot_sessions')
    expect(await countRows(database, 'public.workflow_threads')).toBe(bots)
    const [left] = await database.owner`
      select to_regclass('public.bot_sessions') as view, to_regclass('private.legacy_bot_sessions') as table`
    expect(left).toEqual({ view: null, table: null })
    expect(await violationsOf(database)).toEqual([])
  })
})

test('before dual write a bot that old code has ended is not given up, and keeps its results', async () => {
  const database = await createLegacyDatabase()
  try {
    await database.owner.unsafe(`
      insert into public.bot_sessions (room_url, room_name) select 'https://team.daily.co/' || n, n::text from generate_series(1, 3) n`)
    await applyStep(database.owner, 'baseline')
    await applyStep(database.owner, 'statuses')
    await database.owner`update public.bot_sessions set status = 'completed', insights = '{"late": 1}' where room_name = '1'`
    await database.owner`update public.bot_sessions set status = 'failed', error = 'No camera.' where room_name = '2'`
    const sql = database.connect('postgres', { max: 1 })
    await sql`select set_config('rollcall.now', (now() + interval '5 h')::text, false)`
    expect(await rpc(sql, 'lifecycle.sweep')).toEqual({ checked: 3, changed: 3, errors: 0 })
    await applyStep(database.owner, 'dual_write')
    const found = await database.owner`
      select t.bot_status, t.error_code, t.error_message, t.insights, b.status
      from public.workflow_threads t join public.bot_sessions b using (bot_id) order by t.room_name`
    expect(found).toEqual([
      {
        bot_status: 'completed',
        error_code: null,
        error_message: null,
        insights: { late: 1 },
        status: 'completed',
      },
      {
        bot_status: 'failed',
        error_code: 'LEGACY_FAILURE',
        error_message: 'No camera.',
        insights: null,
        status: 'failed',
      },
      {
        bot_status: 'failed',
        error_code: 'LEGACY_ABANDONED',
        error_message: 'The bot was started by old code and never ended.',
        insights: null,
        status: 'failed',
      },
    ])
    expect(await violationsOf(database)).toEqual([])
  } finally {
    await database.drop()
  }
}, 60_000)

test('nobody but the owner may call what the adoption is made of, and old code alone sees bot_sessions', async () => {
  const database = await createLegacyDatabase()
  const roles = ['anon', 'authenticated', 'service_role']
  const readable = async () =>
    database.owner`
      select role, c.oid::regclass::text as name, array_agg(p order by p) as may
      from unnest(${roles}::text[]) role, unnest('{select,insert,update,delete,truncate,references,trigger}'::text[]) p, pg_class c
      where c.relname ~ 'bot_sessions|legacy_bots' and c.relkind in ('r', 'v') and has_table_privilege(role, c.oid, p)
      group by 1, c.oid`
  try {
    await applyStep(database.owner, 'baseline')
    const without = await createTestDatabase()
    const known = await without.owner`select p.oid::regprocedure::text as name from pg_proc p`
    await without.drop()
    for (const step of ['statuses', 'dual_write', 'cutover'] as const) {
      await applyStep(database.owner, step)
      const found = await database.owner`
        select p.oid::regprocedure::text as name, p.proconfig::text like '%search_path=%' as has_path,
          (select count(*)::int from unnest(${roles}::text[]) role where has_function_privilege(role, p.oid, 'execute')) as callers
        from pg_proc p
        where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace, 'lifecycle'::regnamespace)
          and p.oid::regprocedure::text <> all (${known.map((row) => row.name)}::text[])`
      expect(found.length).toBeGreaterThan(10)
      for (const row of found) expect(row).toMatchObject({ has_path: true, callers: 0 })
      expect(await readable()).toEqual([
        {
          role: 'service_role',
          name: 'bot_sessions',
          may: step === 'cutover' ? ['select'] : ['delete', 'insert', 'select', 'update'],
        },
      ])
      const [open] = await database.owner`
        select count(*)::int as n from pg_class where relname ~ 'bot_sessions|workflow_threads' and relkind = 'r' and not relrowsecurity`
      expect(open?.n).toBe(0)
    }
  } finally {
    await database.drop()
  }
}, 60_000)

test('the project’s own triggers do not hear of the adoption, and work afterwards', async () => {
  const database = await createLegacyDatabase()
  try {
    await database.owner.unsafe(`
      create table public.calls (of text, at timestamptz default now());
      create function public.call() returns trigger language plpgsql as $$
        begin insert into public.calls values (tg_table_name); new.updated_at := now(); return new; end $$;
      create trigger call before insert or update on public.bot_sessions for each row execute function public.call();
      create trigger call before insert or update on public.workflow_threads for each row execute function public.call();
      create trigger off before insert or update on public.workflow_threads for each row execute function public.call();
      alter table public.workflow_threads disable trigger off;
      insert into public.bot_sessions (room_url, room_name) values ('https://team.daily.co/a', 'a');
      insert into public.workflow_threads (workflow_thread_id, room_name, bot_id) values ('t', 'a', 'no uuid');
      update public.workflow_threads set updated_at = '2026-01-01';
      truncate public.calls;`)
    for (const step of ['baseline', 'statuses', 'dual_write'] as const) await applyStep(database.owner, step)
    expect(await countRows(database, 'public.calls')).toBe(0)
    await database.owner`update public.workflow_threads set email = 'x' where workflow_thread_id = 't'`
    expect(await countRows(database, 'public.calls')).toBe(1)
  } finally {
    await database.drop()
  }
}, 60_000)

test.each([
  ['threads alone', 'drop table public.bot_sessions'],
  ['sessions alone', 'drop table public.workflow_threads'],
  [
    'threads of an earlier time',
    'alter table public.workflow_threads drop column bot_join_time, drop column provider, drop column qa_pairs',
  ],
])(
  '%s are adopted too',
  async (_, change) => {
    const database = await createLegacyDatabase()
    try {
      await database.owner.unsafe(`
      insert into public.workflow_threads (workflow_thread_id, room_name, bot_id, meeting_status) values ('t', 'a', gen_random_uuid(), 'completed');
      insert into public.bot_sessions (room_url, room_name, status) values ('https://team.daily.co/a', 'a', 'completed');
      ${change};`)
      for (const step of ['baseline', 'statuses', 'dual_write', 'cutover', 'rest'] as const) {
        await applyStep(database.owner, step)
        if (step !== 'baseline') {
          expect(
            await countRows(database, "public.workflow_threads where bot_status = 'completed'"),
          ).toBeGreaterThan(0)
          expect(await violationsOf(database)).toEqual([])
        }
      }
      const bot = await botIn(database.owner, 'active')
      await report(database.owner, bot, 'completed')
      await applyOptional(database.owner, 'drop_bot_sessions')
      expect(await violationsOf(database)).toEqual([])
    } finally {
      await database.drop()
    }
  },
  60_000,
)

test('where there never was old code nothing of it is made', async () => {
  const database = await createTestDatabase()
  try {
    const left = await database.owner`
      select proname as name from pg_proc where pronamespace in ('private'::regnamespace, 'lifecycle'::regnamespace)
        and proname ~ 'legacy|bot_session|session_(status|row)|carry_|adopt|mirror|dual_write|utterance$|pause_triggers|claim_bot_id'
        and proname <> 'abandon_legacy_bot'
      union all
      select attname from pg_attribute where attrelid = 'public.workflow_threads'::regclass
        and attname in ('legacy_meeting_status', 'legacy_bot_id', 'provider', 'room_url', 'email', 'transcript_text')
      union all
      select relname from pg_class where relname ~ 'bot_sessions|legacy|by_room_name'`
    expect(left).toEqual([])
    // Copied into the migrations, the last step runs here as well.
    await applyOptional(database.owner, 'drop_bot_sessions')
  } finally {
    await database.drop()
  }
})

test('a table bot_sessions of another make is refused', async () => {
  const database = await createTestDatabase({ migrated: false })
  try {
    await database.owner`create table public.bot_sessions (bot_id text, room_url text, room_name text, status text, started_at date)`
    await expect(applyStep(database.owner, 'baseline')).rejects.toThrow(
      /public\.bot_sessions.*rename or drop/,
    )
  } finally {
    await database.drop()
  }
})
