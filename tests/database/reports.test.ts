import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { botIn, historyOf, pushesOf, report, requestBot, rowOf, transcript } from '../support/bots.ts'
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

const reasons = {
  stopped: 'LEFT_BEFORE_JOIN',
  validation_error: 'VALIDATION_ERROR',
  awaiting_admission_timeout: 'ADMISSION_TIMEOUT',
  awaiting_admission_rejected: 'ADMISSION_REJECTED',
  left_alone: 'LEFT_BEFORE_JOIN',
  evicted: 'LEFT_BEFORE_JOIN',
  meeting_ended: 'LEFT_BEFORE_JOIN',
  max_duration_exceeded: 'LEFT_BEFORE_JOIN',
  other: 'LEFT_BEFORE_JOIN',
}

test('B12 a start reported first walks the hops before it, and marks them implied', async () => {
  const bot = await requestBot(database.owner)
  expect(await report(database.owner, bot, 'active')).toMatchObject({
    ok: true,
    result: 'processed',
    meeting_status: 'active',
    bot_status: 'running',
  })
  const meeting = await historyOf(database.owner, bot, 'meeting')
  expect(meeting.map((event) => [event.to_status, event.implied])).toEqual([
    ['requested', false],
    ['joining', true],
    ['awaiting_admission', true],
    ['active', false],
  ])
  const history = await historyOf(database.owner, bot, 'bot')
  expect(history.map((event) => [event.to_status, event.implied])).toEqual([
    ['pending', false],
    ['starting', true],
    ['running', false],
  ])
})

test('B13 a whole life leaves five rows of the meeting and four of the bot', async () => {
  const bot = await requestBot(database.owner)
  for (const status of ['joining', 'awaiting_admission', 'active']) await report(database.owner, bot, status)
  await report(database.owner, bot, 'completed', { reason: 'left_alone', transcript })
  expect(await rowOf(database.owner, bot)).toMatchObject({
    bot_status: 'running',
    meeting_status: 'completed',
  })
  const claim = await rpc<{ processing_token: string; transcript: unknown }>(
    database.owner,
    'claim_processing',
    { worker: 'w' },
  )
  expect(claim.transcript).toEqual(transcript)
  await rpc(database.owner, 'complete_processing', {
    workflow_thread_id: bot.workflow_thread_id,
    processing_token: claim.processing_token,
    qa_pairs: [{ question: 'Who?', answer: 'I.' }],
    insights: { summary: 'Notes.' },
  })
  expect((await historyOf(database.owner, bot, 'meeting')).map((event) => event.seq)).toEqual([1, 2, 3, 4, 5])
  expect((await historyOf(database.owner, bot, 'bot')).map((event) => event.seq)).toEqual([1, 2, 3, 4])
})

describe('G11 a bot leaves for a reason', () => {
  for (const [reason, code] of Object.entries(reasons)) {
    test(`${reason}, having been active: its result is made`, async () => {
      const bot = await botIn(database.owner, 'active')
      const answer = await report(database.owner, bot, 'completed', { completion_reason: reason, transcript })
      expect(answer).toMatchObject({
        meeting_status: 'completed',
        completion_reason: reason,
        bot_status: 'running',
        error: null,
      })
      expect(await rowOf(database.owner, bot)).toMatchObject({ transcript, left_at: expect.any(Date) })
    })
    for (const status of ['requested', 'joining', 'awaiting_admission'] as const) {
      test(`${reason}, never active (${status}): ${code}`, async () => {
        const bot = await botIn(database.owner, status)
        const answer = await report(database.owner, bot, 'completed', { completion_reason: reason })
        expect(answer).toMatchObject({
          meeting_status: 'completed',
          completion_reason: reason,
          bot_status: 'failed',
          error: {
            code,
            stage: status === 'requested' ? 'machine_start' : 'joining',
            message: expect.stringMatching(/\w/),
          },
        })
      })
    }
  }
})

