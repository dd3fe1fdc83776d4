import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Answer, botIn, report, requestBot, rowOf, type TestBot, transcript } from '../support/bots.ts'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { rpc } from '../support/rpc.ts'

// A database for each test: a claim takes whatever is due, whoever's it is.
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

const stale = { ok: false, code: 'stale_lease' }
type Claim = {
  bot_id: string
  workflow_thread_id: string
  launch_token: string
  processing_token: string
  attempt: number
  attempts: number
  passcode: string | null
}

describe('a launch', () => {
  const claim = () => rpc<Claim | null>(clock.sql, 'claim_launch', { worker: 'w' })
  const record = (bot: TestBot, launch_token: string | null, status_text: string, container_id = 'm1') =>
    rpc<Answer>(clock.sql, 'record_container', {
      bot_id: bot.bot_id,
      launch_token,
      container_id,
      status_text,
    })

  test('that nobody finished is taken up after its lease, and the old attempt is refused', async () => {
    const bot = await requestBot(clock.sql, { passcode: 'p' })
    expect(await claim()).toBeNull()
    await clock.advance(150)
    const taken = await claim()
    expect(taken).toMatchObject({ bot_id: bot.bot_id, attempts: 2, passcode: 'p', platform: 'room' })
    expect(await claim()).toBeNull()
    expect(await record(bot, bot.launch_token, 'started')).toEqual(stale)
    expect(
      await rpc(clock.sql, 'fail_launch', {
        bot_id: bot.bot_id,
        launch_token: bot.launch_token,
        error_code: 'MACHINE_START_FAILED',
        error_message: 'x',
      }),
    ).toEqual(stale)
    expect(await rowOf(clock.sql, bot)).toMatchObject({ bot_status: 'pending', container_id: null })
    expect(await record(bot, taken?.launch_token ?? '', 'started')).toMatchObject({
      ok: true,
      bot_status: 'starting',
      container_status: 'Up',
      stop_requested: false,
    })
    await clock.advance(150)
    expect(await claim()).toBeNull()
  })

  test('gets a new callback token, and the old one is refused', async () => {
    const bot = await requestBot(clock.sql)
    await clock.advance(150)
    const taken = await claim()
    const replace = (launch_token: string | null) =>
      rpc(clock.sql, 'replace_callback_token', {
        bot_id: bot.bot_id,
        launch_token,
        token_hash: 'cd'.repeat(32),
      })
    expect(await replace(bot.launch_token)).toEqual(stale)
    expect(await replace(taken?.launch_token ?? null)).toMatchObject({ ok: true })
    expect(await report(clock.sql, bot, 'joining')).toEqual({ ok: false, code: 'unauthorized' })
    expect(await report(clock.sql, bot, 'joining', { token_hash: 'cd'.repeat(32) })).toMatchObject({
      ok: true,
    })
  })

  test('P04 that fails ends the bot, with why', async () => {
    const bot = await requestBot(clock.sql)
    await rpc(clock.sql, 'fail_launch', {
      bot_id: bot.bot_id,
      launch_token: bot.launch_token,
      error_code: 'MACHINE_START_FAILED',
      error_message: 'The machines API answered 500.',
      error_details: { attempts: 3 },
    })
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      bot_status: 'failed',
      error_stage: 'machine_start',
      error_code: 'MACHINE_START_FAILED',
      error_message: 'The machines API answered 500.',
      error_details: { attempts: 3 },
      container_status: 'Failed',
      failure_stage: 'requested',
      launch_due_at: null,
    })
  })

  test('that failed late does not end a bot that called back', async () => {
    const bot = await botIn(clock.sql, 'active')
    expect(
      await rpc(clock.sql, 'fail_launch', {
        bot_id: bot.bot_id,
        launch_token: bot.launch_token,
        error_code: 'MACHINE_START_FAILED',
        error_message: 'x',
      }),
    ).toMatchObject({ ok: true, changed: false })
    expect(await rowOf(clock.sql, bot)).toMatchObject({ bot_status: 'running' })
  })

  test('of a bot that ended meanwhile is told to destroy its machine', async () => {
    const bot = await requestBot(clock.sql)
    await report(clock.sql, bot, 'failed')
    expect(await record(bot, bot.launch_token, 'created')).toMatchObject({
      ok: true,
      stop_requested: true,
      bot_status: 'failed',
    })
  })

  test('is taken by one worker only, and the owner with the fewest live launches goes first', async () => {
    const [busy, calm] = [randomUUID(), randomUUID()]
    for (let i = 0; i < 4; i++) await requestBot(clock.sql, { owner_id: busy })
    await clock.advance(1)
    await requestBot(clock.sql, { owner_id: calm })
    await clock.advance(150)
    const owners = []
    for (let i = 0; i < 5; i++) {
      const taken = await claim()
      const [row] =
        await clock.sql`select owner_id from public.workflow_threads where bot_id = ${taken?.bot_id ?? null}`
      owners.push(row?.owner_id)
    }
    expect(owners.indexOf(calm)).toBeLessThan(2)
    expect(await claim()).toBeNull()
  })
})

