import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { WebhookDelivery, WebhookEndpoint } from '../../src/contract/webhooks.ts'
import { startFaultMachines } from '../support/fault_machines.ts'
import {
  type FunctionsHost,
  type PlayedBot,
  type Project,
  type Reply,
  startProject,
  type User,
} from '../support/project.ts'
import { startWebhookReceiver, verify, type WebhookReceiver } from '../support/webhook_receiver.ts'

let project: Project
let receiver: WebhookReceiver
let host: FunctionsHost
let owner: User
let path: string

beforeAll(async () => {
  project = await startProject()
  receiver = await startWebhookReceiver()
  host = await project.host({ WEBHOOKS_ALLOW_PRIVATE: '1', WORK_SECONDS: '100000' })
  await project.wakes(host.url)
  // The rhythm of a day in seconds: what is tested is what is tried again, not when.
  await project.sql`
    update lifecycle.settings set webhook_retries = '{200 ms,200 ms,200 ms,200 ms,200 ms,200 ms,200 ms}'`
  await project.sql`select cron.schedule('rollcall-wake', '1 second', 'select lifecycle.wake()')`
})
beforeEach(async () => {
  owner = await project.user()
  path = `/${randomUUID().slice(0, 8)}`
})
afterEach(async () => {
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
})
afterAll(async () => {
  await project?.close()
  await receiver?.close()
})

type Init = { as?: User | 'secret' | null; body?: unknown; url?: string }
const call = (
  method: string,
  to: string,
  { as = owner, url = host.url, ...init }: Init = {},
): Promise<Reply> => project.call(`/webhooks${to}`, { method, as, url, ...init })

async function subscribe(events: string[], more: Init = {}): Promise<{ id: string; secret: string }> {
  const reply = await call('POST', '', { body: { url: `${receiver.url}${path}`, events }, ...more })
  expect(reply, JSON.stringify(reply.body)).toMatchObject({ status: 201 })
  return reply.body
}

const play = (more: Record<string, unknown> = {}) => project.play(more, owner)
const arrived = (count: number, timeout = 15_000) =>
  expect.poll(() => receiver.at(path).length, { timeout }).toBeGreaterThanOrEqual(count)
const deliveries = async (query = ''): Promise<WebhookDelivery[]> =>
  (await call('GET', `/deliveries${query}`)).body.items

/** The one delivery of the owner, once it is in this state. */
async function delivery(state: WebhookDelivery['state'], timeout = 20_000): Promise<WebhookDelivery> {
  await expect.poll(async () => (await deliveries())[0]?.state, { timeout }).toBe(state)
  const [one, ...rest] = await deliveries()
  expect(rest).toEqual([])
  return WebhookDelivery.parse(one)
}

