import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { botIn, report, requestBot, type TestBot } from '../support/bots.ts'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'

let database: TestDatabase
let clock: ClockedSession
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())
beforeEach(async () => {
  clock = await openClock(database)
})
afterEach(async () => {
  await clock.sql.end()
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  // A claim takes whatever is due, whoever's it is: leave nothing to the next test.
  await database.superuser`truncate public.webhook_endpoints, public.webhook_deliveries, private.webhook_secrets`
})

type Endpoint = { id: string; owner_id: string; secret: string; enabled: boolean; [column: string]: unknown }
type Claim = {
  delivery_id: string
  lease_token: string
  attempt: number
  url: string
  type: string
  body: string
  secrets: string[]
}
type Delivery = {
  id: string
  endpoint_id: string | null
  event_id: string
  type: string
  state: string
  attempts: number
  last_status: number | null
  last_error: string | null
  next_attempt_at: Date | null
  payload: {
    type: string
    timestamp: string
    data: { event: Record<string, unknown>; bot?: Record<string, unknown> }
  }
}

const stale = { ok: false, code: 'stale_lease' }

const createEndpoint = (owner_id: string, events = ['*'], url = 'https://example.com/hook') =>
  rpc<Endpoint>(clock.sql, 'create_webhook_endpoint', { owner_id, url, events })
const claim = () => rpc<Claim | null>(clock.sql, 'claim_delivery', { worker: 'w' })
const record = (claimed: Claim | null, more: Record<string, unknown> = { http_status: 200 }) =>
  rpc(clock.sql, 'record_delivery', {
    delivery_id: claimed?.delivery_id,
    lease_token: claimed?.lease_token,
    ...more,
  })
const deliveries = (bot: TestBot) =>
  clock.sql<Delivery[]>`
    select * from public.webhook_deliveries where subject_id = ${bot.bot_id} order by event_id, endpoint_id`
const endpointRow = async ({ id }: Endpoint) =>
  (await clock.sql`select * from public.webhook_endpoints where id = ${id}`)[0]

/** Delivers everything that is due, and says what it was. */
async function deliverAll(): Promise<string[]> {
  const sent: string[] = []
  for (let next = await claim(); next !== null; next = await claim()) {
    sent.push(next.type)
    await record(next)
  }
  return sent
}

/** A bot of an owner with an endpoint that hears of one event: one delivery. */
async function one(events = ['meeting.requested']): Promise<{ bot: TestBot; endpoint: Endpoint }> {
  const endpoint = await createEndpoint(randomUUID(), events)
  return { endpoint, bot: await requestBot(clock.sql, { owner_id: endpoint.owner_id }) }
}