describe('G12 a bot fails', () => {
  const stages = {
    requested: 'machine_start',
    joining: 'joining',
    awaiting_admission: 'joining',
    active: 'running',
    stopping: 'running',
  }
  for (const [status, error_stage] of Object.entries(stages)) {
    test(`in ${status}: stage ${error_stage}`, async () => {
      const bot = await botIn(database.owner, status as keyof typeof stages)
      const answer = await report(database.owner, bot, 'failed', {
        error_code: 'SOMETHING_ODD',
        error_message: 'Odd.',
        failure_stage: 'joining',
      })
      expect(answer).toMatchObject({
        meeting_status: 'failed',
        failure_stage: status === 'stopping' ? 'active' : status,
        bot_status: 'failed',
        error: {
          stage: error_stage,
          code: 'SOMETHING_ODD',
          message: 'Odd.',
          attribution: null,
          details: { reported: { failure_stage: 'joining' } },
        },
      })
    })
  }

  test('in stopping, having never been in the room: the stage before', async () => {
    const bot = await botIn(database.owner, 'joining')
    await database.owner`
      update public.workflow_threads
      set meeting_status = 'stopping', stop_requested_at = now(), stop_reason = 'stopped' where bot_id = ${bot.bot_id}`
    expect(await report(database.owner, bot, 'failed')).toMatchObject({
      failure_stage: 'joining',
      error: { stage: 'joining' },
    })
  })
})

test('failed needs no field, and never has an empty message', async () => {
  const say = async (more: Record<string, unknown>, status = 'failed') => {
    const bot = await botIn(database.owner, 'joining')
    return (await report(database.owner, bot, status, more)).error
  }
  expect(await say({})).toMatchObject({ code: 'BOT_CRASHED', message: 'The bot reported a failure.' })
  expect(await say({ reason: 'out of memory' })).toMatchObject({ message: 'out of memory' })
  expect(await say({ exit_code: 137 }, 'exited')).toMatchObject({ message: 'Bot exited with code 137.' })
  expect(await say({ error_message: '   ' })).toMatchObject({ message: expect.stringMatching(/\w/) })
})

test('B17 a reason that nobody knows is other, its text kept', async () => {
  const bot = await botIn(database.owner, 'active')
  expect(await report(database.owner, bot, 'completed', { reason: 'the cat sat on it' })).toMatchObject({
    completion_reason: 'other',
  })
  expect((await historyOf(database.owner, bot, 'meeting')).at(-1)?.reason).toBe('the cat sat on it')
})

test('G01 an exit with code 0 and no reason is a stop; completion_reason wins over reason', async () => {
  const one = await botIn(database.owner, 'active')
  expect(await report(database.owner, one, 'exited', { exit_code: 0 })).toMatchObject({
    completion_reason: 'stopped',
    bot_status: 'completed',
  })
  const two = await botIn(database.owner, 'active')
  expect(
    await report(database.owner, two, 'exited', {
      exit_code: 0,
      reason: 'evicted',
      completion_reason: 'left_alone',
    }),
  ).toMatchObject({ completion_reason: 'left_alone' })
})

test('the machine of a bot that said it exited is not out of sync with it', async () => {
  const bot = await requestBot(database.owner)
  await rpc(database.owner, 'record_container', {
    bot_id: bot.bot_id,
    launch_token: bot.launch_token,
    container_id: 'm',
    status_text: 'started',
  })
  await report(database.owner, bot, 'active')
  expect(await report(database.owner, bot, 'exited', { exit_code: 0 })).toMatchObject({
    bot_status: 'completed',
    container_status: 'Stopping',
  })
  expect(await rpc(database.owner, 'get_bot', { bot_id: bot.bot_id })).toMatchObject({ out_of_sync: false })
  expect(await rowOf(database.owner, bot)).toMatchObject({ probe_due_at: expect.any(Date) })
})