describe('an endpoint', () => {
  test('is created with a secret that is shown once, read, changed and deleted', async () => {
    const { id, secret } = await subscribe(['bot.failed', 'bot.failed', 'meeting.*'])
    expect(secret).toMatch(/^whsec_/)
    const read = await call('GET', `/${id}`)
    expect(read).toMatchObject({
      status: 200,
      body: { id, owner_id: owner.id, events: ['bot.failed', 'meeting.*'], enabled: true },
    })
    expect(WebhookEndpoint.parse(read.body)).toEqual(read.body)
    expect((await call('GET', '')).body).toEqual({ items: [read.body] })
    const changed = await call('PATCH', `/${id}`, { body: { events: ['*'], enabled: false } })
    expect(changed).toMatchObject({
      status: 200,
      body: { events: ['*'], enabled: false, url: read.body.url },
    })
    expect(JSON.stringify([read.body, changed.body])).not.toContain('whsec_')
    expect(await call('DELETE', `/${id}`)).toMatchObject({ status: 200, body: { id } })
    expect(await call('GET', `/${id}`)).toMatchObject({
      status: 404,
      body: { code: 'webhook_endpoint_not_found' },
    })
    expect((await call('GET', '')).body).toEqual({ items: [] })
  })

  test("is its owner's alone; an operator and a secret key reach it by its id", async () => {
    const { id } = await subscribe(['*'])
    const stranger = await project.user()
    const requests: [string, string, unknown?][] = [
      ['GET', `/${id}`],
      ['PATCH', `/${id}`, { enabled: false }],
      ['DELETE', `/${id}`],
      ['POST', `/${id}/rotate`],
    ]
    for (const [method, to, body] of requests) {
      expect(await call(method, to, { as: stranger, body }), `${method} ${to}`).toMatchObject({
        status: 404,
        body: { code: 'webhook_endpoint_not_found' },
      })
      expect((await call(method, to, { as: null, body })).status).toBe(401)
    }
    expect((await call('GET', '', { as: stranger })).body).toEqual({ items: [] })
    expect((await call('GET', `?owner_id=${owner.id}`, { as: stranger })).status).toBe(403)
    for (const as of [await project.operator(), 'secret'] as const) {
      expect(await call('GET', `/${id}`, { as })).toMatchObject({ status: 200, body: { id } })
      expect((await call('GET', `?owner_id=${owner.id}`, { as })).body.items).toHaveLength(1)
    }
    const body = { url: `${receiver.url}/x`, events: ['*'] }
    expect((await call('POST', '', { as: 'secret', body })).status).toBe(422)
    expect((await call('POST', '', { as: 'secret', body: { ...body, owner_id: owner.id } })).status).toBe(201)
  })

  test('with bad input is 422, with an unknown path 404', async () => {
    const good = { url: `${receiver.url}/x`, events: ['*'] }
    for (const bad of [
      { url: undefined },
      { url: 'x' },
      { url: 'ftp://example.com' },
      { url: 5 },
      { events: [] },
      { events: ['bot'] },
      { events: ['bot.sleeping'] },
      { events: 'bot.failed' },
      { owner_id: 'x' },
    ]) {
      const reply = await call('POST', '', { body: { ...good, ...bad } })
      expect(reply, JSON.stringify(bad)).toMatchObject({ status: 422, body: { code: 'invalid_request' } })
    }
    for (const to of [
      '/x',
      '/deliveries/x',
      '/deliveries?state=lost',
      '/deliveries?limit=0',
      '/deliveries?cursor=x',
    ]) {
      expect((await call('GET', to)).status, to).toBe(422)
    }
    for (const to of ['/a/b', '/deliveries/a/b']) {
      expect((await call('GET', to)).status, to).toBe(404)
    }
    expect((await call('GET', `/${randomUUID()}/rotate`)).status).toBe(405)
    expect((await call('POST', `/${randomUUID()}/rotate/x`)).status).toBe(404)
    expect((await call('POST', `/deliveries/${randomUUID()}/resend`)).body.code).toBe(
      'webhook_delivery_not_found',
    )
    expect((await call('PUT', '')).status).toBe(405)
  })

  test('J06 http://, private addresses and localhost are refused', async () => {
    const strict = project.functions_url
    for (const url of [
      'http://example.com/hook',
      'https://localhost/hook',
      'https://127.0.0.1/hook',
      'https://10.0.0.8/hook',
      'https://169.254.169.254/latest/meta-data',
      'https://[::1]/hook',
      'https://[fd00::1]/hook',
      'https://2130706433/hook',
      'https://hooks.internal/hook',
      'https://user:pass@example.com/hook',
    ]) {
      const reply = await call('POST', '', { url: strict, body: { url, events: ['*'] } })
      expect(reply, url).toMatchObject({ status: 422, body: { details: { issues: [{ path: 'url' }] } } })
    }
    const fine = { url: 'https://example.com/hook', events: ['bot.failed'] }
    expect((await call('POST', '', { url: strict, body: fine })).status).toBe(201)
    // One that was made where it is allowed is not called where it is not.
    await subscribe(['meeting.requested'])
    await project.wakes(strict)
    try {
      await play()
      const refused = await delivery('failed')
      expect(refused).toMatchObject({ attempts: 1, last_status: null, last_error: expect.any(String) })
      expect(refused.last_error).toMatch(/^Not sent\. The URL must begin with https/)
    } finally {
      await project.wakes(host.url)
    }
    expect(receiver.at(path)).toEqual([])
  })
})

