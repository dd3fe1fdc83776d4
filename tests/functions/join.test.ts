import { createHash, randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { JoinResponse } from '../../src/contract/join.ts'
import { type FaultMachines, startFaultMachines } from '../support/fault_machines.ts'
import { type FunctionsHost, type Project, startProject, type User } from '../support/project.ts'

let project: Project
let machines: FaultMachines
/** Launches machines of a real HTTP server, and lets each owner have two bots. */
let limited: FunctionsHost
let closed: FunctionsHost

beforeAll(async () => {
  project = await startProject()
  machines = await startFaultMachines()
  const fly = { FLY_API_HOSTNAME: machines.url, FLY_API_TOKEN: 'x', FLY_APP_NAME: 'bots', BOT_IMAGE: 'bot' }
  limited = await project.host({ ...fly, BOT_LIMIT_PER_OWNER: '2' })
  closed = await project.host({ ...fly, BOT_LIMIT_PER_OWNER: '0' })
})

afterAll(async () => {
  await project?.close()
  await machines?.close()
})

const meeting = () => ({ platform: 'room', native_meeting_id: `room-${randomUUID()}` })

function join(
  as: User | 'secret' | null,
  body: unknown,
  more: { url?: string; headers?: Record<string, string> } = {},
) {
  return project.call('/join', { method: 'POST', as, body, ...more })
}

async function bots(owner_id: string): Promise<number> {
  const [row] =
    await project.sql`select count(*)::int as n from public.workflow_threads where owner_id = ${owner_id}`
  return row?.n
}

async function allBots(): Promise<number> {
  const [row] = await project.sql`select count(*)::int as n from public.workflow_threads`
  return row?.n
}

describe('join', () => {
  test('A01 makes a pending bot whose meeting is requested, with the first row of each history', async () => {
    const user = await project.user()
    const wanted = meeting()
    const { status, body } = await join(user, { ...wanted, launch: false })
    expect(status).toBe(201)
    expect(JoinResponse.parse(body)).toEqual(body)
    expect(body).toMatchObject({
      ...wanted,
      status: 'pending',
      bot_status: 'pending',
      meeting_status: 'requested',
      container_status: null,
      error: null,
      meeting_url: `${project.stack.room_url}/${wanted.native_meeting_id}`,
      room_url: `${project.stack.room_url}/${wanted.native_meeting_id}`,
      topic: `bot:${body.bot_id}`,
    })
    expect(await project.history(body, 'bot')).toMatchObject([
      { seq: 1, from_status: null, to_status: 'pending', source: 'user' },
    ])
    expect(await project.history(body, 'meeting')).toMatchObject([
      { seq: 1, from_status: null, to_status: 'requested', source: 'user' },
    ])
  })

  test('gives the callback token once, and stores only its hash', async () => {
    const user = await project.user()
    const { body } = await join(user, { ...meeting(), launch: false })
    expect(body.callback_url).toBe(`${project.functions_url}/callback`)
    expect(body.callback_token).toMatch(/^[\w-]{43}$/)
    const [secret] = await project.sql`
      select encode(token_hash, 'hex') as hash from private.bot_secrets where bot_id = ${body.bot_id}`
    expect(secret?.hash).toBe(createHash('sha256').update(body.callback_token).digest('hex'))
  })

  test('A02 refuses a second bot for a meeting that one attends', async () => {
    const user = await project.user()
    for (const status of ['requested', 'joining', 'awaiting_admission', 'active'] as const) {
      const bot = await project.play({}, user)
      if (status !== 'requested') await project.report(bot, '', { status })
      const again = await join(user, { platform: 'room', native_meeting_id: bot.native_meeting_id })
      expect(again.status).toBe(409)
      expect(again.body).toMatchObject({ code: 'already_open', details: { bot_id: bot.bot_id } })
    }
    expect(await bots(user.id)).toBe(4)
  })

  test('A04 A05 takes the same meeting again once the bot has ended, or is stopping', async () => {
    for (const status of ['completed', 'failed', 'stopping'] as const) {
      const bot = await project.playTo(status)
      const before = await project.row(bot)
      const again = await project.play({ native_meeting_id: bot.native_meeting_id }, bot.owner)
      expect(again.bot_id).not.toBe(bot.bot_id)
      if (status === 'failed') expect(await project.row(bot)).toEqual(before)
    }
  })

  test('A06 wants credentials', async () => {
    const body = meeting()
    const jwt = (payload: object) =>
      `${btoa('{"alg":"HS256","kid":"x"}')}.${btoa(JSON.stringify(payload))}.${'A'.repeat(43)}`
    const wrong: Record<string, string>[] = [
      {},
      { authorization: 'Bearer nonsense' },
      { authorization: `Bearer ${jwt({ sub: randomUUID(), role: 'authenticated' })}` },
      { authorization: 'Basic dXNlcjpwYXNz' },
      { apikey: 'sb_secret_wrong' },
      { apikey: project.stack.publishable_key },
      { apikey: project.stack.publishable_key, authorization: `Bearer ${project.stack.publishable_key}` },
    ]
    for (const headers of wrong) {
      const reply = await join(null, body, { headers })
      expect(reply.status).toBe(401)
      expect(reply.body).toMatchObject({ code: 'unauthorized' })
      expect(reply.body.hint).toContain('Bearer')
    }
  })

  test('A07 A08 A09 A10 A11 A12 A22 refuses what is no valid request, and leaves no row', async () => {
    const user = await project.user()
    const before = await allBots()
    const meet = { platform: 'google_meet', native_meeting_id: 'abc-defg-hij' }
    const invalid: unknown[] = [
      {},
      [],
      'null',
      '7',
      '',
      { platform: 'skype', native_meeting_id: 'x' },
      { platform: 'room', native_meeting_id: 'x'.repeat(256) },
      { platform: 'room', native_meeting_id: 'a\0b' },
      { platform: 'room', native_meeting_id: '\ud800' },
      '{"platform":"room","native_meeting_id":"a\\u0000b"}',
      ...[...'?#&=/ '].map((character) => ({ platform: 'room', native_meeting_id: `a${character}b` })),
      { platform: 'google_meet', meeting_url: 'http://meet.google.com/abc-defg-hij' },
      { platform: 'daily', meeting_url: 'https://localhost/room' },
      { platform: 'daily', meeting_url: 'https://10.0.0.1/room' },
      { platform: 'zoom', meeting_url: 'https://meet.google.com/abc-defg-hij' },
      { ...meet, process_insights: 'yes' },
      { ...meet, launch: 'yes' },
      { ...meet, passcode: '12345678' },
      { platform: 'teams', native_meeting_id: '9876543210', passcode: 'abc' },
      { ...meet, bot_config: { video_mode: 'static' } },
      { ...meet, bot_config: { a: { b: 'nul \0' } } },
    ]
    for (const body of invalid) {
      const reply = await join(user, body)
      expect([body, reply.status, reply.body.code]).toEqual([body, 422, 'invalid_request'])
      expect(reply.body.details.issues[0]).toEqual({ path: expect.any(String), message: expect.any(String) })
    }
    expect((await join(user, '{"platform":')).status).toBe(400)
    const form = { 'content-type': 'application/x-www-form-urlencoded' }
    expect((await join(user, 'platform=room', { headers: form })).status).toBe(415)
    expect(await allBots()).toBe(before)
  })

  test('A13 A14 refuses beyond the limit, and takes the next when one has ended', async () => {
    const user = await project.user()
    const url = limited.url
    const body = () => ({ ...meeting(), launch: false })
    const first = await join(user, body(), { url })
    expect(first.status).toBe(201)
    expect((await join(user, body(), { url })).status).toBe(201)
    const third = await join(user, body(), { url })
    expect(third.status).toBe(429)
    expect(third.body).toMatchObject({ code: 'limit_reached', details: { limit: 2 } })
    expect(Number(third.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(await bots(user.id)).toBe(2)
    const bot = { bot_id: first.body.bot_id, token: first.body.callback_token, owner: user, ...first.body }
    expect((await project.report(bot, '', { status: 'failed' })).status).toBe(200)
    expect((await join(user, body(), { url })).status).toBe(201)
  })

  test('A13 counts right when many ask at once', async () => {
    const user = await project.user()
    const replies = await Promise.all(
      Array.from({ length: 10 }, () => join(user, { ...meeting(), launch: false }, { url: limited.url })),
    )
    expect(replies.map(({ status }) => status).sort()).toEqual([201, 201, ...Array(8).fill(429)])
    expect(await bots(user.id)).toBe(2)
  })

  test('A15 takes nobody where the limit is 0', async () => {
    const user = await project.user()
    expect((await join(user, meeting(), { url: closed.url })).status).toBe(429)
    expect(await bots(user.id)).toBe(0)
  })

  test('A20 answers the same to the same Idempotency-Key and body', async () => {
    const user = await project.user()
    const headers = { 'idempotency-key': randomUUID() }
    const body = { ...meeting(), launch: false }
    const first = await join(user, body, { headers })
    const second = await join(user, body, { headers })
    const { callback_token, callback_url, ...same } = first.body
    expect(second.status).toBe(201)
    expect(second.body).toEqual(same)
    expect(callback_token).toBeDefined()
    expect(callback_url).toBeDefined()
    expect(await bots(user.id)).toBe(1)
    const other = await join(user, { ...meeting(), launch: false }, { headers })
    expect(other.status).toBe(409)
    expect(other.body.code).toBe('idempotency_key_reused')
    // Keys belong to their owners.
    expect((await join(await project.user(), body, { headers })).status).toBe(201)
  })

  test('A20 makes one row when the same request comes five times at once', async () => {
    const user = await project.user()
    const headers = { 'idempotency-key': randomUUID() }
    const body = { ...meeting(), launch: false }
    const replies = await Promise.all(Array.from({ length: 5 }, () => join(user, body, { headers })))
    expect(new Set(replies.map((reply) => reply.body.bot_id)).size).toBe(1)
    expect(replies.filter((reply) => reply.body.callback_token !== undefined)).toHaveLength(1)
  })

  test('refuses an Idempotency-Key of another form', async () => {
    const user = await project.user()
    for (const key of ['', 'a b', 'x'.repeat(256)]) {
      const reply = await join(user, meeting(), { headers: { 'idempotency-key': key } })
      expect([key, reply.status]).toEqual([key, 422])
    }
  })

  test('A23 lets another user into the same meeting', async () => {
    const bot = await project.play()
    const reply = await join(await project.user(), {
      platform: 'room',
      native_meeting_id: bot.native_meeting_id,
      launch: false,
    })
    expect(reply.status).toBe(201)
  })

  test('P01 speaks the vocabulary of Daily', async () => {
    const user = await project.user()
    const { status, body } = await join(user, {
      provider: 'daily',
      room_url: 'https://acme.daily.co/standup',
      bot_config: { video_mode: 'static', static_image: 'https://example.com/face.png', prompt: 'Listen.' },
      launch: false,
    })
    expect(status).toBe(201)
    expect(body).toMatchObject({
      status: 'pending',
      error: null,
      platform: 'daily',
      native_meeting_id: 'standup',
      room_url: 'https://acme.daily.co/standup',
    })
    expect((await project.row(body)).bot_config).toMatchObject({ prompt: 'Listen.' })
  })

  test('P02 refuses a static video without an image', async () => {
    const reply = await join(await project.user(), { ...meeting(), bot_config: { video_mode: 'static' } })
    expect(reply.status).toBe(422)
    expect(reply.body.details.issues).toMatchObject([{ path: 'bot_config.static_image' }])
  })

  test('retries an ended bot with its settings, and no other', async () => {
    const settings = { bot_name: 'Ada', bot_config: { a: 1 }, process_insights: false, passcode: 'sesame' }
    const bot = await project.playTo('failed', settings)
    const again = await join(bot.owner, { retry_of: bot.workflow_thread_id, bot_name: 'Bob', launch: false })
    expect(again.status).toBe(201)
    expect(await project.row(again.body)).toMatchObject({
      retry_of: bot.workflow_thread_id,
      native_meeting_id: bot.native_meeting_id,
      bot_name: 'Bob',
      bot_config: { a: 1 },
      process_insights: false,
    })
    const open = await join(bot.owner, { retry_of: again.body.workflow_thread_id })
    expect([open.status, open.body.code]).toEqual([409, 'not_ended'])
    for (const [as, retry_of] of [
      [bot.owner, 'unknown'],
      [await project.user(), bot.workflow_thread_id],
    ] as const) {
      const reply = await join(as, { retry_of })
      expect([reply.status, reply.body.code]).toEqual([404, 'bot_not_found'])
    }
  })

  test('keeps the passcode where no read finds it', async () => {
    const bot = await project.play({ passcode: 'open-sesame' })
    const read = await project.call(`/status?bot_id=${bot.bot_id}&include=events,transcript`, {
      as: bot.owner,
    })
    expect(JSON.stringify(read.body)).not.toContain('open-sesame')
  })
})

describe('for whom join acts', () => {
  test('a secret key names the owner, and must', async () => {
    const owner_id = randomUUID()
    const reply = await join('secret', { ...meeting(), owner_id, launch: false })
    expect(reply.status).toBe(201)
    expect((await project.row(reply.body)).owner_id).toBe(owner_id)
    const nobody = await join('secret', meeting())
    expect(nobody.status).toBe(422)
    expect(nobody.body.details.issues).toMatchObject([{ path: 'owner_id' }])
  })

  test('every secret key of the project counts, whatever its name', async () => {
    const host = await project.host({
      SUPABASE_SECRET_KEYS: JSON.stringify({
        default: project.stack.secret_key,
        backend: 'sb_secret_backend',
      }),
    })
    const body = { ...meeting(), owner_id: randomUUID(), launch: false }
    expect((await join(null, body, { url: host.url, headers: { apikey: 'sb_secret_backend' } })).status).toBe(
      201,
    )
    expect((await join(null, body, { url: host.url, headers: { apikey: 'sb_secret_other' } })).status).toBe(
      401,
    )
    await host.close()
  })

  test('a user acts for nobody else', async () => {
    const user = await project.user()
    const own = await join(user, { ...meeting(), owner_id: user.id.toUpperCase(), launch: false })
    expect(own.status).toBe(201)
    const other = await join(user, { ...meeting(), owner_id: randomUUID() })
    expect([other.status, other.body.code]).toEqual([403, 'forbidden'])
  })

  test('an operator acts for anybody, and the history names the operator', async () => {
    const operator = await project.operator()
    const owner_id = randomUUID()
    const reply = await join(operator, { ...meeting(), owner_id, launch: false })
    expect(reply.status).toBe(201)
    expect((await project.row(reply.body)).owner_id).toBe(owner_id)
    expect(await project.history(reply.body, 'bot')).toMatchObject([
      { source: 'user', details: { actor: operator.id } },
    ])
  })
})
