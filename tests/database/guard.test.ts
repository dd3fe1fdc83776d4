import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { botIn, historyOf, report, requestBot, rowOf } from '../support/bots.ts'
import { openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterEach(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
})
afterAll(() => database.drop())

test('even service_role cannot set a status', async () => {
  const bot = await requestBot(database.owner)
  const attempts = [
    `update public.workflow_threads set bot_status = 'starting'`,
    `update public.workflow_threads set meeting_status = 'joining'`,
    `update public.workflow_threads set bot_name = 'x'`,
    `insert into public.workflow_threads (bot_status, meeting_status) values ('pending', 'requested')`,
    `delete from public.workflow_threads`,
    `truncate public.workflow_threads`,
    `insert into public.status_events (machine, subject_id, seq, to_status, source, created_at) values ('bot', gen_random_uuid(), 1, 'pending', 'user', now())`,
    `delete from public.status_events`,
    `truncate public.status_events`,
    `update lifecycle.transitions set to_state = 'completed'`,
    `insert into lifecycle.transitions values ('bot', 'pending', 'completed')`,
  ]
  for (const role of ['service_role', 'authenticated', 'anon'] as const) {
    for (const attempt of attempts) {
      const error = await refusal(database.as(role, { sub: bot.owner_id }, (sql) => sql.unsafe(attempt)))
      expect(error.code, `${role}: ${attempt}`).toBe('42501')
    }
  }
  expect(await rowOf(database.owner, bot)).toMatchObject({
    bot_status: 'pending',
    meeting_status: 'requested',
  })
})

test('the API roles cannot pretend another time', async () => {
  const clock = await openClock(database)
  const [pretended] = await clock.sql`select lifecycle.now() as now`
  expect(pretended?.now).toEqual(clock.now())

  const real = await database.as('service_role', {}, async (sql) => {
    await sql`select set_config('rollcall.now', '2001-01-01T00:00:00Z', true)`
    const [row] = await sql`select lifecycle.now() as now`
    return row?.now as Date
  })
  expect(real.getUTCFullYear()).toBeGreaterThan(2001)
})

test('a new bot starts as pending and requested, whoever inserts it', async () => {
  for (const [bot_status, meeting_status] of [
    ['running', 'requested'],
    ['pending', 'active'],
    ['pending', null],
    [null, 'requested'],
  ] as const) {
    const error = await refusal(database.owner`
      insert into public.workflow_threads (bot_status, meeting_status) values (${bot_status}, ${meeting_status})`)
    expect(error).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
  }
})

test('a thread without a bot has no status, no history and no deadline', async () => {
  const [thread] = await database.owner`insert into public.workflow_threads default values returning *`
  expect(thread).toMatchObject({ bot_status: null, meeting_status: null, deadline_at: null })
  expect(
    await database.owner`select * from public.status_events where subject_id = ${thread?.bot_id}`,
  ).toEqual([])
})

test('a transition stamps its time, its version and its deadline', async () => {
  const clock = await openClock(database)
  const bot = await requestBot(clock.sql)
  const created = clock.now()
  await clock.advance(10)
  await report(clock.sql, bot, 'joining')
  const joining = clock.now()
  expect(await rowOf(clock.sql, bot)).toMatchObject({
    created_at: created,
    updated_at: joining,
    bot_status_updated_at: joining,
    meeting_status_updated_at: joining,
    version: 4,
    deadline_at: new Date(joining.getTime() + 120_000),
    bot_started_at: null,
    joined_at: null,
  })
  await clock.advance(10)
  await report(clock.sql, bot, 'active')
  const active = clock.now()
  expect(await rowOf(clock.sql, bot)).toMatchObject({
    bot_started_at: active,
    joined_at: active,
    deadline_at: new Date(active.getTime() + 180_000),
    version: 7,
  })
  await clock.advance(10)
  await report(clock.sql, bot, 'completed')
  expect(await rowOf(clock.sql, bot)).toMatchObject({
    left_at: clock.now(),
    bot_completed_at: clock.now(),
    deadline_at: null,
    version: 9,
  })
})