describe('a delivery', () => {
  test('J01 tells of each transition once, in order, with the old and the new status', async () => {
    const { secret } = await subscribe(['*'])
    const bot = await play()
    for (const status of ['joining', 'active', 'completed']) await project.report(bot, '', { status })
    await project.call('/work?lane=processing', { method: 'POST', as: 'secret', url: host.url })
    await expect.poll(async () => (await project.row(bot)).bot_status, { timeout: 15_000 }).toBe('completed')
    const history = [...(await project.history(bot, 'meeting')), ...(await project.history(bot, 'bot'))]
    await arrived(history.length)
    await expect.poll(() => deliveries('?state=pending'), { timeout: 15_000 }).toEqual([])
    const told = receiver.at(path)
    expect(told).toHaveLength(history.length)
    for (const one of told) verify(secret, one)
    const events = told.map(({ body }) => body.data.event)
    expect(events.map(({ id }) => id)).toEqual(events.map(({ id }) => id).toSorted((a, b) => a - b))
    for (const machine of ['meeting', 'bot'] as const) {
      expect(events.filter((event) => event.machine === machine)).toMatchObject(
        await project.history(bot, machine),
      )
    }
    const { body: last } = told.at(-1) ?? {}
    expect(last).toMatchObject({
      type: 'bot.completed',
      data: { event: { from_status: 'running', to_status: 'completed' } },
    })
    const { body: shown } = await project.call(`/status?bot_id=${bot.bot_id}`, { as: owner })
    expect(last.data.bot).toEqual(shown)
  })

  test('J02 after 500, 500 the third attempt arrives, with the same webhook-id', async () => {
    receiver.answers[path] = [500, 500]
    const { secret } = await subscribe(['meeting.requested'])
    await play()
    const done = await delivery('delivered')
    expect(done).toMatchObject({ attempts: 3, last_status: 200, last_error: null, next_attempt_at: null })
    const told = receiver.at(path)
    expect(told).toHaveLength(3)
    expect(new Set(told.map(({ id }) => id))).toEqual(new Set([done.id]))
    expect(new Set(told.map(({ text }) => text)).size).toBe(1)
    for (const one of told) verify(secret, one)
  })

  test('J04 a 429 is tried again, not before its retry-after', async () => {
    receiver.answers[path] = [{ status: 429, headers: { 'retry-after': '2' } }]
    await subscribe(['meeting.requested'])
    await play()
    await arrived(2)
    const [first, second] = receiver.at(path)
    expect((second?.came_at ?? 0) - (first?.came_at ?? 0)).toBeGreaterThan(1_900)
    expect(await delivery('delivered')).toMatchObject({ attempts: 2 })
  })

  test('J05 a receiver that hangs has failed after 10 s, and holds up nobody else', async () => {
    receiver.answers[path] = ['hang']
    await subscribe(['meeting.requested'])
    await play()
    await arrived(1)
    const hung = owner
    const hung_path = path
    owner = await project.user()
    path = `${path}-other`
    await subscribe(['meeting.requested'])
    await play()
    await arrived(1, 5_000)
    expect(receiver.at(hung_path)).toHaveLength(1)
    owner = hung
    path = hung_path
    expect(await delivery('delivered')).toMatchObject({ attempts: 2, last_status: 200 })
    const [first, second] = receiver.at(hung_path)
    expect((second?.came_at ?? 0) - (first?.came_at ?? 0)).toBeGreaterThan(9_900)
  })

  test('to a receiver that cuts the connection, before or within its answer, is tried again', async () => {
    receiver.answers[path] = ['cut', 'half', 503, 408]
    await subscribe(['meeting.requested'])
    await play()
    expect(await delivery('delivered')).toMatchObject({ attempts: 5 })
  })

  test('to a receiver that redirects has failed, and the redirect is not followed', async () => {
    const elsewhere = `${path}-elsewhere`
    receiver.answers[path] = [{ status: 307, headers: { location: `${receiver.url}${elsewhere}` } }]
    await subscribe(['meeting.requested'])
    await play()
    expect(await delivery('failed')).toMatchObject({
      attempts: 1,
      last_status: 307,
      last_error: 'The receiver answered 307.',
    })
    expect(receiver.at(elsewhere)).toEqual([])
  })

  test('to nobody at all is tried again, and says so', async () => {
    const reply = await call('POST', '', {
      body: { url: 'http://127.0.0.1:9/hook', events: ['meeting.requested'] },
    })
    expect(reply.status).toBe(201)
    await play()
    expect(await delivery('failed')).toMatchObject({
      attempts: 8,
      last_status: null,
      last_error: 'The connection was refused.',
    })
  })

  test('J07 verifies with the standard library; a changed body or an old timestamp does not', async () => {
    const { secret } = await subscribe(['meeting.requested'])
    await play()
    await arrived(1)
    const [genuine] = receiver.at(path)
    if (genuine === undefined) throw new Error('nothing arrived')
    verify(secret, genuine)
    expect(genuine.headers['content-type']).toBe('application/json')
    expect(() => verify(secret, { ...genuine, text: genuine.text.replace('requested', 'active') })).toThrow(
      'No matching signature',
    )
    const old = String(Number(genuine.headers['webhook-timestamp']) - 600)
    expect(() =>
      verify(secret, { ...genuine, headers: { ...genuine.headers, 'webhook-timestamp': old } }),
    ).toThrow('too old')
    const another = String(Number(genuine.headers['webhook-timestamp']) - 1)
    expect(() =>
      verify(secret, { ...genuine, headers: { ...genuine.headers, 'webhook-timestamp': another } }),
    ).toThrow('No matching signature')
    expect(() => verify('whsec_c2VjcmV0', genuine)).toThrow('No matching signature')
  })

  test('after a rotation verifies with the new secret and with the old one', async () => {
    const { id, secret } = await subscribe(['meeting.requested'])
    const rotated = await call('POST', `/${id}/rotate`)
    expect(rotated).toMatchObject({ status: 200, body: { endpoint_id: id, owner_id: owner.id } })
    expect(Date.parse(rotated.body.previous_signs_until) - Date.now()).toBeGreaterThan(23 * 3_600_000)
    await play()
    await arrived(1)
    const [told] = receiver.at(path)
    if (told === undefined) throw new Error('nothing arrived')
    verify(secret, told)
    verify(rotated.body.secret, told)
  })

  test('J10 whose attempts all failed is shown, and can be sent again with the same id', async () => {
    receiver.answers[path] = Array(8).fill(503)
    await subscribe(['meeting.requested'])
    await play()
    const failed = await delivery('failed')
    expect(failed).toMatchObject({ attempts: 8, last_status: 503, last_error: 'The receiver answered 503.' })
    expect(receiver.at(path)).toHaveLength(8)
    const shown = await call('GET', `/deliveries/${failed.id}`)
    expect(shown.body.payload).toEqual(receiver.at(path)[0]?.body)
    expect((await call('GET', `/deliveries/${failed.id}`, { as: await project.user() })).status).toBe(404)
    expect(await call('POST', `/deliveries/${failed.id}/resend`)).toMatchObject({
      status: 202,
      body: { id: failed.id, state: 'pending' },
    })
    expect(await delivery('delivered')).toMatchObject({ id: failed.id, attempts: 1 })
    expect(new Set(receiver.at(path).map(({ id }) => id)).size).toBe(1)
  })

  test('J12 is sent for a failure too', async () => {
    await subscribe(['bot.failed'])
    const bot = await play()
    await project.report(bot, '', { status: 'failed', reason: 'the room is locked' })
    await arrived(1)
    expect(receiver.at(path)[0]?.body).toMatchObject({
      type: 'bot.failed',
      data: {
        event: { from_status: 'pending', to_status: 'failed' },
        bot: { bot_id: bot.bot_id, status: 'failed', error: { stage: 'machine_start' } },
      },
    })
  })

  test("of a bot with its own webhook_url goes there alone, signed with its owner's own secret", async () => {
    await subscribe(['*'])
    const { secret } = (await call('POST', '/secret/rotate')).body
    const own = `${path}-own`
    const body = { platform: 'room', native_meeting_id: `room-${randomUUID()}`, launch: false }
    const joined = await project.call('/join', {
      method: 'POST',
      as: owner,
      url: host.url,
      body: { ...body, webhook_url: `${receiver.url}${own}` },
    })
    expect(joined.status).toBe(201)
    await expect.poll(() => receiver.at(own).length, { timeout: 15_000 }).toBe(2)
    for (const one of receiver.at(own)) verify(secret, one)
    expect(receiver.at(path)).toEqual([])
    expect(await deliveries(`?subject_id=${joined.body.bot_id}`)).toMatchObject([
      { endpoint_id: null, url: `${receiver.url}${own}` },
      { endpoint_id: null },
    ])
  })

  test('C18 of a refused callback does not exist', async () => {
    await subscribe(['*'])
    const bot = await play()
    await project.report(bot, '', { status: 'active' })
    const before = await deliveries(`?subject_id=${bot.bot_id}`)
    expect((await project.report(bot, '', { status: 'joining' })).status).toBe(409)
    expect(await deliveries(`?subject_id=${bot.bot_id}`)).toHaveLength(before.length)
  })
})

