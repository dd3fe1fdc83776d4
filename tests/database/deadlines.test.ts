import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  botIn,
  historyOf,
  pushesOf,
  report,
  requestBot,
  rowOf,
  type TestBot,
  transcript,
} from '../support/bots.ts'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { rpc } from '../support/rpc.ts'

// A database for each test: a sweep ends whatever is due, whoever's it is.
let database: TestDatabase
let clock: ClockedSession
beforeEach(async () => {
  database = await createTestDatabase()
  clock = await openClock(database)
})
afterEach(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

const sweep = (sql = clock.sql) => rpc(sql, 'lifecycle.sweep')
const nothing = { checked: 0, changed: 0, errors: 0 }

async function expectEndAfter(bot: TestBot, seconds: number, end: Record<string, unknown>): Promise<void> {
  await clock.advance(seconds - 1)
  expect((await sweep()) as { changed: number }).toMatchObject({ changed: 0, errors: 0 })
  await clock.advance(1)
  expect(await sweep()).toMatchObject({ changed: 1, errors: 0 })
  expect(await rowOf(clock.sql, bot)).toMatchObject(end)
  expect((await historyOf(clock.sql, bot, 'bot')).at(-1)).toMatchObject({ source: 'sweep' })
  expect(await sweep()).toEqual(nothing)
}

test('P06 F09 a machine that does not come up in 180 s fails the bot', async () => {
  const bot = await requestBot(clock.sql)
  await expectEndAfter(bot, 180, {
    bot_status: 'failed',
    error_stage: 'machine_start',
    error_code: 'MACHINE_START_TIMEOUT',
    meeting_status: 'failed',
    failure_stage: 'requested',
  })
})

test('the same holds for a bot that its owner runs', async () => {
  const bot = await requestBot(clock.sql, { launch: false })
  await expectEndAfter(bot, 180, { error_code: 'MACHINE_START_TIMEOUT' })
})

test('A18 a machine that is up but silent fails the bot 120 s after it came up', async () => {
  const bot = await requestBot(clock.sql)
  await clock.advance(170)
  await rpc(clock.sql, 'record_container', {
    bot_id: bot.bot_id,
    launch_token: bot.launch_token,
    container_id: 'm',
    status_text: 'started',
  })
  await expectEndAfter(bot, 120, { error_stage: 'machine_start', error_code: 'MACHINE_START_TIMEOUT' })
})

test('P07 joining for 120 s fails the bot', async () => {
  const bot = await botIn(clock.sql, 'joining')
  await clock.advance(60)
  await report(clock.sql, bot, 'heartbeat')
  await expectEndAfter(bot, 60, {
    error_stage: 'joining',
    error_code: 'JOIN_ROOM_TIMEOUT',
    failure_stage: 'joining',
  })
})

test('F10 the lobby has its 900 s, silent or not; then the host is at fault', async () => {
  const bot = await botIn(clock.sql, 'awaiting_admission')
  await clock.advance(890)
  expect(await sweep()).toEqual(nothing)
  await expectEndAfter(bot, 10, {
    meeting_status: 'completed',
    completion_reason: 'awaiting_admission_timeout',
    bot_status: 'failed',
    error_stage: 'joining',
    error_code: 'ADMISSION_TIMEOUT',
  })
  const seen = await rpc<{ error: unknown }>(clock.sql, 'get_bot', { bot_id: bot.bot_id })
  expect(seen.error).toMatchObject({ attribution: 'host', retryable: true })
})

describe('an active bot', () => {
  test('F21 that is not heard of for 180 s is lost', async () => {
    const bot = await botIn(clock.sql, 'active')
    for (let i = 0; i < 3; i++) {
      await clock.advance(59)
      await sweep()
    }
    await expectEndAfter(bot, 3, {
      error_stage: 'running',
      error_code: 'HEARTBEAT_LOST',
      failure_stage: 'active',
    })
  })

  test('F02 that is heard of lives on, its deadline worked out only when it seems past', async () => {
    const bot = await botIn(clock.sql, 'active')
    const stamped = (await rowOf(clock.sql, bot)).deadline_at
    await clock.advance(100)
    await report(clock.sql, bot, 'heartbeat')
    expect((await rowOf(clock.sql, bot)).deadline_at).toEqual(stamped)
    await clock.advance(80)
    expect(await sweep()).toEqual({ checked: 1, changed: 0, errors: 0 })
    expect((await rowOf(clock.sql, bot)).deadline_at).toEqual(new Date(clock.now().getTime() + 100_000))
  })

  test('is given its limit anew after an outage of the sweep', async () => {
    const bot = await botIn(clock.sql, 'active')
    await sweep()
    await clock.advance(3600)
    expect(await sweep()).toMatchObject({ changed: 0 })
    expect((await rowOf(clock.sql, bot)).deadline_at).toEqual(new Date(clock.now().getTime() + 180_000))
    for (let i = 0; i < 3; i++) {
      await clock.advance(60)
      await sweep()
    }
    expect(await rowOf(clock.sql, bot)).toMatchObject({ error_code: 'HEARTBEAT_LOST' })
  })

  test('D26 is told to leave when its time is up, and then has left for that reason', async () => {
    const bot = await botIn(clock.sql, 'active', { bot_config: { max_duration_s: 100 } })
    await clock.advance(100)
    expect(await sweep()).toMatchObject({ changed: 1 })
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      meeting_status: 'stopping',
      stop_reason: 'max_duration_exceeded',
      bot_status: 'running',
    })
    expect(await sweep()).toEqual(nothing)
    expect(await report(clock.sql, bot, 'heartbeat')).toMatchObject({ command: 'leave' })
    expect(await report(clock.sql, bot, 'exited', { exit_code: 143 })).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'max_duration_exceeded',
      bot_status: 'completed',
    })
  })

  test('may attend for four hours', async () => {
    const bot = await botIn(clock.sql, 'active')
    for (let elapsed = 0; elapsed < 4 * 3600; elapsed += 50) {
      await clock.advance(50)
      await report(clock.sql, bot, 'heartbeat')
    }
    await sweep()
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      meeting_status: 'stopping',
      stop_reason: 'max_duration_exceeded',
    })
  })
})