describe('a transition', () => {
  test('J01 writes a delivery for each endpoint that wants it, with what happened and the bot as it then is', async () => {
    const owner_id = randomUUID()
    const all = await createEndpoint(owner_id)
    const some = await createEndpoint(owner_id, ['bot.running', 'meeting.active'])
    const bots = await createEndpoint(owner_id, ['bot.*'])
    const bot = await botIn(clock.sql, 'active', { owner_id })
    const written = await deliveries(bot)
    const types = ({ id }: Endpoint) => written.filter((row) => row.endpoint_id === id).map((row) => row.type)
    expect(types(all)).toEqual([
      'meeting.requested',
      'bot.pending',
      'meeting.joining',
      'bot.starting',
      'meeting.awaiting_admission',
      'meeting.active',
      'bot.running',
    ])
    expect(types(some)).toEqual(['meeting.active', 'bot.running'])
    expect(types(bots)).toEqual(['bot.pending', 'bot.starting', 'bot.running'])

    const history = await clock.sql`
      select id::int, machine, seq, from_status, to_status from public.status_events
      where subject_id = ${bot.bot_id} order by id`
    const told = written.filter((row) => row.endpoint_id === all.id).map(({ payload }) => payload)
    expect(told.map(({ data }) => data.event)).toMatchObject([...history])
    // The bot is the one of that moment, not of the last.
    expect(told.map(({ data }) => data.bot?.meeting_status)).toEqual([
      'requested',
      'requested',
      'joining',
      'joining',
      'awaiting_admission',
      'active',
      'active',
    ])
    const shown = await rpc(clock.sql, 'get_bot', { bot_id: bot.bot_id })
    expect(told.at(-1)).toMatchObject({ type: 'bot.running', data: { bot: shown } })
    expect(JSON.stringify(told)).not.toMatch(/token|passcode|whsec_/)
  })

  test('that is rolled back, refused or repeated writes none', async () => {
    const { bot } = await one(['*'])
    const before = await deliveries(bot)
    await clock.sql
      .begin(async (sql) => {
        await sql`update public.workflow_threads set meeting_status = 'joining' where bot_id = ${bot.bot_id}`
        expect(
          await sql`select from public.webhook_deliveries where subject_id = ${bot.bot_id}`,
        ).toHaveLength(before.length + 1)
        throw new Error('rolled back')
      })
      .catch(() => {})
    await report(clock.sql, bot, 'joining')
    const after = await deliveries(bot)
    expect(after.length).toBeGreaterThan(before.length)
    await report(clock.sql, bot, 'joining')
    await report(clock.sql, bot, 'failed', { reason: 'x', event_id: 'e' })
    const ended = await deliveries(bot)
    await report(clock.sql, bot, 'failed', { reason: 'x', event_id: 'e' })
    expect(await report(clock.sql, bot, 'active')).toMatchObject({ ok: false })
    expect(await deliveries(bot)).toEqual(ended)
  })

  test('of another owner, of an owner without endpoints, or at a disabled one writes none', async () => {
    const { endpoint } = await one()
    const stranger = await botIn(clock.sql, 'active')
    expect(await deliveries(stranger)).toEqual([])
    await rpc(clock.sql, 'update_webhook_endpoint', { endpoint_id: endpoint.id, enabled: false })
    const late = await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    expect(await deliveries(late)).toEqual([])
    const other = await createEndpoint(endpoint.owner_id, ['meeting.requested'])
    const later = await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    expect(await deliveries(later)).toMatchObject([{ endpoint_id: other.id }])
  })

  test('that meets an endpoint which is being deleted waits for that, and does not fail', async () => {
    const { endpoint } = await one()
    const deleting = database.connect('postgres', { max: 1 })
    let requested: Promise<TestBot> | undefined
    await deleting.begin(async (sql) => {
      await rpc(sql, 'delete_webhook_endpoint', { endpoint_id: endpoint.id })
      requested = requestBot(clock.sql, { owner_id: endpoint.owner_id })
      await expect
        .poll(() => database.superuser`select from pg_locks where not granted and locktype = 'transactionid'`)
        .toHaveLength(1)
    })
    const bot = await requested
    expect(bot && (await deliveries(bot))).toEqual([])
  })

  test("goes to the bot's own webhook_url alone where it has one, signed with the owner's own secret", async () => {
    const { endpoint } = await one(['*'])
    await deliverAll()
    const bot = await requestBot(clock.sql, {
      owner_id: endpoint.owner_id,
      webhook_url: 'https://example.org/own',
    })
    expect(await deliveries(bot)).toMatchObject([{ endpoint_id: null }, { endpoint_id: null }])
    const first = await claim()
    expect(first).toMatchObject({ url: 'https://example.org/own', type: 'meeting.requested' })
    expect(first?.secrets).not.toContain(endpoint.secret)
    const rotated = await rpc(clock.sql, 'rotate_webhook_secret', { owner_id: endpoint.owner_id })
    await record(first)
    const second = await claim()
    expect(second?.secrets).toEqual([rotated.secret, ...(first?.secrets ?? [])])
  })

  test('J12 bot.failed is an event like the others', async () => {
    const { bot } = await one(['bot.failed'])
    await report(clock.sql, bot, 'failed', { reason: 'the room is locked' })
    const [only, ...rest] = await deliveries(bot)
    expect(rest).toEqual([])
    expect(only?.payload).toMatchObject({
      type: 'bot.failed',
      data: {
        event: { to_status: 'failed' },
        bot: { bot_status: 'failed', error: { stage: 'machine_start' } },
      },
    })
  })
})