test('a stamp is never earlier than the one before it', async () => {
  const clock = await openClock(database)
  const bot = await requestBot(clock.sql)
  await clock.advance(-3600)
  await report(clock.sql, bot, 'joining')
  const row = await rowOf(clock.sql, bot)
  expect(row.meeting_status_updated_at).toEqual(row.created_at)
})

test('an ended bot keeps its error, reason and times for ever', async () => {
  const bot = await botIn(database.owner, 'active')
  await report(database.owner, bot, 'failed', { error_code: 'BOT_CRASHED', error_message: 'It crashed.' })
  const before = await rowOf(database.owner, bot)
  for (const change of [
    `error_code = 'OTHER'`,
    `error_message = 'other'`,
    `error_details = '{"a": 1}'`,
    `error_stage = 'joining'`,
    `bot_completed_at = now() + interval '1 h'`,
    `left_at = now() + interval '1 h'`,
    `failure_stage = 'joining'`,
    `error_stage = null, error_code = null, error_message = null`,
  ]) {
    const error = await refusal(
      database.owner.unsafe(`update public.workflow_threads set ${change} where bot_id = '${bot.bot_id}'`),
    )
    expect(error.code, change).toBe('PT409')
  }
  expect(await rowOf(database.owner, bot)).toEqual(before)
})

test('P18 failed without stage, code or message is rejected by a constraint', async () => {
  for (const missing of [
    `error_stage = 'joining', error_code = 'X'`,
    `error_stage = 'joining', error_message = 'x'`,
    `error_code = 'X', error_message = 'x'`,
    `bot_name = 'x'`,
  ]) {
    const bot = await botIn(database.owner, 'joining')
    const error = await refusal(
      database.owner.unsafe(
        `update public.workflow_threads set bot_status = 'failed', meeting_status = 'failed', failure_stage = 'joining', ${missing} where bot_id = '${bot.bot_id}'`,
      ),
    )
    expect(error).toMatchObject({ code: '23514', constraint_name: 'failed_says_why' })
  }
})

test('what must hold of every thread is refused by name, whoever writes', async () => {
  const truths = {
    ended_bot_is_out_of_the_meeting: `bot_status = 'failed', error_stage = 'joining', error_code = 'X', error_message = 'x'`,
    completed_bot_was_in_the_room: `bot_status = 'completed', meeting_status = 'completed', completion_reason = 'other', bot_started_at = null`,
    completed_meeting_has_a_reason: `meeting_status = 'completed'`,
    failed_meeting_has_a_stage: `meeting_status = 'failed'`,
    only_failed_has_an_error: `error_details = '{}'`,
    error_message_is_never_empty: `bot_status = 'failed', meeting_status = 'failed', failure_stage = 'active',
      error_stage = 'running', error_code = 'X', error_message = ' '`,
    error_details_are_at_most_64_kb: `bot_status = 'failed', meeting_status = 'failed', failure_stage = 'active',
      error_stage = 'running', error_code = 'X', error_message = 'x', error_details = to_jsonb(repeat('x', 70000))`,
    ended_bot_has_its_time: `bot_completed_at = now()`,
    ended_meeting_has_its_time: `left_at = now()`,
    stop_has_a_reason: `stop_requested_at = now()`,
    stopping_was_requested: `meeting_status = 'stopping'`,
    bot_config_is_at_most_64_kb: `bot_config = jsonb_build_object('x', repeat('x', 70000))`,
    meeting_id_is_speakable: `native_meeting_id = 'a b'`,
  }
  for (const [constraint_name, change] of Object.entries(truths)) {
    const bot = await botIn(database.owner, 'active')
    const before = await rowOf(database.owner, bot)
    const error = await refusal(
      database.owner.unsafe(`update public.workflow_threads set ${change} where bot_id = '${bot.bot_id}'`),
    )
    expect(error, change).toMatchObject({ code: '23514', constraint_name, table_name: 'workflow_threads' })
    expect(await rowOf(database.owner, bot)).toEqual(before)
  }
  for (const values of [`native_meeting_id) values ('')`, `native_meeting_id) values (repeat('x', 256))`]) {
    const error = await refusal(database.owner.unsafe(`insert into public.workflow_threads (${values}`))
    expect(error).toMatchObject({ code: '23514', constraint_name: 'meeting_id_is_speakable' })
  }
})

