import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { botIn, report, requestBot, transcript } from '../support/bots.ts'
import type { TestDatabase } from '../support/database.ts'
import {
  applyOptional,
  applyStep,
  checkStep,
  countRows,
  createLegacyDatabase,
  violationsOf,
} from '../support/legacy.ts'
import { rpc } from '../support/rpc.ts'

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
    expect(await violationsOf(database)).toEqual([])
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
    expect(await countRows(database, `realtime.messages where topic = 'bot:${bot_id}'`)).toBe(0)
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
    expect(await countRows(database, `realtime.messages where topic = 'bot:${bot_id}'`)).toBe(2)
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
    expect(await countRows(database, `public.status_rejections where subject_id = '${bot_id}'`)).toBe(0)
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

  test('each change is written once in each table', async () => {
    const bot_id = await startOldBot()
    const bot = await botIn(database.owner, 'active')
    await database.owner.unsafe(`
      create table public.writes (of text);
      create function public.note_write() returns trigger language plpgsql security definer as $$
        begin insert into public.writes values (tg_table_name); return new; end $$;
      create trigger note_write after insert or update on public.bot_sessions for each row execute function public.note_write();
      create trigger note_write after insert or update on public.workflow_threads for each row execute function public.note_write()`)
    try {
      await old_code(
        (sql) => sql`update public.bot_sessions set insights = '{"n": 1}' where bot_id = ${bot_id}`,
      )
      await rpc(database.owner, 'save_workflow_thread_data', {
        workflow_thread_id: bot.workflow_thread_id,
        data: { insights: { n: 2 } },
      })
      const writes =
        await database.owner`select of, count(*)::int as n from public.writes group by 1 order by 1`
      expect(writes).toEqual([
        { of: 'bot_sessions', n: 2 },
        { of: 'workflow_threads', n: 2 },
      ])
    } finally {
      await database.owner`drop function public.note_write() cascade`
      await database.owner`drop table public.writes`
    }
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
      const rows_before = await countRows(database, 'public.workflow_threads')
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
      expect(await countRows(database, 'public.workflow_threads')).toBe(rows_before - 1)
      expect(await historyOf(bot_id)).toHaveLength(4)
      expect(await violationsOf(database)).toEqual([])
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
    expect(await violationsOf(database)).toEqual([])

    await applyStep(database.owner, 'dual_write')
    expect(await threadOf(bot_id)).toMatchObject({ bot_status: 'completed', insights: { meanwhile: 1 } })
    expect(await threadOf(late)).toMatchObject({ bot_status: 'running' })
    expect(await sessionOf(bot.bot_id)).toMatchObject({ status: 'running' })
  })

  test('after the cutover bot_sessions is read-only, for service_role alone; the way back keeps what came since', async () => {
    const old_bot = await startOldBot()
    const table_before = await database.owner`select * from public.bot_sessions order by bot_id`
    expect(await checkStep(database, 3)).toEqual([])
    await applyStep(database.owner, 'cutover')
    expect(await checkStep(database, 4)).toEqual([])
    expect(await countRows(database, 'public.bot_sessions')).toBeGreaterThanOrEqual(table_before.length)
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
    expect(await violationsOf(database)).toEqual([])

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
    expect(await countRows(database, 'public.bot_sessions')).toBe(
      await countRows(database, 'public.workflow_threads where bot_status is not null'),
    )
  })
})
