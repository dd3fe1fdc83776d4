import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { parseChaos } from '../../src/local/realtime/chaos.ts'
import { listen, openRawSocket, subscribe, systemMessages } from '../support/realtime_channel.ts'
import {
  api_keys,
  type RealtimeServer,
  startRealtimeServer,
  startTestDatabase,
  type TestDatabase,
} from '../support/realtime_server.ts'

let db: TestDatabase
const servers: RealtimeServer[] = []

beforeAll(async () => {
  db = await startTestDatabase()
})

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()))
})

afterAll(async () => {
  await db.stop()
})

async function start(chaos: string): Promise<RealtimeServer> {
  const server = await startRealtimeServer(db.superuser_url, { chaos })
  servers.push(server)
  return server
}

async function send(n: number, topic: string) {
  await db.owner`select realtime.send(${db.owner.json({ n })}, 'n', ${topic}, false)`
}

/** What one subscriber hears of 60 messages, up to the last one. */
async function whatIsHeard(chaos: string): Promise<unknown[]> {
  const server = await start(chaos)
  const channel = server.client().channel('dice')
  const heard = listen(channel)
  // On a topic of its own, so that it rolls no dice of the first.
  const end = server.client(undefined, { key: api_keys.secret }).channel('end')
  const ended = listen(end)
  await Promise.all([subscribe(channel), subscribe(end)])
  // In one go: a message that changes places waits only so long for the next one.
  await db.owner`
    select realtime.send(jsonb_build_object('n', n), 'n', 'dice', false) from generate_series(1, 60) as n order by n`
  await vi.waitFor(async () => {
    await send(0, 'end')
    expect(ended.length).toBeGreaterThan(0)
  })
  // A message that waits to change places waits at most 200 ms, a delayed one less.
  let before = -1
  await vi.waitFor(
    () => {
      const now = heard.length
      const is_quiet = now === before
      before = now
      expect(is_quiet).toBe(true)
    },
    { interval: 400, timeout: 10_000 },
  )
  return heard.map(({ payload }) => payload.n)
}

const in_order = Array.from({ length: 60 }, (_, index) => index + 1)

describe('the settings', () => {
  test('are read from one line', () => {
    expect(parseChaos(undefined)).toBeUndefined()
    expect(parseChaos('')).toBeUndefined()
    expect(parseChaos('seed=42, drop=0.3,delay_ms=10')).toMatchObject({
      seed: 42,
      drop: 0.3,
      delay_ms: 10,
      close: 0,
    })
  })

  test.each(['dorp=0.3', 'drop', 'drop=', 'drop=2', 'drop=-1', 'drop=x'])('refuse %s', (text) => {
    expect(() => parseChaos(text)).toThrow(`ROLLCALL_REALTIME_CHAOS: "${text}"`)
  })
})

describe('messages', () => {
  test('meet the same fate in every run with one seed, and another one with another', async () => {
    const dice = 'drop=0.3,duplicate=0.2,reorder=0.2'
    const first = await whatIsHeard(`seed=1,${dice}`)
    expect(await whatIsHeard(`seed=1,${dice}`)).toEqual(first)
    expect(await whatIsHeard(`seed=2,${dice}`)).not.toEqual(first)
    expect(first.length).toBeGreaterThan(20)
  })

  test('that are only reordered or delayed all arrive', async () => {
    const reordered = await whatIsHeard('seed=3,reorder=0.3')
    expect(reordered).not.toEqual(in_order)
    expect([...reordered].sort((a, b) => Number(a) - Number(b))).toEqual(in_order)
    expect(await whatIsHeard('seed=3,delay=0.5,delay_ms=20')).toEqual(in_order)
  })

  test('that are only dropped or doubled keep their order', async () => {
    const dropped = await whatIsHeard('seed=4,drop=0.3')
    expect(dropped.length).toBeLessThan(60)
    expect(dropped).toEqual([...new Set(dropped)].sort((a, b) => Number(a) - Number(b)))
    const doubled = await whatIsHeard('seed=4,duplicate=0.5')
    expect(doubled.length).toBeGreaterThan(60)
    expect([...new Set(doubled)]).toEqual(in_order)
  })
})

describe('a link', () => {
  test('that is cut comes back by itself', async () => {
    const server = await start('seed=1,close=1')
    const channel = server.client().channel('cut')
    const statuses: string[] = []
    channel.subscribe((status) => statuses.push(status))
    await vi.waitFor(() => expect(statuses).toEqual(['SUBSCRIBED']))
    await send(1, 'cut')
    await vi.waitFor(() => expect(statuses).toEqual(['SUBSCRIBED', 'CHANNEL_ERROR', 'SUBSCRIBED']), {
      timeout: 5000,
    })
  })

  test('keeps its socket when only the channel crashes or is closed', async () => {
    const server = await start('seed=1,crash=1')
    const statuses: string[] = []
    server
      .client()
      .channel('crash')
      .subscribe((status) => statuses.push(status))
    await vi.waitFor(() => expect(statuses).toEqual(['SUBSCRIBED']))
    await send(1, 'crash')
    await vi.waitFor(() => expect(statuses).toEqual(['SUBSCRIBED', 'CHANNEL_ERROR', 'SUBSCRIBED']), {
      timeout: 5000,
    })

    const closing = await start('seed=1,close_channel=1')
    const channel = closing.client().channel('closed')
    const said = systemMessages(channel)
    await subscribe(channel)
    await send(1, 'closed')
    await vi.waitFor(() => expect(said).toEqual(['Too many messages per second']))
  })

  test('is silent while a join is refused', async () => {
    const server = await start('seed=1,join_error=1,join_error_ms=300')
    const raw = await openRawSocket(server.api_url, '2.0.0', api_keys.publishable)
    const started = performance.now()
    raw.send(['1', '1', 'realtime:refused', 'phx_join', {}])
    await vi.waitFor(() => expect(raw.frames).toHaveLength(1))
    expect(performance.now() - started).toBeGreaterThan(290)
    expect(JSON.parse(String(raw.frames[0]))[4]).toMatchObject({
      status: 'error',
      response: { reason: expect.stringContaining('DatabaseLackOfConnections') },
    })
    raw.close()
  })

  test('is deaf at first, and says when it hears', async () => {
    const server = await start('seed=1,deaf=1,deaf_ms=1500')
    const channel = server.client().channel('deaf', { config: { broadcast: { replication_ready: true } } })
    const heard = listen(channel)
    const said = systemMessages(channel)
    await subscribe(channel)
    await send(1, 'deaf')
    await vi.waitFor(() => expect(said).toEqual(['Replication connection established']), {
      timeout: 5000,
    })
    await send(2, 'deaf')
    await vi.waitFor(() => expect(heard.map(({ payload }) => payload.n)).toEqual([2]))
  })
})

test('today is lost and comes back', async () => {
  await start('seed=1,lose_partition=1,partition_ms=300')
  const partition = `realtime.messages_${new Date().toISOString().slice(0, 10).replaceAll('-', '_')}`
  const exists = async () => {
    const [row] = await db.admin<
      [{ exists: boolean }]
    >`select to_regclass(${partition}) is not null as exists`
    return row.exists
  }
  await vi.waitFor(async () => expect(await exists()).toBe(false), { timeout: 5000, interval: 20 })
  await vi.waitFor(async () => expect(await exists()).toBe(true), { timeout: 5000, interval: 20 })
})