test('an exit of any code after stop was requested is the stop; failed stays failed', async () => {
  const exited = await botIn(database.owner, 'stopping')
  expect(await report(database.owner, exited, 'exited', { exit_code: 137, reason: 'evicted' })).toMatchObject(
    { meeting_status: 'completed', completion_reason: 'stopped' },
  )
  const failed = await botIn(database.owner, 'stopping')
  expect(await report(database.owner, failed, 'failed', { error_code: 'BOT_CRASHED' })).toMatchObject({
    meeting_status: 'failed',
  })
})

test('C07 C18 I03 the same status again changes nothing, sends nothing', async () => {
  for (const status of ['joining', 'active', 'completed', 'failed']) {
    const bot = await requestBot(database.owner)
    await report(database.owner, bot, status)
    const before = await rowOf(database.owner, bot)
    const pushes = await pushesOf(database.owner, bot)
    expect(await report(database.owner, bot, status, { reason: 'again' })).toMatchObject({
      ok: true,
      result: 'unchanged',
      changed: false,
    })
    expect(await rowOf(database.owner, bot)).toEqual({ ...before, last_heartbeat_at: expect.any(Date) })
    expect(await pushesOf(database.owner, bot)).toEqual(pushes)
  }
})

test('a known event_id is answered unchanged; a refused one is judged anew', async () => {
  const bot = await requestBot(database.owner)
  await report(database.owner, bot, 'joining', { event_id: 'a' })
  await report(database.owner, bot, 'active', { event_id: 'b' })
  expect(await report(database.owner, bot, 'joining', { event_id: 'a' })).toMatchObject({
    ok: true,
    result: 'unchanged',
  })
  expect(await report(database.owner, bot, 'joining', { event_id: 'c' })).toMatchObject({
    ok: false,
    code: 'illegal_transition',
  })
  expect(await report(database.owner, bot, 'joining', { event_id: 'c' })).toMatchObject({
    ok: false,
    code: 'illegal_transition',
  })
})

test('twenty identical callbacks at once make one transition', async () => {
  const bot = await requestBot(database.owner)
  const pool = database.connect('postgres', { max: 8 })
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => report(pool, bot, 'joining', { event_id: 'one' })),
  )
  expect(answers.filter((answer) => answer.changed)).toHaveLength(1)
  expect(await historyOf(database.owner, bot, 'meeting')).toHaveLength(2)
})