test('normalize_container_status knows Docker and Fly, in any case', async () => {
  for (const [text, status] of Object.entries({
    'Up 5 minutes': 'Up',
    up: 'Up',
    'Exited (0) 3 s ago': 'Exited',
    dead: 'Exited',
    'is Dead now': 'Exited',
    Restarting: 'Starting',
    starting: 'Starting',
    created: 'Requested',
    started: 'Up',
    Stopping: 'Stopping',
    stopped: 'Exited',
    DESTROYED: 'Exited',
    failed: 'Failed',
    paused: null,
    '': null,
  })) {
    expect(await rpc(clock.sql, 'normalize_container_status', { status_text: text }), text).toBe(status)
  }
})

describe('the result of a meeting', () => {
  const claim = (sql = clock.sql) => rpc<Claim | null>(sql, 'claim_processing', { worker: 'w' })
  const left = async (more: Record<string, unknown> = {}) => {
    const bot = await botIn(clock.sql, 'active', more)
    await report(clock.sql, bot, 'completed', { transcript })
    return bot
  }
  const complete = (task: Claim) =>
    rpc<Answer>(clock.sql, 'complete_processing', {
      workflow_thread_id: task.workflow_thread_id,
      processing_token: task.processing_token,
      qa_pairs: [{ question: 'q' }],
      insights: { summary: 's' },
    })
  const fail = (task: Claim) =>
    rpc<Answer>(clock.sql, 'fail_processing', {
      workflow_thread_id: task.workflow_thread_id,
      processing_token: task.processing_token,
      error_message: 'The agent answered nonsense.',
      error_details: { status: 200 },
    })

  test('P10 completes the bot', async () => {
    const bot = await left()
    const task = (await claim()) as Claim
    expect(task).toMatchObject({ bot_id: bot.bot_id, attempt: 1, transcript })
    expect(await claim()).toBeNull()
    expect(await complete(task)).toMatchObject({
      ok: true,
      bot_status: 'completed',
      qa_pairs: [{ question: 'q' }],
      insights: { summary: 's' },
    })
    expect(await complete(task)).toEqual(stale)
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      bot_completed_at: clock.now(),
      error_code: null,
      transcript,
    })
  })

  test('is worked on by another worker after the lease, and the old one is refused', async () => {
    await left()
    const first = (await claim()) as Claim
    await clock.advance(59)
    const renew = (task: Claim) =>
      rpc(clock.sql, 'renew_processing', {
        workflow_thread_id: task.workflow_thread_id,
        processing_token: task.processing_token,
      })
    expect(await renew(first)).toMatchObject({ ok: true })
    await clock.advance(59)
    expect(await claim()).toBeNull()
    await clock.advance(1)
    const second = (await claim()) as Claim
    expect(second.attempt).toBe(2)
    for (const call of [renew, complete, fail]) expect(await call(first)).toEqual(stale)
    expect(await complete(second)).toMatchObject({ ok: true })
  })

  test('P11 fails the bot with the third error, after 5 s and 20 s, and keeps the transcript', async () => {
    const bot = await left()
    expect(await fail((await claim()) as Claim)).toMatchObject({ result: 'retrying', bot_status: 'running' })
    await clock.advance(4)
    expect(await claim()).toBeNull()
    await clock.advance(1)
    expect(await fail((await claim()) as Claim)).toMatchObject({ result: 'retrying' })
    await clock.advance(19)
    expect(await claim()).toBeNull()
    await clock.advance(1)
    expect(await fail((await claim()) as Claim)).toMatchObject({
      bot_status: 'failed',
      meeting_status: 'completed',
      error: {
        stage: 'processing',
        code: 'TRANSCRIPT_PROCESSING_FAILED',
        message: 'The agent answered nonsense.',
        details: { status: 200 },
      },
    })
    expect(await rowOf(clock.sql, bot)).toMatchObject({ transcript })
  })

  test('fails the bot at the next claim when the worker of the third attempt was lost, and keeps the transcript', async () => {
    const bot = await left()
    for (const attempt of [1, 2, 3]) {
      expect(await claim()).toMatchObject({ attempt })
      await clock.advance(60)
    }
    const [load] = await clock.sql`select due from lifecycle.lane_load('processing')`
    expect(load?.due).toBe(true)
    expect(await claim()).toBeNull()
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      bot_status: 'failed',
      error_stage: 'processing',
      error_code: 'TRANSCRIPT_PROCESSING_FAILED',
      bot_completed_at: clock.now(),
      transcript,
    })
  })

  test('is worked on once, however many workers ask', async () => {
    const bots = []
    for (let i = 0; i < 10; i++) bots.push(await left())
    const workers = await Promise.all(Array.from({ length: 8 }, () => openClock(database, clock.now())))
    const tasks = (await Promise.all([...workers, ...workers].map((worker) => claim(worker.sql)))).filter(
      (task) => task !== null,
    )
    expect(tasks.map((task) => task.bot_id).sort()).toEqual(bots.map((bot) => bot.bot_id).sort())
  })
})