describe('an attempt', () => {
  test('is leased to one worker, and the token of an earlier one is refused', async () => {
    const { bot } = await one()
    const first = await claim()
    expect(await claim()).toBeNull()
    await clock.advance(60)
    const second = await claim()
    expect(second).toMatchObject({ delivery_id: first?.delivery_id, body: first?.body, attempt: 2 })
    expect(await record(first)).toEqual(stale)
    expect(await record(second)).toMatchObject({ ok: true, result: 'delivered' })
    expect(await record(second)).toEqual(stale)
    expect(await deliveries(bot)).toMatchObject([{ state: 'delivered', last_status: 200, attempts: 2 }])
  })

  test.each([
    ['no answer', { error: 'The connection was cut.' }],
    ['408', { http_status: 408 }],
    ['425', { http_status: 425 }],
    ['J04 429', { http_status: 429 }],
    ['500', { http_status: 500 }],
    ['503', { http_status: 503 }],
  ])(
    'that ended with %s is repeated after 5 s, 30 s, 2 min, 10 min, 1 h, 6 h and 24 h, and then no more',
    async (_, answer) => {
      const { bot } = await one()
      for (const rest of [5, 30, 120, 600, 3600, 21_600, 86_400]) {
        expect(await record(await claim(), answer)).toMatchObject({ result: 'retrying' })
        await clock.advance(rest - 0.001)
        expect(await claim()).toBeNull()
        await clock.advance(0.001)
      }
      expect(await record(await claim(), answer)).toMatchObject({ result: 'failed' })
      expect(await deliveries(bot)).toMatchObject([{ state: 'failed', attempts: 8, next_attempt_at: null }])
      expect((await deliveries(bot))[0]?.last_error).not.toBeNull()
    },
  )

  test.each([
    ['400', { http_status: 400 }],
    ['a redirect', { http_status: 302 }],
    ['410', { http_status: 410 }],
    ['a target that may not be called', { refused: true, error: 'Not sent.' }],
  ])('that ended with %s has failed', async (_, answer) => {
    const { bot } = await one()
    expect(await record(await claim(), answer)).toMatchObject({ result: 'failed' })
    expect(await deliveries(bot)).toMatchObject([{ state: 'failed', attempts: 1 }])
  })

  test('is not repeated before the time that retry-after names, up to a day', async () => {
    const rested = async (retry_after_s: number) => {
      const { bot } = await one()
      await record(await claim(), { http_status: 429, retry_after_s })
      const [row] = await deliveries(bot)
      return (Number(row?.next_attempt_at) - Number(clock.now())) / 1000
    }
    expect(await rested(1)).toBe(5)
    expect(await rested(90)).toBe(90)
    expect(await rested(1e9)).toBe(86_400)
  })

  test('whose worker never comes back counts, so that it can not go on for ever', async () => {
    const { bot } = await one()
    for (let attempt = 1; attempt <= 8; attempt++) {
      expect(await claim()).toMatchObject({ attempt })
      await clock.advance(60)
    }
    expect(await claim()).toBeNull()
    expect(await deliveries(bot)).toMatchObject([
      { state: 'failed', last_error: 'No worker came back from its last attempt.' },
    ])
  })
})

