import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { type Answer, botIn, historyOf, report, requestBot, rowOf } from '../support/bots.ts'
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

const token_hash = 'ab'.repeat(32)
const ask = (more: Record<string, unknown>, sql = database.owner) =>
  rpc<Answer>(sql, 'request_bot', {
    token_hash,
    platform: 'google_meet',
    native_meeting_id: 'abc-defg-hij',
    meeting_url: 'https://meet.google.com/abc-defg-hij',
    ...more,
  })
const count = async (owner_id: string) => {
  const [row] =
    await database.owner`select count(*)::int as n from public.workflow_threads where owner_id = ${owner_id}`
  return row?.n as number
}

test('fifty requests at once for one meeting make one bot', async () => {
  const owner_id = randomUUID()
  const pool = database.connect('postgres', { max: 10 })
  const answers = await Promise.all(Array.from({ length: 50 }, () => ask({ owner_id }, pool)))
  const made = answers.filter((answer) => answer.ok)
  expect(made).toHaveLength(1)
  for (const answer of answers.filter((answer) => !answer.ok)) {
    expect(answer).toMatchObject({ code: 'already_open', bot_id: made[0]?.bot_id })
  }
  expect(await count(owner_id)).toBe(1)
})

test('fifty requests at once stay within the cap, and leave no other row', async () => {
  const owner_id = randomUUID()
  const pool = database.connect('postgres', { max: 10 })
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, i) => ask({ owner_id, native_meeting_id: `m${i}`, max_open: 3 }, pool)),
  )
  expect(answers.filter((answer) => answer.ok)).toHaveLength(3)
  expect(answers.find((answer) => !answer.ok)).toEqual({ ok: false, code: 'limit_reached', limit: 3 })
  expect(await count(owner_id)).toBe(3)
})

test('A15 a cap of none refuses the first; A14 an ended bot makes room', async () => {
  const owner_id = randomUUID()
  expect(await ask({ owner_id, max_open: 0 })).toMatchObject({ code: 'limit_reached' })
  const bot = await requestBot(database.owner, { owner_id, max_open: 1 })
  expect(await ask({ owner_id, max_open: 1 })).toMatchObject({ code: 'limit_reached' })
  await report(database.owner, bot, 'failed')
  expect(await ask({ owner_id, max_open: 1 })).toMatchObject({ ok: true })
})

test('A02 while a bot attends, the meeting is taken; A05 while it is stopping, it is not', async () => {
  for (const status of ['requested', 'joining', 'awaiting_admission', 'active'] as const) {
    const owner_id = randomUUID()
    const bot = await botIn(database.owner, status, {
      owner_id,
      platform: 'google_meet',
      native_meeting_id: 'abc-defg-hij',
    })
    expect(await ask({ owner_id }), status).toMatchObject({
      ok: false,
      code: 'already_open',
      bot_id: bot.bot_id,
    })
    expect(await count(owner_id)).toBe(1)
  }
  const owner_id = randomUUID()
  await botIn(database.owner, 'stopping', {
    owner_id,
    platform: 'google_meet',
    native_meeting_id: 'abc-defg-hij',
  })
  expect(await ask({ owner_id })).toMatchObject({ ok: true })
  expect(await ask({ owner_id: randomUUID() })).toMatchObject({ ok: true })
})

test('the same key and request is answered alike, without a second launch; another request is refused', async () => {
  const owner_id = randomUUID()
  const first = await ask({ owner_id, idempotency_key: 'k' })
  const again = await ask({ owner_id, idempotency_key: 'k' })
  const { launch_token, passcode: _, ...rest } = first
  expect(launch_token).toBeTruthy()
  expect(again).toEqual({ ...rest, result: 'replayed', changed: false })
  expect(await ask({ owner_id, idempotency_key: 'k', bot_name: 'other' })).toEqual({
    ok: false,
    code: 'idempotency_key_reused',
  })
  expect(await count(owner_id)).toBe(1)
})

test('a retry takes over the settings of an ended bot of the same owner', async () => {
  const bot = await requestBot(database.owner, {
    passcode: 'secret',
    bot_name: 'Ada',
    bot_config: { a: 1 },
    process_insights: false,
    webhook_url: 'https://example.com/hook',
  })
  const retry = (more: Record<string, unknown> = {}) =>
    rpc<Answer>(database.owner, 'request_bot', {
      owner_id: bot.owner_id,
      token_hash,
      retry_of: bot.workflow_thread_id,
      ...more,
    })
  expect(await retry()).toMatchObject({ ok: false, code: 'not_ended' })
  expect(await retry({ owner_id: randomUUID() })).toMatchObject({ ok: false, code: 'bot_not_found' })
  await report(database.owner, bot, 'failed')
  expect(await retry({ bot_name: 'Grace' })).toMatchObject({
    ok: true,
    retry_of: bot.workflow_thread_id,
    platform: 'room',
    passcode: 'secret',
    bot_name: 'Grace',
    bot_config: { a: 1 },
    process_insights: false,
    webhook_url: 'https://example.com/hook',
  })
})

test('the history says who asked, and an operator who asked for somebody else', async () => {
  const actor = randomUUID()
  const bot = await requestBot(database.owner, { actor })
  for (const machine of ['bot', 'meeting'] as const) {
    expect(await historyOf(database.owner, bot, machine)).toMatchObject([
      { source: 'user', details: { actor } },
    ])
  }
})

test('the token is stored as its hash, where no role of the API reads it', async () => {
  const bot = await requestBot(database.owner, { passcode: 'secret' })
  const [secret] =
    await database.superuser`select encode(token_hash, 'hex') as hash, passcode from private.bot_secrets where bot_id = ${bot.bot_id}`
  expect(secret).toEqual({ hash: expect.stringMatching(/^[0-9a-f]{64}$/), passcode: 'secret' })
  for (const role of ['anon', 'authenticated', 'service_role'] as const) {
    expect((await refusal(database.as(role, {}, (sql) => sql`select * from private.bot_secrets`))).code).toBe(
      '42501',
    )
  }
  expect(JSON.stringify(await rowOf(database.owner, bot))).not.toContain('secret')
})

test('bad input is refused and leaves no row', async () => {
  const owner_id = randomUUID()
  for (const [more, code] of [
    [{ owner_id: null }, 'PT422'],
    [{ owner_id, platform: 'skype' }, 'PT422'],
    [{ owner_id, platform: null }, 'PT422'],
    [{ owner_id, native_meeting_id: null }, 'PT422'],
    [{ owner_id, native_meeting_id: 'a b' }, '23514'],
    [{ owner_id, native_meeting_id: 'x'.repeat(256) }, '23514'],
    [{ owner_id, bot_config: { x: 'y'.repeat(65_536) } }, '23514'],
  ] as const) {
    expect((await refusal(ask(more))).code, JSON.stringify(more).slice(0, 80)).toBe(code)
  }
  expect(await count(owner_id)).toBe(0)
})