test('a thread without a bot gets none later, and a bot never loses its statuses', async () => {
  const [thread] = await database.owner`insert into public.workflow_threads default values returning *`
  const bot = await requestBot(database.owner)
  for (const [change, bot_id] of [
    [`bot_status = 'pending', meeting_status = 'requested'`, thread?.bot_id],
    [`bot_status = 'running', meeting_status = 'active'`, thread?.bot_id],
    [`meeting_status = 'active'`, thread?.bot_id],
    [`bot_status = null, meeting_status = null`, bot.bot_id],
    [`bot_status = null`, bot.bot_id],
  ]) {
    const error = await refusal(
      database.owner.unsafe(`update public.workflow_threads set ${change} where bot_id = '${bot_id}'`),
    )
    expect(error, change).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
  }
})

test('P21 a row that did not fail has no error', async () => {
  const bot = await botIn(database.owner, 'active')
  const error = await refusal(
    database.owner`update public.workflow_threads set error_code = 'X' where bot_id = ${bot.bot_id}`,
  )
  expect(error.constraint_name).toBe('only_failed_has_an_error')
  await report(database.owner, bot, 'completed')
  expect(await rowOf(database.owner, bot)).toMatchObject({
    bot_status: 'completed',
    error_stage: null,
    error_code: null,
    error_message: null,
    error_details: null,
  })
})

test("a repair goes around the table of moves, says why, and is the owner's alone", async () => {
  const bot = await botIn(database.owner, 'joining')
  await report(database.owner, bot, 'failed', { error_code: 'BOT_CRASHED', error_message: 'It crashed.' })
  expect(
    (
      await refusal(
        rpc(database.owner, 'lifecycle.repair', {
          machine: 'bot',
          subject_id: bot.bot_id,
          to_status: 'completed',
          reason: ' ',
        }),
      )
    ).code,
  ).toBe('PT422')
  for (const role of ['service_role', 'authenticated'] as const) {
    const error = await refusal(
      database.as(
        role,
        {},
        (sql) => sql`select lifecycle.repair('bot', ${bot.bot_id}, 'completed', 'because')`,
      ),
    )
    expect(error.code).toBe('42501')
  }
  await rpc(database.owner, 'lifecycle.repair', {
    machine: 'bot',
    subject_id: bot.bot_id,
    to_status: 'completed',
    reason: 'It was there after all.',
  })
  expect(await rowOf(database.owner, bot)).toMatchObject({ bot_status: 'completed', error_code: null })
  expect((await historyOf(database.owner, bot, 'bot')).at(-1)).toMatchObject({
    from_status: 'failed',
    to_status: 'completed',
    source: 'repair',
    reason: 'It was there after all.',
  })
})

test('what one move says of itself does not stick to the next', async () => {
  const bot = await botIn(database.owner, 'joining')
  await database.owner.begin(async (sql) => {
    await sql`select public.update_bot_status(${bot.workflow_thread_id}, 'running')`
    await sql`update public.workflow_threads 
      set meeting_status = 'stopping', stop_requested_at = now(), stop_reason = 'stopped' where bot_id = ${bot.bot_id}`
  })
  const meeting = await historyOf(database.owner, bot, 'meeting')
  expect(meeting.at(-1)).toMatchObject({
    to_status: 'stopping',
    source: 'system',
    reason: null,
    implied: false,
  })
  expect(meeting.at(-2)).toMatchObject({ to_status: 'active', source: 'worker', implied: true })
})