describe('the order', () => {
  test('of a run is kept: a later event waits for one that is under way', async () => {
    const { bot } = await one(['*'])
    await report(clock.sql, bot, 'joining')
    const first = await claim()
    expect(first?.type).toBe('meeting.requested')
    expect(await claim()).toBeNull()
    await record(first)
    expect(await deliverAll()).toEqual(['bot.pending', 'meeting.joining', 'bot.starting'])
  })

  test('of a run waits 2 min for one that is retried, and no longer', async () => {
    await one(['*'])
    expect(await record(await claim(), { http_status: 500 })).toMatchObject({ result: 'retrying' })
    await clock.advance(5)
    await record(await claim(), { http_status: 500 })
    await clock.advance(30)
    // Due in two minutes from here: the later one goes before.
    await record(await claim(), { http_status: 500 })
    await clock.advance(84.999)
    expect(await claim()).toBeNull()
    await clock.advance(0.001)
    expect(await deliverAll()).toEqual(['bot.pending'])
    await clock.advance(35)
    expect(await deliverAll()).toEqual(['meeting.requested'])
  })

  test('is kept after an outage of the worker, however long', async () => {
    const { bot } = await one(['*'])
    await clock.advance(600)
    await report(clock.sql, bot, 'active')
    await clock.advance(600)
    const first = await claim()
    expect(await claim()).toBeNull()
    await record(first)
    expect([first?.type, ...(await deliverAll())]).toEqual([
      'meeting.requested',
      'bot.pending',
      'meeting.joining',
      'bot.starting',
      'meeting.awaiting_admission',
      'meeting.active',
      'bot.running',
    ])
  })

  test('of one run holds up neither another run nor another endpoint', async () => {
    const { endpoint } = await one()
    await createEndpoint(endpoint.owner_id, ['meeting.requested'])
    await record(await claim(), { http_status: 500 })
    await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    expect(await deliverAll()).toHaveLength(2)
  })
})

describe('under way at a time are', () => {
  test('two for one endpoint', async () => {
    const { endpoint } = await one()
    for (let n = 0; n < 3; n++) await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    const [first, second] = [await claim(), await claim()]
    expect([first, second]).not.toContain(null)
    expect(await claim()).toBeNull()
    await record(first)
    expect(await claim()).not.toBeNull()
    expect(await claim()).toBeNull()
    expect(
      await rpc(clock.sql, 'record_delivery', {
        delivery_id: second?.delivery_id,
        lease_token: randomUUID(),
      }),
    ).toEqual(stale)
  })

  test('twenty in all, and the twenty-first waits', async () => {
    for (let n = 0; n < 21; n++) await one()
    const claimed: (Claim | null)[] = []
    for (let n = 0; n < 20; n++) claimed.push(await claim())
    expect(claimed).not.toContain(null)
    expect(await claim()).toBeNull()
    const load = () => clock.sql`select * from lifecycle.lane_load('webhooks')`
    expect(await load()).toEqual([{ due: false, leases: 20 }])
    await record(claimed[3] ?? null)
    expect(await load()).toEqual([{ due: true, leases: 19 }])
    expect(await claim()).not.toBeNull()
  })

  test('as many of each owner: who has the fewest comes first, then the oldest', async () => {
    const busy = await one()
    await createEndpoint(busy.endpoint.owner_id, ['meeting.requested'])
    for (let n = 0; n < 4; n++) await requestBot(clock.sql, { owner_id: busy.endpoint.owner_id })
    await clock.advance(1)
    const late = await one()
    const owners: string[] = []
    for (let n = 0; n < 3; n++) {
      const { data } = JSON.parse((await claim())?.body ?? '{}')
      owners.push(data.bot.owner_id)
    }
    expect(owners).toEqual([busy.endpoint.owner_id, late.endpoint.owner_id, busy.endpoint.owner_id])
  })

  test('each once, however many workers claim at once', async () => {
    for (let n = 0; n < 12; n++) await one()
    const pool = database.connect('postgres', { max: 8 })
    // They live by the real time, which is later than the pretended one.
    const all = await Promise.all(
      Array.from({ length: 16 }, () => rpc<Claim | null>(pool, 'claim_delivery', { worker: 'w' })),
    )
    const ids = all.flatMap((one) => one?.delivery_id ?? [])
    expect(new Set(ids).size).toBe(ids.length)
    expect(ids).toHaveLength(12)
  })

  test('two for one endpoint, also when workers claim at once', async () => {
    const { endpoint } = await one()
    await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    const third = await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    await claim()
    const other = database.connect('postgres', { max: 1 })
    let late: Promise<Claim | null> | undefined
    await other.begin(async (sql) => {
      await sql`select set_config('rollcall.now', ${clock.now().toISOString()}, true)`
      expect(await rpc<Claim | null>(sql, 'claim_delivery', { worker: 'v' })).not.toBeNull()
      // For whoever can not see that claim yet, this one is the eldest now.
      await database.superuser`
        update public.webhook_deliveries set next_attempt_at = next_attempt_at - interval '1 s'
        where subject_id = ${third.bot_id}`
      late = claim()
      await expect
        .poll(() => database.superuser`select from pg_locks where not granted and locktype = 'advisory'`)
        .toHaveLength(1)
    })
    expect(await late).toBeNull()
  })
})