test('an event_id that two callbacks have at once is taken once, whatever else they say', async () => {
  const bot = await requestBot(database.owner)
  const other = database.connect('postgres', { max: 1 })
  let second: Promise<unknown> | undefined
  await database.owner.begin(async (first) => {
    await report(first as never, bot, 'joining', { event_id: 'one' })
    second = report(other, bot, 'awaiting_admission', { event_id: 'one' })
    await expect
      .poll(
        () =>
          database.superuser`
            select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      )
      .toHaveLength(1)
  })
  expect(await second).toMatchObject({ ok: true, result: 'unchanged', meeting_status: 'joining' })
  expect(await historyOf(database.owner, bot, 'meeting')).toHaveLength(2)
})

test('two ends at once: one wins, the other is told', async () => {
  const pool = database.connect('postgres', { max: 8 })
  for (let round = 0; round < 20; round++) {
    const bot = await botIn(pool, 'active')
    const answers = await Promise.all([report(pool, bot, 'completed'), report(pool, bot, 'failed')])
    expect(answers.filter((answer) => answer.ok)).toHaveLength(1)
    expect(answers.find((answer) => !answer.ok)).toMatchObject({ code: 'illegal_transition' })
  }
})

test('C09 going back is refused, and kept', async () => {
  const bot = await botIn(database.owner, 'active')
  const before = await rowOf(database.owner, bot)
  expect(
    await report(database.owner, bot, 'joining', { reason: 'late', container_id: 'other' }),
  ).toMatchObject({
    ok: false,
    code: 'illegal_transition',
    from: 'active',
    to: 'joining',
    current: 'active',
    allowed: ['stopping', 'completed', 'failed'],
  })
  expect(await rowOf(database.owner, bot)).toEqual(before)
  const rejections =
    await database.owner`select * from public.status_rejections where subject_id = ${bot.bot_id}`
  expect(rejections).toMatchObject([
    {
      machine: 'meeting',
      from_status: 'active',
      to_status: 'joining',
      source: 'bot',
      payload: { status: 'joining', reason: 'late' },
    },
  ])
})

test('at most a hundred rejections of a bot are kept, the newest', async () => {
  const bot = await botIn(database.owner, 'active')
  await database.owner`update lifecycle.settings set callbacks_per_second = 1000`
  for (let i = 0; i < 105; i++) await report(database.owner, bot, 'joining', { reason: `${i}` })
  const rows =
    await database.owner`select payload ->> 'reason' as reason from public.status_rejections where subject_id = ${bot.bot_id} order by id`
  expect(rows).toHaveLength(100)
  expect(rows[0]?.reason).toBe('5')
})

test('C19 a wrong token and an unknown bot are refused alike', async () => {
  const bot = await requestBot(database.owner)
  const wrong = await rpc(database.owner, 'report_bot', {
    bot_id: bot.bot_id,
    token_hash: 'ab'.repeat(32),
    status: 'joining',
  })
  const unknown = await rpc(database.owner, 'report_bot', {
    bot_id: randomUUID(),
    token_hash: 'ab'.repeat(32),
    status: 'joining',
  })
  expect(wrong).toEqual({ ok: false, code: 'unauthorized' })
  expect(unknown).toEqual(wrong)
  expect(await rowOf(database.owner, bot)).toMatchObject({ meeting_status: 'requested' })
})

test('a heartbeat writes its time and nothing else', async () => {
  const bot = await botIn(database.owner, 'active')
  const before = await rowOf(database.owner, bot)
  const pushes = (await pushesOf(database.owner, bot)).length
  expect(await report(database.owner, bot, 'heartbeat', { participant_count: 3 })).toMatchObject({
    result: 'processed',
    changed: false,
  })
  expect(await rowOf(database.owner, bot)).toEqual({
    ...before,
    last_heartbeat_at: expect.any(Date),
    participant_count: 3,
  })
  expect(await pushesOf(database.owner, bot)).toHaveLength(pushes)
})

test('after a stop, presence is ignored and the bot is told to leave', async () => {
  const bot = await botIn(database.owner, 'stopping')
  expect(await report(database.owner, bot, 'heartbeat')).toMatchObject({ command: 'leave' })
  const waiting = await botIn(database.owner, 'joining')
  await database.owner`
    update public.workflow_threads set meeting_status = 'stopping', stop_requested_at = now(), stop_reason = 'stopped'
    where bot_id = ${waiting.bot_id}`
  expect(await report(database.owner, waiting, 'active')).toMatchObject({
    ok: true,
    result: 'ignored',
    meeting_status: 'stopping',
    command: 'leave',
  })
})

test('a new container id of the same status is taken', async () => {
  const bot = await requestBot(database.owner)
  await report(database.owner, bot, 'joining', { container_id: 'one' })
  expect(await report(database.owner, bot, 'joining', { container_id: 'two' })).toMatchObject({
    result: 'container_updated',
    container_id: 'two',
  })
})

test('chunks of a transcript count once, and are put together in order', async () => {
  const bot = await botIn(database.owner, 'active')
  const say = (chunk: number) =>
    report(database.owner, bot, 'transcript', { chunk, utterances: [{ speaker: 'Ada', text: `${chunk}` }] })
  expect(await say(1)).toMatchObject({ result: 'processed' })
  expect(await say(0)).toMatchObject({ result: 'processed' })
  expect(await say(1)).toMatchObject({ result: 'unchanged' })
  const seen = await rpc<{ transcript: unknown }>(database.owner, 'get_bot', {
    bot_id: bot.bot_id,
    include: ['transcript'],
  })
  expect(seen.transcript).toEqual([
    { speaker: 'Ada', text: '0' },
    { speaker: 'Ada', text: '1' },
  ])
  await report(database.owner, bot, 'completed')
  expect(await rowOf(database.owner, bot)).toMatchObject({
    transcript: [{ text: '0' }, { text: '1' }],
    bot_status: 'running',
  })
  expect(await say(2)).toMatchObject({ result: 'ignored' })
})

test('a bot that heard nothing, or whose owner wants no insights, is completed as it leaves', async () => {
  const silent = await botIn(database.owner, 'active')
  expect(await report(database.owner, silent, 'completed')).toMatchObject({
    bot_status: 'completed',
    qa_pairs: [],
    insights: { summary: '', topics: [], action_items: [] },
  })
  const plain = await botIn(database.owner, 'active', { process_insights: false })
  expect(await report(database.owner, plain, 'completed', { transcript })).toMatchObject({
    bot_status: 'completed',
    qa_pairs: [],
  })
})

test('bot logs are kept in the history, the newest 50 KB', async () => {
  const bot = await botIn(database.owner, 'active')
  await report(database.owner, bot, 'failed', { bot_logs: `old${'é'.repeat(60_000)}new`, exit_code: 1 })
  const details = (await historyOf(database.owner, bot, 'meeting')).at(-1)?.details as {
    bot_logs: string
    exit_code: number
  }
  expect(Buffer.byteLength(details.bot_logs)).toBeLessThanOrEqual(51_200)
  expect(Buffer.byteLength(details.bot_logs)).toBeGreaterThan(50_000)
  expect(details.bot_logs.endsWith('new')).toBe(true)
  expect(details.exit_code).toBe(1)
})

test('error details over 64 KB are cut and say so', async () => {
  const bot = await botIn(database.owner, 'active')
  const answer = await report(database.owner, bot, 'failed', {
    error_details: { dump: '"\\'.repeat(60_000) },
  })
  expect(answer.error?.details).toMatchObject({ truncated: true })
})

describe('update_bot_status', () => {
  const update = (bot: { workflow_thread_id: string }, status: string, more = {}) =>
    rpc<Record<string, unknown>>(database.owner, 'update_bot_status', {
      workflow_thread_id: bot.workflow_thread_id,
      status,
      ...more,
    })
  const error = { error_code: 'BOT_CRASHED', error_message: 'It crashed.' }

  test('P17 takes one legal hop and refuses the rest', async () => {
    const bot = await requestBot(database.owner)
    expect(await update(bot, 'running')).toMatchObject({
      ok: false,
      code: 'illegal_transition',
      current: 'pending',
      allowed: ['starting', 'failed'],
    })
    expect(await update(bot, 'starting')).toMatchObject({
      ok: true,
      bot_status: 'starting',
      meeting_status: 'requested',
    })
    expect(await update(bot, 'starting')).toMatchObject({ ok: true, changed: false })
    expect(await update(bot, 'completed')).toMatchObject({ ok: false, current: 'starting' })
    expect(await update(bot, 'running')).toMatchObject({
      ok: true,
      bot_status: 'running',
      meeting_status: 'active',
    })
    expect(await update(bot, 'completed')).toMatchObject({
      ok: true,
      bot_status: 'completed',
      meeting_status: 'completed',
      completion_reason: 'other',
    })
    expect(await update(bot, 'failed', { error_stage: 'running', ...error })).toMatchObject({
      ok: false,
      current: 'completed',
      allowed: [],
    })
    const rejections =
      await database.owner`select to_status from public.status_rejections where subject_id = ${bot.bot_id} and machine = 'bot' order by id`
    expect(rejections.map((row) => row.to_status)).toEqual(['running', 'completed', 'failed'])
  })

  test('running walks the meeting, implied', async () => {
    const bot = await requestBot(database.owner)
    await update(bot, 'starting')
    await update(bot, 'running')
    const meeting = await historyOf(database.owner, bot, 'meeting')
    expect(meeting.map((event) => [event.to_status, event.implied, event.source])).toEqual([
      ['requested', false, 'user'],
      ['joining', true, 'worker'],
      ['awaiting_admission', true, 'worker'],
      ['active', true, 'worker'],
    ])
    expect((await historyOf(database.owner, bot, 'bot')).at(-1)).toMatchObject({
      to_status: 'running',
      implied: false,
    })
  })

  test('failed may choose its stage where the row leaves a choice, and is corrected elsewhere', async () => {
    const starting = async () => {
      const bot = await requestBot(database.owner)
      await update(bot, 'starting')
      return bot
    }
    expect(
      await update(await starting(), 'failed', { error_stage: 'machine_start', ...error }),
    ).toMatchObject({ error: { stage: 'machine_start' }, failure_stage: 'requested' })
    expect(await update(await starting(), 'failed', { error_stage: 'joining', ...error })).toMatchObject({
      error: { stage: 'joining' },
    })
    expect(
      await update(await requestBot(database.owner), 'failed', { error_stage: 'running', ...error }),
    ).toMatchObject({
      error: { stage: 'machine_start', details: { reported: { error_stage: 'running' } } },
    })
    expect(
      await update(await botIn(database.owner, 'active'), 'failed', { error_stage: 'processing', ...error }),
    ).toMatchObject({ error: { stage: 'processing', details: null } })
    const left = await botIn(database.owner, 'active')
    await report(database.owner, left, 'completed', { transcript })
    expect(await update(left, 'failed', { error_stage: 'running', ...error })).toMatchObject({
      error: { stage: 'processing' },
      meeting_status: 'completed',
      failure_stage: null,
    })
  })

  test('bad input is refused with the name of what is wrong', async () => {
    const bot = await requestBot(database.owner)
    for (const [status, more, path] of [
      ['bogus', {}, 'status'],
      ['failed', {}, 'error_stage'],
      ['failed', { error_stage: 'joining', error_message: 'x' }, 'error_code'],
      ['failed', { error_stage: 'joining', error_code: 'X', error_message: ' ' }, 'error_message'],
      ['failed', { error_stage: 'bogus', ...error }, 'error_stage'],
      ['starting', error, 'status'],
    ] as const) {
      const refused = await refusal(update(bot, status, more))
      expect(refused).toMatchObject({ code: 'PT422', message: 'invalid_request' })
      expect(JSON.parse(refused.detail ?? '').issues[0].path).toBe(path)
    }
    expect(await refusal(update({ workflow_thread_id: 'nobody' }, 'starting'))).toMatchObject({
      code: 'PT404',
      message: 'bot_not_found',
    })
  })
})

test('save_workflow_thread_data saves what it may and refuses statuses', async () => {
  const bot = await requestBot(database.owner, { bot_config: { a: 1, b: 1 } })
  const save = (data: unknown) =>
    rpc(database.owner, 'save_workflow_thread_data', { workflow_thread_id: bot.workflow_thread_id, data })
  expect(
    await save({
      bot_config: { b: 2 },
      bot_name: 'N',
      metadata: { m: 1 },
      qa_pairs: [],
      insights: { i: 1 },
      transcript,
    }),
  ).toMatchObject({
    bot_config: { a: 1, b: 2 },
    bot_name: 'N',
    metadata: { m: 1 },
    qa_pairs: [],
    insights: { i: 1 },
  })
  for (const data of [
    { bot_status: 'completed' },
    { version: 9 },
    { transcript: 'text' },
    { bot_name: null },
    [],
    'x',
  ]) {
    expect((await refusal(save(data))).code, JSON.stringify(data)).toBe('PT422')
  }
  expect(await rowOf(database.owner, bot)).toMatchObject({ bot_status: 'pending', bot_name: 'N' })
})