describe('waking', () => {
  const queue = () => database.superuser`select url, headers from net.http_request_queue order by id`
  const secrets = async () => {
    await clock.sql`select vault.create_secret('http://127.0.0.1:1/functions/v1', 'rollcall_functions_url')`
    await clock.sql`select vault.create_secret('sb_secret_x', 'rollcall_secret_key')`
  }
  const leave = async () => {
    const bot = await botIn(clock.sql, 'active')
    await report(clock.sql, bot, 'completed', { transcript })
  }

  test('a lane is woken by the transaction that makes its work due, at most once a second', async () => {
    await secrets()
    await leave()
    expect(await queue()).toMatchObject([
      { url: 'http://127.0.0.1:1/functions/v1/work?lane=processing', headers: { apikey: 'sb_secret_x' } },
    ])
    await leave()
    expect(await queue()).toHaveLength(1)
    await clock.advance(1.1)
    await leave()
    expect(await queue()).toHaveLength(2)
  })

  test('a lane without due work, or with all its leases taken, is left asleep', async () => {
    await secrets()
    expect(await rpc(clock.sql, 'lifecycle.wake')).toEqual([])
    for (let i = 0; i < 6; i++) await leave()
    expect(await rpc(clock.sql, 'lifecycle.wake')).toEqual(['processing'])
    for (let i = 0; i < 4; i++) await rpc(clock.sql, 'claim_processing', { worker: 'w' })
    expect(await rpc(clock.sql, 'lifecycle.wake')).toEqual([])
    await clock.advance(61)
    expect(await rpc(clock.sql, 'lifecycle.wake')).toEqual(['processing'])
  })

  test('without the two secrets nothing is sent and nothing fails', async () => {
    await leave()
    expect(await rpc(clock.sql, 'lifecycle.wake')).toEqual([])
    expect(await queue()).toEqual([])
  })
})

test('health names what is missing, and its cure', async () => {
  const health = async () => {
    const answer = await rpc<{ ok: boolean; checks: { check: string; ok: boolean; cure: string }[] }>(
      clock.sql,
      'get_health',
    )
    return {
      ok: answer.ok,
      bad: answer.checks.filter((check) => !check.ok).map((check) => check.check),
      cures: answer.checks.every((check) => check.cure !== ''),
    }
  }
  await clock.sql`select set_config('rollcall.now', '', false)`
  expect(await health()).toEqual({ ok: false, bad: ['vault_secrets', 'last_sweep'], cures: true })
  await clock.sql`select vault.create_secret('u', 'rollcall_functions_url'), vault.create_secret('k', 'rollcall_secret_key')`
  await rpc(clock.sql, 'lifecycle.sweep')
  expect(await health()).toEqual({ ok: true, bad: [], cures: true })
  await clock.sql`select cron.unschedule('rollcall-wake')`
  expect(await health()).toMatchObject({ ok: false, bad: ['cron_jobs'] })
  await clock.sql`select lifecycle.schedule_jobs()`
  expect(await health()).toMatchObject({ ok: true })
})

test('forgetting an owner erases everything of theirs and nothing of others', async () => {
  const mine = await botIn(clock.sql, 'active')
  await report(clock.sql, mine, 'transcript', { chunk: 0, utterances: transcript })
  await report(clock.sql, mine, 'joining')
  const other = await botIn(clock.sql, 'active')
  expect(await rpc(clock.sql, 'lifecycle.forget_owner', { owner_id: mine.owner_id })).toMatchObject({
    bots: 1,
    events: 7,
  })
  for (const table of [
    'public.workflow_threads',
    'public.status_events',
    'public.status_rejections',
    'public.transcript_chunks',
  ]) {
    expect(
      await clock.sql.unsafe(`select * from ${table} where owner_id = '${mine.owner_id}'`),
      table,
    ).toEqual([])
  }
  expect(await rowOf(clock.sql, other)).toMatchObject({ bot_status: 'running' })
})

test('pruning erases whole subjects that ended, and old receipts, and keeps the rest', async () => {
  const ended = await botIn(clock.sql, 'active', { idempotency_key: 'k' })
  await report(clock.sql, ended, 'completed', { event_id: 'e' })
  await clock.advance(3600 * 25)
  const open = await botIn(clock.sql, 'active')
  expect(await rpc(clock.sql, 'lifecycle.prune', { older_than: '2 days' })).toEqual({
    events: 0,
    receipts: 2,
    transcripts: 0,
  })
  expect(await rpc(clock.sql, 'lifecycle.prune', { older_than: '1 day' })).toMatchObject({ events: 9 })
  expect(await clock.sql`select distinct subject_id from public.status_events`).toEqual([
    { subject_id: open.bot_id },
  ])
})