describe('an endpoint', () => {
  const fail = async (endpoint: Endpoint) => {
    await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    return record(await claim(), { http_status: 404 })
  }

  test('that fails for 5 days is disabled, says why, and what waits for it fails', async () => {
    const { endpoint } = await one()
    await record(await claim(), { http_status: 500 })
    expect((await endpointRow(endpoint))?.failing_since).toEqual(clock.now())
    await clock.advance(5 * 86_400 - 1)
    expect(await fail(endpoint)).toMatchObject({ ok: true, result: 'failed' })
    expect(await endpointRow(endpoint)).toMatchObject({ enabled: true })
    await clock.advance(1)
    const waiting = await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    expect(await record(await claim(), { http_status: 404 })).toMatchObject({ result: 'endpoint_disabled' })
    const row = await endpointRow(endpoint)
    expect(row).toMatchObject({ enabled: false, disabled_at: clock.now() })
    expect(row?.disabled_reason).toMatch(/^Nothing was delivered since 2026-03-01 12:00 UTC\..*404/)
    expect(await deliveries(waiting)).toMatchObject([{ state: 'failed' }])
    expect(await claim()).toBeNull()
    const health = await rpc<{ checks: { check: string; ok: boolean; detail: string }[] }>(
      clock.sql,
      'get_health',
    )
    const check = health.checks.find((one) => one.check === 'webhooks')
    expect(check).toMatchObject({ ok: false })
    expect(check?.detail).toContain(endpoint.id)
  })

  test('that succeeds in between is well again', async () => {
    const { endpoint } = await one()
    await record(await claim(), { http_status: 404 })
    await clock.advance(4 * 86_400)
    await requestBot(clock.sql, { owner_id: endpoint.owner_id })
    await record(await claim())
    expect(await endpointRow(endpoint)).toMatchObject({ failing_since: null })
    await clock.advance(4 * 86_400)
    expect(await fail(endpoint)).toMatchObject({ result: 'failed' })
    expect(await endpointRow(endpoint)).toMatchObject({ enabled: true })
  })

  test('that its owner disables hears nothing more, and everything again once enabled', async () => {
    const { endpoint, bot } = await one()
    const update = (more: object) =>
      rpc<Endpoint>(clock.sql, 'update_webhook_endpoint', { endpoint_id: endpoint.id, ...more })
    expect(await update({ enabled: false })).toMatchObject({
      ok: true,
      enabled: false,
      disabled_reason: null,
    })
    expect(await deliveries(bot)).toMatchObject([
      { state: 'failed', last_error: 'The endpoint is disabled.' },
    ])
    const [failed] = await deliveries(bot)
    const resend = () => rpc(clock.sql, 'resend_delivery', { delivery_id: failed?.id })
    expect(await resend()).toMatchObject({ ok: false, code: 'webhook_endpoint_disabled' })
    expect(await update({ enabled: true, url: 'https://example.net/new' })).toMatchObject({
      enabled: true,
      url: 'https://example.net/new',
      events: ['meeting.requested'],
    })
    expect(await resend()).toMatchObject({ ok: true, state: 'pending' })
    expect(await claim()).toMatchObject({ url: 'https://example.net/new', delivery_id: failed?.id })
  })

  test('names only events that can happen', async () => {
    for (const events of [['bot.sleeping'], ['cow.*'], ['task.queued'], [''], [], ['bot.failed', null]]) {
      const error = await refusal(createEndpoint(randomUUID(), events as string[]))
      expect([error.code, error.message], JSON.stringify(events)).toEqual(['PT422', 'invalid_request'])
    }
    for (const event of ['*', 'meeting.*', 'handler_run.paused:approval', 'flow_execution.completed']) {
      expect(await createEndpoint(randomUUID(), [event])).toMatchObject({ ok: true, events: [event] })
    }
  })

  test('is one of twenty at most, and only its owner (or nobody named) may change it', async () => {
    const owner_id = randomUUID()
    const first = await createEndpoint(owner_id)
    for (let n = 1; n < 20; n++) await createEndpoint(owner_id)
    expect(await createEndpoint(owner_id)).toMatchObject({ ok: false, code: 'limit_reached', limit: 20 })
    const foreign = { endpoint_id: first.id, owner_id: randomUUID() }
    for (const name of ['update_webhook_endpoint', 'delete_webhook_endpoint', 'rotate_webhook_secret']) {
      expect(await rpc(clock.sql, name, foreign)).toEqual({ ok: false, code: 'webhook_endpoint_not_found' })
    }
    expect(
      await rpc(clock.sql, 'delete_webhook_endpoint', { endpoint_id: first.id, owner_id }),
    ).toMatchObject({
      ok: true,
      id: first.id,
    })
    expect(await createEndpoint(owner_id)).toMatchObject({ ok: true })
  })

  test('that is deleted takes its secret and its deliveries with it', async () => {
    const { endpoint, bot } = await one()
    await rpc(clock.sql, 'delete_webhook_endpoint', { endpoint_id: endpoint.id })
    expect(await deliveries(bot)).toEqual([])
    expect(await database.superuser`select from private.webhook_secrets`).toHaveLength(0)
  })
})

