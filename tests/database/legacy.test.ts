import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { botIn, report, requestBot, transcript } from '../support/bots.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { applyOptional, applyStep, createLegacyDatabase, fillLegacyTables } from '../support/legacy.ts'
import { rpc } from '../support/rpc.ts'

const rows = 20_000

async function violations(database: TestDatabase) {
  return database.owner`select * from public.invariant_violations`
}

/** How many rows a query counts. */
async function count(database: TestDatabase, query: string): Promise<number> {
  const [row] = await database.owner.unsafe(`select count(*)::int as n from ${query}`)
  return row?.n
}

describe('forty thousand rows of old code', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createLegacyDatabase()
    await fillLegacyTables(database.owner, rows)
  }, 120_000)
  afterAll(() => database.drop())

  const sessions_are_as_before = async () => {
    expect(await count(database, 'public.bot_sessions')).toBe(rows)
    expect(
      await count(database, '(select * from before.sessions except select * from public.bot_sessions) gone'),
    ).toBe(0)
  }

  test('the baseline changes nothing', async () => {
    expect(await applyStep(database.owner, 'baseline')).toBeLessThan(60)
    await sessions_are_as_before()
    expect(
      await count(
        database,
        '(select * from before.threads except select * from public.workflow_threads) gone',
      ),
    ).toBe(0)
  }, 120_000)

  test('the statuses are there in less than a minute', async () => {
    expect(await applyStep(database.owner, 'statuses')).toBeLessThan(60)
    await database.owner.unsafe('analyze')
  }, 120_000)

  test('no invariant is broken', async () => {
    expect(await violations(database)).toEqual([])
  })

  test('no session and no thread is lost, and sessions are as they were', async () => {
    await sessions_are_as_before()
    expect(
      await count(
        database,
        'before.threads b where not exists (select from public.workflow_threads t where t.workflow_thread_id = b.workflow_thread_id)',
      ),
    ).toBe(0)
    expect(
      await count(
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
      await count(
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
        expect(await count(database, holds(from))).toBeGreaterThan(1000)
        expect(
          await count(
            database,
            `${holds(from)} and b.${column} is distinct from t.${column}
              and b.${column} is distinct from t.metadata #> '{legacy_values,${from}.${column}}'`,
          ),
          `${from}.${column}`,
        ).toBe(0)
      }
    }
    expect(
      await count(
        database,
        `before.sessions b join public.workflow_threads t using (bot_id)
        where btrim(b.error) <> ''
          and b.error not in (coalesce(t.error_message, ''), coalesce(t.metadata #>> '{legacy_values,bot_sessions.error}', ''))`,
      ),
    ).toBe(0)
    expect(
      await count(
        database,
        `before.threads b join public.workflow_threads t using (workflow_thread_id)
        where b.room_name not in (t.room_name, coalesce(t.metadata #>> '{legacy_values,workflow_threads.room_name}', ''))`,
      ),
    ).toBe(0)
    expect(
      await count(
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
    const bots = await count(database, 'public.workflow_threads where bot_status is not null')
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
    expect(await count(database, "realtime.messages where event = 'status_changed'")).toBe(0)
    expect(await count(database, 'lifecycle.hints')).toBe(0)
    expect(
      await count(
        database,
        `public.status_events e join public.workflow_threads t on t.bot_id = e.subject_id
        where e.to_status <> case e.machine when 'bot' then t.bot_status::text else t.meeting_status::text end
          or (e.error_code, e.error_message) is distinct from (t.error_code, t.error_message)`,
      ),
    ).toBe(0)
  })

  test('threads that never had a bot are nobody’s work', async () => {
    const none = 'public.workflow_threads where bot_status is null'
    expect(await count(database, none)).toBe(rows / 5)
    expect(
      await count(
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
    const before = await count(database, "public.workflow_threads where bot_status = 'running'")
    const due = await count(
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
    expect(await count(database, "public.workflow_threads where bot_status = 'running'")).toBe(before - due)
    expect(await violations(database)).toEqual([])
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
    expect(await violations(database)).toEqual([])
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
    expect(await violations(database)).toEqual([])
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
    const bots = await count(database, 'public.workflow_threads')
    await applyStep(database.owner, 'rest')
    await applyOptional(database.owner, 'drop_bot_sessions')
    expect(await count(database, 'public.workflow_threads')).toBe(bots)
    const [left] = await database.owner`
      select to_regclass('public.bot_sessions') as view, to_regclass('private.legacy_bot_sessions') as table`
    expect(left).toEqual({ view: null, table: null })
    expect(await violations(database)).toEqual([])
  })
})

describe('old code and Rollcall side by side', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createLegacyDatabase()
    await applyStep(database.owner, 'baseline')
    await applyStep(database.owner, 'statuses')
    await applyStep(database.owner, 'dual_write')
    await applyStep(database.owner, 'rest')
  }, 120_000)
  afterAll(async () => {
    expect(await violations(database)).toEqual([])
    await database.drop()
  })

  /** A statement of old code, as /rest/v1 runs it. */
  const old_code = <T>(work: Parameters<typeof database.as<T>>[2]) => database.as('service_role', {}, work)

  /** Old code starts a bot; its thread is made unless there is one. */
  async function startOldBot(more: { transcript_text?: string } = {}): Promise<string> {
    const [row] = await old_code(
      (sql) => sql`
        insert into public.bot_sessions (room_url, room_name, transcript_text)
        values ('https://team.daily.co/standup', 'standup', ${more.transcript_text ?? null}) returning bot_id`,
    )
    return row?.bot_id
  }
  const threadOf = async (bot_id: string) => {
    const found = await database.owner`select * from public.workflow_threads where bot_id = ${bot_id}`
    expect(found).toHaveLength(1)
    return found[0] as Record<string, unknown>
  }
  const sessionOf = async (bot_id: string) => {
    const found = await database.owner`select * from public.bot_sessions where bot_id = ${bot_id}`
    return found[0] as Record<string, unknown> | undefined
  }
  const historyOf = async (bot_id: string) => {
    const found = await database.owner`
      select machine, seq, from_status, to_status, source, reason, implied from public.status_events where subject_id = ${bot_id} order by id`
    return found.map(
      (e) => `${e.machine} ${e.seq} ${e.from_status} -> ${e.to_status} ${e.source} ${e.reason}`,
    )
  }

  test('a bot that old code starts becomes a bot at once, without a push', async () => {
    const bot_id = await startOldBot()
    expect(await threadOf(bot_id)).toMatchObject({
      bot_status: 'running',
      meeting_status: 'active',
      owner_id: null,
      room_name: 'standup',
      meeting_url: 'https://team.daily.co/standup',
      platform: 'daily',
      native_meeting_id: 'standup',
      version: 2,
    })
    expect(await historyOf(bot_id)).toEqual([
      'meeting 1 null -> active system adopted',
      'bot 1 null -> running system adopted',
    ])
    expect(await count(database, `realtime.messages where topic = 'bot:${bot_id}'`)).toBe(0)
  })

  test('old code completes its bot: statuses, times and results follow, with a history and a push', async () => {
    const bot_id = await startOldBot()
    await old_code(
      (sql) => sql`
        update public.bot_sessions
        set status = 'completed', completed_at = now(), transcript_text = 'all that was said', updated_at = now(),
          qa_pairs = '[{"question": "q", "answer": "a"}]', insights = '{"summary": "s"}', bot_config = '{"voice": 1}'
        where bot_id = ${bot_id}`,
    )
    expect(await threadOf(bot_id)).toMatchObject({
      bot_status: 'completed',
      meeting_status: 'completed',
      completion_reason: 'other',
      transcript: [{ speaker: null, text: 'all that was said', started_at: null, ended_at: null }],
      qa_pairs: [{ question: 'q', answer: 'a' }],
      insights: { summary: 's' },
      bot_config: { voice: 1 },
      deadline_at: null,
      version: 4,
    })
    expect((await historyOf(bot_id)).slice(2)).toEqual([
      'meeting 2 active -> completed system bot_sessions',
      'bot 2 running -> completed system bot_sessions',
    ])
    expect(await count(database, `realtime.messages where topic = 'bot:${bot_id}'`)).toBe(2)
  })

  test('old code fails its bot, with and without an error', async () => {
    for (const error of ['the room was closed', null, ' ']) {
      const bot_id = await startOldBot()
      await old_code(
        (sql) =>
          sql`update public.bot_sessions set status = 'failed', error = ${error} where bot_id = ${bot_id}`,
      )
      expect(await threadOf(bot_id)).toMatchObject({
        bot_status: 'failed',
        meeting_status: 'failed',
        failure_stage: 'active',
        error_stage: 'running',
        error_code: 'LEGACY_FAILURE',
        error_message: error?.trim() || 'Old code gave no reason.',
      })
    }
  })

  test.each([
    ['completed', 'running'],
    ['completed', 'failed'],
    ['failed', 'running'],
    ['failed', 'completed'],
  ])('old code can not move a bot back from %s to %s, but its results are kept', async (end, back) => {
    const bot_id = await startOldBot()
    await old_code(
      (sql) =>
        sql`update public.bot_sessions set status = ${end}, completed_at = now() where bot_id = ${bot_id}`,
    )
    const thread = await threadOf(bot_id)
    const history = await historyOf(bot_id)
    await old_code(
      (sql) => sql`
        update public.bot_sessions set status = ${back}, completed_at = null, error = 'late', insights = '{"late": 1}', transcript_text = 'late words'
        where bot_id = ${bot_id}`,
    )
    expect(await threadOf(bot_id)).toMatchObject({
      bot_status: end,
      bot_completed_at: thread.bot_completed_at,
      error_message: thread.error_message,
      version: thread.version,
      insights: { late: 1 },
      transcript: [{ text: 'late words' }],
      metadata: { legacy_values: { 'bot_sessions.error': 'late' } },
    })
    expect(await sessionOf(bot_id)).toMatchObject({ status: end, completed_at: thread.bot_completed_at })
    expect(await historyOf(bot_id)).toEqual(history)
    const rejected = await database.owner`select * from public.status_rejections where subject_id = ${bot_id}`
    expect(rejected).toMatchObject([
      { machine: 'bot', from_status: end, to_status: back, code: 'illegal_transition' },
    ])
  })

  test('the same written twice changes nothing the second time', async () => {
    const bot_id = await startOldBot()
    for (const _ of [1, 2]) {
      await old_code(
        (sql) =>
          sql`update public.bot_sessions set status = 'completed', insights = '{"a": 1}' where bot_id = ${bot_id}`,
      )
    }
    expect(await historyOf(bot_id)).toHaveLength(4)
    expect((await threadOf(bot_id)).version).toBe(4)
    expect(await count(database, `public.status_rejections where subject_id = '${bot_id}'`)).toBe(0)
  })

  test('a result is not erased by a null, and what fits no column is kept in metadata', async () => {
    const bot_id = await startOldBot({ transcript_text: 'said' })
    await old_code(
      (sql) => sql`
        update public.bot_sessions set transcript_text = null, status = 'still there', error = 'a warning',
          bot_config = ${sql.json({ prompt: 'x'.repeat(70_000) })} where bot_id = ${bot_id}`,
    )
    expect(await threadOf(bot_id)).toMatchObject({
      bot_status: 'running',
      transcript: [{ text: 'said' }],
      bot_config: null,
      metadata: {
        legacy_values: {
          'bot_sessions.error': 'a warning',
          'bot_sessions.bot_config': { prompt: 'x'.repeat(70_000) },
        },
      },
    })
    // Old code's own word for it stays.
    expect(await sessionOf(bot_id)).toMatchObject({ status: 'still there' })
  })

  test('a session that old code deletes leaves its bot', async () => {
    const bot_id = await startOldBot()
    await old_code((sql) => sql`delete from public.bot_sessions where bot_id = ${bot_id}`)
    expect(await threadOf(bot_id)).toMatchObject({ bot_status: 'running' })
  })

  test('a new bot appears as running, stays so until its end, and ends there too', async () => {
    const bot = await requestBot(database.owner, {
      native_meeting_id: 'planning',
      meeting_url: 'http://127.0.0.1/room/planning',
    })
    const statuses = [(await sessionOf(bot.bot_id))?.status]
    for (const status of ['joining', 'active']) {
      await report(database.owner, bot, status)
      statuses.push((await sessionOf(bot.bot_id))?.status)
    }
    expect(statuses).toEqual(['running', 'running', 'running'])
    const row = await threadOf(bot.bot_id)
    expect(await sessionOf(bot.bot_id)).toMatchObject({
      room_name: 'planning',
      room_url: 'http://127.0.0.1/room/planning',
      started_at: row.bot_started_at,
      completed_at: null,
    })
    await report(database.owner, bot, 'completed', { transcript })
    expect(await sessionOf(bot.bot_id)).toMatchObject({
      status: 'running',
      transcript_text: 'Ada: Who takes the notes?\nGrace: I will take the notes.',
    })
    const claim = await rpc(database.owner, 'claim_processing', { worker: 'test' })
    await rpc(database.owner, 'complete_processing', {
      workflow_thread_id: bot.workflow_thread_id,
      processing_token: claim.processing_token,
      qa_pairs: [{ question: 'Who?', answer: 'I.' }],
      insights: { summary: 'Notes.' },
    })
    const done = await threadOf(bot.bot_id)
    expect(await sessionOf(bot.bot_id)).toMatchObject({
      status: 'completed',
      completed_at: done.bot_completed_at,
      qa_pairs: [{ question: 'Who?', answer: 'I.' }],
      insights: { summary: 'Notes.' },
      error: null,
    })
  })

  test('a new bot that fails says why in bot_sessions', async () => {
    const bot = await requestBot(database.owner)
    await report(database.owner, bot, 'failed', { error_message: 'No camera.' })
    expect(await sessionOf(bot.bot_id)).toMatchObject({ status: 'failed', error: 'No camera.' })
  })

  test('old code ends a new bot where that is legal, and only there', async () => {
    const waiting = await requestBot(database.owner)
    await old_code(
      (sql) => sql`update public.bot_sessions set status = 'completed' where bot_id = ${waiting.bot_id}`,
    )
    expect(await threadOf(waiting.bot_id)).toMatchObject({
      bot_status: 'pending',
      meeting_status: 'requested',
    })
    expect(await sessionOf(waiting.bot_id)).toMatchObject({ status: 'running', completed_at: null })

    const active = await botIn(database.owner, 'active')
    await report(database.owner, active, 'transcript', { chunk: 0, utterances: transcript })
    await old_code(
      (sql) =>
        sql`update public.bot_sessions set status = 'completed', transcript_text = 'words', insights = '{"by": "old code"}' where bot_id = ${active.bot_id}`,
    )
    expect(await threadOf(active.bot_id)).toMatchObject({
      bot_status: 'completed',
      meeting_status: 'completed',
      insights: { by: 'old code' },
    })
    // Once it is told to leave, it left for that reason.
    const stopping = await botIn(database.owner, 'stopping')
    await old_code(
      (sql) => sql`update public.bot_sessions set status = 'completed' where bot_id = ${stopping.bot_id}`,
    )
    expect(await threadOf(stopping.bot_id)).toMatchObject({
      bot_status: 'completed',
      completion_reason: 'stopped',
    })
  })

  test('what a new bot heard keeps its speakers, whatever old code writes', async () => {
    const bot = await botIn(database.owner, 'active')
    await report(database.owner, bot, 'completed', { transcript })
    await old_code(
      (sql) =>
        sql`update public.bot_sessions set transcript_text = 'plain words' where bot_id = ${bot.bot_id}`,
    )
    expect(await threadOf(bot.bot_id)).toMatchObject({ transcript })
  })

  test('a heartbeat writes nothing into bot_sessions', async () => {
    const bot = await botIn(database.owner, 'active')
    const xmin = async () =>
      (await database.owner`select xmin::text from public.bot_sessions where bot_id = ${bot.bot_id}`)[0]?.xmin
    const before = await xmin()
    await report(database.owner, bot, 'heartbeat')
    expect(await xmin()).toBe(before)
  })

  test('the sweep gives up on a bot of old code after four hours, in both tables, and old code can not bring it back', async () => {
    const bot_id = await startOldBot()
    await old_code(
      (sql) =>
        sql`update public.bot_sessions set started_at = now() - interval '3 h 59 min' where bot_id = ${bot_id}`,
    )
    expect(await rpc(database.owner, 'lifecycle.sweep')).toMatchObject({ changed: 0 })
    await old_code(
      (sql) =>
        sql`update public.bot_sessions set started_at = now() - interval '4 h 1 min' where bot_id = ${bot_id}`,
    )
    expect(await rpc(database.owner, 'lifecycle.sweep')).toMatchObject({ changed: 1, errors: 0 })
    expect(await threadOf(bot_id)).toMatchObject({ error_code: 'LEGACY_ABANDONED', bot_status: 'failed' })
    expect(await sessionOf(bot_id)).toMatchObject({
      status: 'failed',
      error: 'The bot was started by old code and never ended.',
    })
    await old_code(
      (sql) =>
        sql`update public.bot_sessions set status = 'completed', insights = '{"late": 1}' where bot_id = ${bot_id}`,
    )
    expect(await threadOf(bot_id)).toMatchObject({ bot_status: 'failed', insights: { late: 1 } })
    expect(await sessionOf(bot_id)).toMatchObject({ status: 'failed' })
  })

  test('old code writes its columns of workflow_threads, and no status', async () => {
    const id = randomUUID()
    await old_code(
      (sql) =>
        sql`insert into public.workflow_threads (workflow_thread_id, room_name, email, bot_id) values (${id}, 'r', 'a@example.com', null)`,
    )
    await old_code(
      (sql) =>
        sql`update public.workflow_threads set legacy_meeting_status = 'completed', insights = '{"a": 1}', webhook_sent = true where workflow_thread_id = ${id}`,
    )
    const [row] = await database.owner`select * from public.workflow_threads where workflow_thread_id = ${id}`
    expect(row).toMatchObject({ bot_status: null, meeting_status: null, insights: { a: 1 }, version: 0 })
    for (const column of [
      "bot_status = 'pending'",
      "meeting_status = 'requested'",
      'version = 9',
      'owner_id = null',
      "error_code = 'X'",
    ]) {
      await expect(
        old_code((sql) =>
          sql.unsafe(`update public.workflow_threads set ${column} where workflow_thread_id = '${id}'`),
        ),
      ).rejects.toMatchObject({ code: '42501' })
    }
    await expect(old_code((sql) => sql`delete from public.workflow_threads`)).rejects.toMatchObject({
      code: '42501',
    })
  })

  test('what old code writes on the thread of a bot shows in its session, and the other way round', async () => {
    const bot_id = await startOldBot()
    await old_code(
      (sql) =>
        sql`update public.workflow_threads set insights = '{"from": "thread"}' where bot_id = ${bot_id}`,
    )
    expect(await sessionOf(bot_id)).toMatchObject({ insights: { from: 'thread' } })
    await old_code(
      (sql) => sql`update public.bot_sessions set insights = '{"from": "session"}' where bot_id = ${bot_id}`,
    )
    expect(await threadOf(bot_id)).toMatchObject({ insights: { from: 'session' } })
    expect(await historyOf(bot_id)).toHaveLength(2)
  })

  describe('old code names the bot of a thread', () => {
    const startThread = async () => {
      const id = randomUUID()
      await old_code(
        (sql) => sql`
        insert into public.workflow_threads (workflow_thread_id, room_name, email, insights, metadata)
        values (${id}, 'standup', 'a@example.com', '{"of": "thread"}', '{"candidate": 1}')`,
      )
      return id
    }
    const threadById = async (id: string) =>
      (
        await database.owner`select * from public.workflow_threads where workflow_thread_id = ${id}`
      )[0] as Record<string, unknown>

    test('before its session is there', async () => {
      const id = await startThread()
      const bot_id = randomUUID()
      await old_code(
        (sql) => sql`update public.workflow_threads set bot_id = ${bot_id} where workflow_thread_id = ${id}`,
      )
      expect(await threadById(id)).toMatchObject({ bot_id, bot_status: null })
      await old_code(
        (sql) =>
          sql`insert into public.bot_sessions (bot_id, room_url, room_name) values (${bot_id}, 'https://team.daily.co/x', 'x')`,
      )
      expect(await threadById(id)).toMatchObject({ bot_id, bot_status: 'running', email: 'a@example.com' })
      expect(await threadOf(bot_id)).toMatchObject({ workflow_thread_id: id })
    })

    test('after its session: the thread takes over the row that the session got, with its history', async () => {
      const id = await startThread()
      const bot_id = await startOldBot({ transcript_text: 'said' })
      await old_code(
        (sql) =>
          sql`update public.bot_sessions set status = 'completed', insights = '{"of": "session"}' where bot_id = ${bot_id}`,
      )
      const rows_before = await count(database, 'public.workflow_threads')
      await old_code(
        (sql) =>
          sql`update public.workflow_threads set bot_id = ${bot_id}, bot_enabled = true where workflow_thread_id = ${id}`,
      )
      expect(await threadOf(bot_id)).toMatchObject({
        workflow_thread_id: id,
        bot_status: 'completed',
        meeting_status: 'completed',
        email: 'a@example.com',
        bot_enabled: true,
        version: 4,
        insights: { of: 'session' },
        transcript: [{ text: 'said' }],
        metadata: { candidate: 1, legacy_values: { 'workflow_threads.insights': { of: 'thread' } } },
      })
      expect(await count(database, 'public.workflow_threads')).toBe(rows_before - 1)
      expect(await historyOf(bot_id)).toHaveLength(4)
      expect(await violations(database)).toEqual([])
    })

    test('in an upsert, for a new thread and for one that is there', async () => {
      for (const id of [randomUUID(), await startThread()]) {
        const bot_id = await startOldBot()
        await old_code(
          (sql) => sql`
          insert into public.workflow_threads (workflow_thread_id, room_name, email, bot_id) values (${id}, 'r', 'b@example.com', ${bot_id})
          on conflict (workflow_thread_id) do update
          set workflow_thread_id = excluded.workflow_thread_id, room_name = excluded.room_name, email = excluded.email, bot_id = excluded.bot_id`,
        )
        expect(await threadOf(bot_id)).toMatchObject({
          workflow_thread_id: id,
          bot_status: 'running',
          email: 'b@example.com',
        })
      }
    })

    test('a second one: the thread keeps its bot, and the other id in metadata', async () => {
      const id = await startThread()
      const first = await startOldBot()
      const second = await startOldBot()
      for (const bot_id of [first, second]) {
        await old_code(
          (sql) =>
            sql`update public.workflow_threads set bot_id = ${bot_id} where workflow_thread_id = ${id}`,
        )
      }
      expect(await threadById(id)).toMatchObject({
        bot_id: first,
        metadata: { candidate: 1, legacy_bot_id: second },
      })
      expect(await threadOf(second)).toMatchObject({ bot_status: 'running' })
      // What the migrations keep there outlives old code's own metadata.
      await old_code(
        (sql) =>
          sql`update public.workflow_threads set metadata = '{"candidate": 2}' where workflow_thread_id = ${id}`,
      )
      expect(await threadById(id)).toMatchObject({ metadata: { candidate: 2, legacy_bot_id: second } })
    })

    test('one of somebody’s new bots: it stays theirs', async () => {
      const id = await startThread()
      const bot = await requestBot(database.owner)
      await old_code(
        (sql) =>
          sql`update public.workflow_threads set bot_id = ${bot.bot_id} where workflow_thread_id = ${id}`,
      )
      expect(await threadOf(bot.bot_id)).toMatchObject({
        owner_id: bot.owner_id,
        workflow_thread_id: bot.workflow_thread_id,
      })
      expect(await threadById(id)).toMatchObject({
        bot_status: null,
        metadata: { legacy_bot_id: bot.bot_id },
      })
    })
  })

  test('old code and the bot writing at the same time never deadlock, and agree in the end', async () => {
    const bots = await Promise.all(Array.from({ length: 10 }, () => botIn(database.owner, 'active')))
    await Promise.all(
      bots.flatMap((bot) => [
        ...[1, 2, 3, 4].map((n) =>
          old_code(
            (sql) =>
              sql`update public.bot_sessions set insights = ${sql.json({ n })} where bot_id = ${bot.bot_id}`,
          ),
        ),
        ...[1, 2, 3].map((n) =>
          rpc(database.owner, 'save_workflow_thread_data', {
            workflow_thread_id: bot.workflow_thread_id,
            data: { qa_pairs: [{ n }] },
          }),
        ),
        report(database.owner, bot, 'completed'),
      ]),
    )
    for (const bot of bots) {
      const thread = await threadOf(bot.bot_id)
      expect(thread).toMatchObject({ bot_status: 'completed' })
      expect(await sessionOf(bot.bot_id)).toMatchObject({ status: 'completed' })
    }
  })

  test('the way back from dual write and the way forth again lose nothing', async () => {
    const bot_id = await startOldBot()
    await applyOptional(database.owner, 'undo_bot_sessions_dual_write')
    await old_code(
      (sql) =>
        sql`update public.bot_sessions set status = 'completed', insights = '{"meanwhile": 1}' where bot_id = ${bot_id}`,
    )
    const late = await startOldBot()
    const bot = await requestBot(database.owner)
    expect(await threadOf(bot_id)).toMatchObject({ bot_status: 'running' })
    expect(await sessionOf(bot.bot_id)).toBeUndefined()
    expect(await violations(database)).toEqual([])

    await applyStep(database.owner, 'dual_write')
    expect(await threadOf(bot_id)).toMatchObject({ bot_status: 'completed', insights: { meanwhile: 1 } })
    expect(await threadOf(late)).toMatchObject({ bot_status: 'running' })
    expect(await sessionOf(bot.bot_id)).toMatchObject({ status: 'running' })
  })

  test('after the cutover bot_sessions is read-only, for service_role alone; the way back keeps what came since', async () => {
    const old_bot = await startOldBot()
    const table_before = await database.owner`select * from public.bot_sessions order by bot_id`
    await applyStep(database.owner, 'cutover')
    expect(await count(database, 'public.bot_sessions')).toBeGreaterThanOrEqual(table_before.length)
    for (const statement of [
      "update public.bot_sessions set status = 'completed'",
      'delete from public.bot_sessions',
      "insert into public.bot_sessions (room_url, room_name) values ('a', 'b')",
      "update public.workflow_threads set insights = '{}'",
      "insert into public.workflow_threads (workflow_thread_id, room_name) values ('a', 'b')",
    ]) {
      await expect(
        old_code((sql) => sql.unsafe(statement)),
        statement,
      ).rejects.toMatchObject({ code: '42501' })
    }
    for (const role of ['anon', 'authenticated'] as const) {
      await expect(
        database.as(role, {}, (sql) => sql`select * from public.bot_sessions`),
      ).rejects.toMatchObject({ code: '42501' })
    }
    await expect(
      database.owner`update public.bot_sessions set insights = '{}' where bot_id = ${old_bot}`,
    ).rejects.toMatchObject({ code: 'PT405', message: 'read_only' })
    const [view] = await database.owner`
      select is_updatable, is_insertable_into,
        (select reloptions::text from pg_class where oid = 'public.bot_sessions'::regclass) as options
      from information_schema.views where table_schema = 'public' and table_name = 'bot_sessions'`
    expect(view).toEqual({ is_updatable: 'NO', is_insertable_into: 'NO', options: '{security_invoker=true}' })

    const bot = await botIn(database.owner, 'active', { native_meeting_id: 'retro' })
    const [found] = await old_code((sql) => sql`select * from public.bot_sessions where room_name = 'retro'`)
    expect(found).toMatchObject({ bot_id: bot.bot_id, status: 'running' })
    expect(await violations(database)).toEqual([])

    await applyOptional(database.owner, 'undo_bot_sessions_cutover')
    expect(await sessionOf(bot.bot_id)).toMatchObject({ status: 'running', room_name: 'retro' })
    await old_code(
      (sql) => sql`update public.bot_sessions set status = 'completed' where bot_id = ${old_bot}`,
    )
    expect(await threadOf(old_bot)).toMatchObject({ bot_status: 'completed' })
    await old_code((sql) => sql`update public.workflow_threads set email = 'x' where bot_id = ${old_bot}`)
    await expect(applyOptional(database.owner, 'drop_bot_sessions')).rejects.toThrow(/push the cutover first/)
    await applyStep(database.owner, 'cutover')
    const [again] = await old_code((sql) => sql`select * from public.bot_sessions where bot_id = ${old_bot}`)
    expect(again).toMatchObject({ status: 'completed' })
    expect(await count(database, 'public.bot_sessions')).toBe(
      await count(database, 'public.workflow_threads where bot_status is not null'),
    )
  })
})

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
    expect(await count(database, 'public.calls')).toBe(0)
    await database.owner`update public.workflow_threads set email = 'x' where workflow_thread_id = 't'`
    expect(await count(database, 'public.calls')).toBe(1)
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
            await count(database, "public.workflow_threads where bot_status = 'completed'"),
          ).toBeGreaterThan(0)
          expect(await violations(database)).toEqual([])
        }
      }
      const bot = await botIn(database.owner, 'active')
      await report(database.owner, bot, 'completed')
      await applyOptional(database.owner, 'drop_bot_sessions')
      expect(await violations(database)).toEqual([])
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
        and proname ~ 'legacy|session|adopt|mirror|dual_write|utterance$|pause_triggers|claim_bot_id'
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