test('deliveries are listed page by page, by endpoint, run and state', async () => {
  const { id } = await subscribe(['*'])
  const bot: PlayedBot = await play()
  await project.report(bot, '', { status: 'active' })
  await expect.poll(async () => (await deliveries('?state=delivered')).length, { timeout: 15_000 }).toBe(7)
  const seen: string[] = []
  let next: string | null = ''
  while (next !== null) {
    const { body }: Reply = await call(
      'GET',
      `/deliveries?endpoint_id=${id}&limit=3${next === '' ? '' : `&cursor=${encodeURIComponent(next)}`}`,
    )
    seen.push(...body.items.map((one: WebhookDelivery) => one.id))
    next = body.next_cursor
  }
  expect(seen).toHaveLength(7)
  expect(new Set(seen).size).toBe(7)
  expect(await deliveries('?state=failed')).toEqual([])
  expect(await deliveries(`?subject_id=${randomUUID()}`)).toEqual([])
})

test('A17 a machine that can not be made is told: bot.failed with MACHINE_START_FAILED', async () => {
  const api = await startFaultMachines()
  api.always = { status: 500 }
  const launching = await project.host({
    FLY_API_HOSTNAME: api.url,
    FLY_API_TOKEN: 'fly-token',
    FLY_APP_NAME: 'bots',
    BOT_IMAGE: 'bot',
  })
  try {
    await subscribe(['bot.failed', 'meeting.failed'])
    const joined = await project.call('/join', {
      method: 'POST',
      as: owner,
      url: launching.url,
      body: { platform: 'room', native_meeting_id: `room-${randomUUID()}` },
    })
    expect(joined.status).toBe(201)
    await arrived(2, 25_000)
    expect(receiver.at(path).map(({ body }) => body)).toMatchObject([
      { type: 'meeting.failed' },
      {
        type: 'bot.failed',
        data: {
          bot: {
            bot_id: joined.body.bot_id,
            status: 'failed',
            error: { stage: 'machine_start', code: 'MACHINE_START_FAILED', attribution: 'system' },
          },
        },
      },
    ])
  } finally {
    await launching.close()
    await api.close()
  }
}, 60_000)