describe('a secret', () => {
  test('is rotated: for 24 h the old one signs as well', async () => {
    const { endpoint } = await one()
    const rotated = await rpc(clock.sql, 'rotate_webhook_secret', { endpoint_id: endpoint.id })
    expect(rotated.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
    expect(rotated.secret).not.toBe(endpoint.secret)
    const next = await claim()
    expect(next?.secrets).toEqual([rotated.secret, endpoint.secret])
    await record(next, { http_status: 500 })
    await clock.advance(86_400)
    expect((await claim())?.secrets).toEqual([rotated.secret])
  })

  test('can be read by no API role', async () => {
    const { endpoint } = await one()
    for (const role of ['anon', 'authenticated', 'service_role'] as const) {
      const error = await refusal(
        database.as(role, { sub: endpoint.owner_id }, (sql) => sql`select * from private.webhook_secrets`),
      )
      expect(error.code, role).toBe('42501')
    }
    for (const table of ['webhook_endpoints', 'webhook_deliveries']) {
      const rows = await database.as('authenticated', { sub: endpoint.owner_id }, (sql) =>
        sql.unsafe(`select * from public.${table}`),
      )
      expect(rows).toHaveLength(1)
      expect(JSON.stringify(rows)).not.toContain(endpoint.secret)
    }
  })
})

test('owners list their endpoints and deliveries, strangers none, operators all', async () => {
  const { endpoint, bot } = await one(['*'])
  const lists = (claims: Record<string, unknown>) =>
    database.as('authenticated', claims, async (sql) => [
      (await rpc<{ items: object[] }>(sql, 'list_webhook_endpoints')).items.length,
      (await rpc<{ items: object[] }>(sql, 'list_webhook_deliveries')).items.length,
    ])
  expect(await lists({ sub: endpoint.owner_id })).toEqual([1, 2])
  expect(await lists({ sub: randomUUID() })).toEqual([0, 0])
  expect(await lists({ sub: randomUUID(), app_metadata: { rollcall: 'operator' } })).toEqual([1, 2])
  await report(clock.sql, bot, 'active')
  const all: string[] = []
  let cursor: string | null = null
  do {
    const page: { items: { id: string }[]; next_cursor: string | null } = await rpc(
      clock.sql,
      'list_webhook_deliveries',
      {
        owner_id: endpoint.owner_id,
        max_rows: 3,
        cursor,
      },
    )
    all.push(...page.items.map(({ id }) => id))
    cursor = page.next_cursor
  } while (cursor !== null)
  expect(new Set(all).size).toBe(7)
  expect(all).toHaveLength(7)
})

test('J10 a delivery that failed for good can be sent again, with the same id and all its attempts', async () => {
  const { bot } = await one()
  const first = await claim()
  await record(first, { http_status: 404 })
  expect(
    await rpc(clock.sql, 'resend_delivery', { delivery_id: first?.delivery_id, owner_id: randomUUID() }),
  ).toEqual({
    ok: false,
    code: 'webhook_delivery_not_found',
  })
  const resend = () =>
    rpc(clock.sql, 'resend_delivery', { delivery_id: first?.delivery_id, owner_id: bot.owner_id })
  expect(await resend()).toMatchObject({
    ok: true,
    changed: true,
    state: 'pending',
    attempts: 0,
    last_status: 404,
  })
  const again = await claim()
  expect(again).toMatchObject({ delivery_id: first?.delivery_id, body: first?.body, attempt: 1 })
  expect(await resend()).toMatchObject({ ok: true, changed: false })
  await record(again, { http_status: 503 })
  await clock.advance(5)
  await record(await claim())
  expect(await deliveries(bot)).toMatchObject([
    { state: 'delivered', last_status: 200, last_error: null, attempts: 2 },
  ])
  expect(await resend()).toMatchObject({ ok: true, state: 'pending', delivered_at: null })
})

test('the lane is woken by the transition, and is due only while something can be sent', async () => {
  await database.superuser`select vault.create_secret('http://127.0.0.1:9/functions/v1', 'rollcall_functions_url')`
  await database.superuser`select vault.create_secret('sb_secret_x', 'rollcall_secret_key')`
  const { endpoint } = await one(['*'])
  expect(
    await clock.sql`select lane from lifecycle.lanes where woken_at = ${clock.now()} and lane = 'webhooks'`,
  ).toHaveLength(1)
  const due = async () => (await clock.sql`select due from lifecycle.lane_load('webhooks')`)[0]?.due
  expect(await due()).toBe(true)
  const first = await claim()
  expect(await due()).toBe(false)
  await record(first, { http_status: 500 })
  expect(await due()).toBe(false)
  await clock.advance(5)
  expect(await due()).toBe(true)
  await rpc(clock.sql, 'delete_webhook_endpoint', { endpoint_id: endpoint.id })
  expect(await due()).toBe(false)
})

test('pruning erases old deliveries that are over; forgetting an owner erases all', async () => {
  const { endpoint, bot } = await one(['*'])
  await record(await claim())
  await clock.advance(91 * 86_400)
  const young = await requestBot(clock.sql, { owner_id: endpoint.owner_id })
  await rpc(clock.sql, 'lifecycle.prune')
  expect(await deliveries(bot)).toMatchObject([{ type: 'bot.pending', state: 'pending' }])
  expect(await deliveries(young)).toHaveLength(2)
  await requestBot(clock.sql, { owner_id: endpoint.owner_id, webhook_url: 'https://example.org/own' })
  await rpc(clock.sql, 'rotate_webhook_secret', { owner_id: endpoint.owner_id })
  await rpc(clock.sql, 'lifecycle.forget_owner', { owner_id: endpoint.owner_id })
  for (const table of ['public.webhook_endpoints', 'public.webhook_deliveries', 'private.webhook_secrets']) {
    expect(await database.superuser.unsafe(`select from ${table}`), table).toHaveLength(0)
  }
})

test('30,000 finished deliveries cost a claim nothing', async () => {
  const { endpoint } = await one()
  await clock.sql`
    insert into public.webhook_deliveries
      (event_id, endpoint_id, owner_id, machine, subject_id, type, payload, state, created_at, delivered_at)
    select -n, ${endpoint.id}, ${endpoint.owner_id}, 'bot', gen_random_uuid(), 'bot.failed', '{}', 'delivered', lifecycle.now(), lifecycle.now()
    from generate_series(1, 30000) n`
  await database.superuser`analyze public.webhook_deliveries`
  const rows = await clock.sql.unsafe(
    `explain (analyze, buffers, format json) select private.next_webhook(lifecycle.now())`,
  )
  const plan = rows[0]?.['QUERY PLAN'][0]
  expect(plan.Plan['Shared Hit Blocks'] + plan.Plan['Shared Read Blocks']).toBeLessThan(1000)
  expect(await claim()).not.toBeNull()
})