test('D08 a bot that does not leave has left 30 s after it was told, and its result is made', async () => {
  const bot = await botIn(clock.sql, 'active', { launch: false })
  await report(clock.sql, bot, 'transcript', { chunk: 0, utterances: transcript })
  await clock.sql`
    update public.workflow_threads set meeting_status = 'stopping', stop_requested_at = lifecycle.now(), stop_reason = 'stopped'
    where bot_id = ${bot.bot_id}`
  await clock.advance(30)
  expect(await sweep()).toMatchObject({ changed: 1 })
  expect(await rowOf(clock.sql, bot)).toMatchObject({
    meeting_status: 'completed',
    completion_reason: 'stopped',
    bot_status: 'running',
    transcript,
  })
  expect((await historyOf(clock.sql, bot, 'meeting')).at(-1)).toMatchObject({ source: 'sweep' })
})

test('a result that is not there after 600 s fails the bot and keeps the transcript', async () => {
  const bot = await botIn(clock.sql, 'active')
  await report(clock.sql, bot, 'completed', { transcript })
  await expectEndAfter(bot, 600, {
    bot_status: 'failed',
    error_stage: 'processing',
    error_code: 'PROCESSING_TIMEOUT',
    transcript,
    meeting_status: 'completed',
  })
})

test('I04 a change by the sweep is pushed like one by the bot', async () => {
  const bot = await requestBot(clock.sql)
  await clock.advance(180)
  await sweep()
  expect((await pushesOf(clock.sql, bot)).map((push) => [push.machine, push.from, push.to])).toEqual([
    ['meeting', null, 'requested'],
    ['bot', null, 'pending'],
    ['meeting', 'requested', 'failed'],
    ['bot', 'pending', 'failed'],
  ])
})

test('E04 two sweeps at once do nothing twice', async () => {
  for (let i = 0; i < 30; i++) await requestBot(clock.sql)
  await clock.advance(180)
  const other = await openClock(database, clock.now())
  const counts = (await Promise.all([sweep(), sweep(other.sql), sweep(), sweep(other.sql)])) as {
    changed: number
  }[]
  expect(counts.reduce((sum, count) => sum + count.changed, 0)).toBe(30)
  const [events] =
    await clock.sql`select count(*)::int as n from public.status_events where to_status = 'failed'`
  expect(events?.n).toBe(60)
})

test('F17 a callback at the same moment as the sweep: one of them ends the bot', async () => {
  for (let round = 0; round < 10; round++) {
    const bot = await botIn(clock.sql, 'joining')
    await clock.advance(120)
    const [, answer] = await Promise.all([
      sweep(),
      report(database.owner, bot, 'failed', { error_code: 'BOT_CRASHED' }),
    ])
    const ends = (await historyOf(clock.sql, bot, 'bot')).filter((event) => event.to_status === 'failed')
    expect(ends).toHaveLength(1)
    expect(answer.result).toBe(ends[0]?.source === 'sweep' ? 'unchanged' : 'processed')
  }
})

test('one row that can not be ended does not stop the others', async () => {
  const bad = await requestBot(clock.sql)
  const good = await requestBot(clock.sql)
  await database.superuser.unsafe(`
    create function public.break_one() returns trigger language plpgsql as $$
    begin if new.bot_id = '${bad.bot_id}' and new.bot_status = 'failed' then raise exception 'broken'; end if; return new; end $$;
    create trigger break_one before update on public.workflow_threads for each row execute function public.break_one()`)
  await clock.advance(180)
  expect(await sweep()).toEqual({ checked: 2, changed: 1, errors: 1 })
  expect(await rowOf(clock.sql, good)).toMatchObject({ bot_status: 'failed' })
  expect(await rowOf(clock.sql, bad)).toMatchObject({ bot_status: 'pending' })
  expect(await sweep()).toEqual(nothing)
  await database.superuser`drop trigger break_one on public.workflow_threads`
  await clock.advance(60)
  expect(await sweep()).toMatchObject({ changed: 1 })
})

test('a sweep takes no more than it is told to', async () => {
  for (let i = 0; i < 5; i++) await requestBot(clock.sql)
  await clock.advance(180)
  expect(await rpc(clock.sql, 'lifecycle.sweep', { max_rows: 3 })).toEqual({
    checked: 3,
    changed: 3,
    errors: 0,
  })
  expect(await sweep()).toEqual({ checked: 2, changed: 2, errors: 0 })
})

test('the cron job sweeps until nothing is due, with a commit between batches', async () => {
  const [job] = await clock.sql`select command from cron.job where jobname = 'rollcall-sweep'`
  for (let i = 0; i < 120; i++)
    await requestBot(clock.sql, { owner_id: '00000000-0000-0000-0000-00000000000a' })
  await clock.advance(180)
  await clock.sql.unsafe(job?.command)
  const [open] =
    await clock.sql`select count(*)::int as n from public.workflow_threads where lifecycle.is_open(bot_status)`
  expect(open?.n).toBe(0)
})