test('no input is a 500', async () => {
  const { id } = await subscribe(['bot.failed'])
  const junk = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom<unknown>(
      null,
      '',
      'a\0b',
      '\ud800',
      '*',
      'bot.*',
      ['*', null],
      [['*']],
      1e308,
      'x'.repeat(5000),
    ),
    fc.constantFrom(
      'http://[',
      'https://a b/',
      'http://example.com:99999/',
      '  https://example.com/ ',
      'HTTPS://EXAMPLE.com',
    ),
  )
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 100 }),
    fc.constantFrom('%', '%00', '..', id, randomUUID()),
  )
  const request = fc.record({
    method: fc.constantFrom('GET', 'POST', 'PATCH', 'DELETE'),
    path: fc.array(
      fc.oneof(
        fc.constantFrom('deliveries', 'secret', 'rotate', 'resend', id),
        // Dots would be taken for a way out of the function before they are sent.
        text.filter((raw) => !/^\.{1,2}$/.test(raw)).map((raw) => encodeURIComponent(raw.toWellFormed())),
      ),
      {
        maxLength: 4,
      },
    ),
    body: fc.dictionary(fc.constantFrom('url', 'events', 'enabled', 'owner_id'), junk),
    query: fc.dictionary(fc.constantFrom('limit', 'cursor', 'state', 'subject_id', 'owner_id', 'x'), text, {
      maxKeys: 2,
    }),
  })
  await fc.assert(
    fc.asyncProperty(request, async ({ method, path: segments, body, query }) => {
      const to = `${segments.map((segment) => `/${segment}`).join('')}?${new URLSearchParams(query)}`
      const reply = await call(method, to, method === 'GET' || method === 'DELETE' ? {} : { body })
      expect(reply.status, `${method} ${to} ${JSON.stringify(body)}`).toBeLessThan(500)
      expect(reply.headers.get('access-control-allow-origin')).toBe('*')
    }),
    { numRuns: 300 },
  )
}, 90_000)
