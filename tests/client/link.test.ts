import { getEventListeners } from 'node:events'
import { createClient } from '@supabase/supabase-js'
import { SignJWT } from 'jose'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type Connection, createRollcall, type Rollcall } from '../../src/index.ts'
import { report } from '../support/bots.ts'
import { type SignedUpUser, type StackAddress, sharedStack, signUp } from '../support/stack.ts'
import { live, playedBot, step } from '../support/watched_bots.ts'

let stack: StackAddress
let sql: postgres.Sql
let ada: SignedUpUser

beforeAll(async () => {
  stack = await sharedStack()
  sql = postgres(stack.db_url, { max: 4, onnotice: () => {} })
  ada = await signUp(stack)
})

afterAll(async () => {
  await sql.end({ timeout: 1 })
})

function linkOf(rollcall: Rollcall): Connection[] {
  const link: Connection[] = []
  rollcall.onConnection((connection) => link.push(connection))
  return link
}

async function statuses(changes: AsyncIterable<{ to: string }>): Promise<string[]> {
  const seen: string[] = []
  for await (const { to } of changes) seen.push(to)
  return seen
}

describe('the link', () => {
  test('goes on after signing out and in again, and ends when somebody else signs in', async () => {
    const user = await signUp(stack)
    const rollcall = createRollcall(user.client)
    const link = linkOf(rollcall)
    const bot = await playedBot(sql, user.user_id)
    const watched = statuses(rollcall.bots.watch(bot.bot_id))
    await vi.waitFor(() => expect(link.at(-1)).toBe('live'), 10_000)
    await user.client.auth.signOut({ scope: 'local' })
    await vi.waitFor(() => expect(link.at(-1)).toBe('signed_out'), 10_000)
    expect(user.client.getChannels()).toEqual([])
    await live(sql, bot)
    await user.client.auth.signInWithPassword({ email: user.email, password: user.password })
    expect(await watched).toHaveLength(9)

    const second = await playedBot(sql, user.user_id)
    const left = statuses(rollcall.bots.watch(second.bot_id))
    await vi.waitFor(() => expect(link.at(-1)).toBe('live'), 10_000)
    left.catch(() => {})
    await user.client.auth.signInWithPassword({ email: ada.email, password: ada.password })
    await expect(left).rejects.toMatchObject({ status: 401, code: 'unauthorized' })
  })

  test('lives through a fresh token and through one that has run out', async () => {
    const user = await signUp(stack)
    const link = linkOf(createRollcall(user.client))
    const bot = await playedBot(sql, user.user_id)
    const watched = statuses(createRollcall(user.client).bots.watch(bot.bot_id))
    await vi.waitFor(() => expect(link.at(-1)).toBe('live'), 10_000)
    await user.client.auth.refreshSession()
    await live(sql, bot)
    expect(await watched).toHaveLength(9)

    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: () =>
        new SignJWT({ sub: user.user_id, role: 'authenticated' })
          .setProtectedHeader({ alg: 'HS256' })
          .setExpirationTime(Math.floor(Date.now() / 1000) + 2)
          .sign(new TextEncoder().encode(stack.jwt_secret)),
    })
    const rollcall = createRollcall(client)
    const short = linkOf(rollcall)
    const second = await playedBot(sql, user.user_id)
    const again = statuses(rollcall.bots.watch(second.bot_id))
    // The server closes the channel with its token; another one takes its place.
    await vi.waitFor(
      () => expect(short.filter((state) => state === 'live').length).toBeGreaterThan(1),
      15_000,
    )
    await live(sql, second)
    expect(await again).toHaveLength(9)
  })

  test('polls where no channel can be had, and says so', async () => {
    class Refused extends WebSocket {
      constructor() {
        super('ws://127.0.0.1:9')
      }
    }
    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: async () => ada.access_token,
      realtime: { transport: Refused },
    })
    const rollcall = createRollcall(client)
    const link = linkOf(rollcall)
    const bot = await playedBot(sql, ada.user_id)
    const watched = statuses(rollcall.bots.watch(bot.bot_id))
    await live(sql, bot)
    expect(await watched).toHaveLength(9)
    expect(link).toEqual(['polling'])
  })

  test('says that the project can not be reached, and comes back', async () => {
    let is_gone = false
    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: async () => ada.access_token,
      global: {
        fetch: async (input, init) => {
          if (is_gone) throw new TypeError('fetch failed')
          return fetch(input, init)
        },
      },
    })
    const rollcall = createRollcall(client)
    const link = linkOf(rollcall)
    const bot = await playedBot(sql, ada.user_id)
    const watched = statuses(rollcall.bots.watch(bot.bot_id))
    await vi.waitFor(() => expect(link.at(-1)).toBe('live'), 10_000)
    is_gone = true
    await step(sql, bot, 'joining')
    await vi.waitFor(() => expect(link.at(-1)).toBe('offline'), 10_000)
    is_gone = false
    await live(sql, bot)
    expect(await watched).toHaveLength(9)
  })
})

describe('a read', () => {
  test('follows a hint that does not tell everything at once, and is repeated if it is older than the hint', async () => {
    let requests = 0
    let is_stale = false
    let stale = 0
    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: async () => ada.access_token,
      global: {
        fetch: async (input, init) => {
          requests += 1
          if (!is_stale || !String(input).includes('status_events')) return fetch(input, init)
          stale += 1
          is_stale = stale < 2
          // A replica that has not heard of it yet.
          return new Response('[]', {
            headers: { 'content-range': '*/0', 'content-type': 'application/json' },
          })
        },
      },
    })
    const rollcall = createRollcall(client)
    const link = linkOf(rollcall)
    const bot = await playedBot(sql, ada.user_id)
    const seen: string[] = []
    const watching = (async () => {
      for await (const { to } of rollcall.bots.watch(bot.bot_id)) seen.push(to)
    })()
    await vi.waitFor(() => expect(link.at(-1)).toBe('live'), 10_000)
    // Once the reads that follow a join are over, the next one comes by itself after 15 s only.
    const quiet = async () => {
      let before = -1
      const isQuiet = () => {
        const same = requests === before
        before = requests
        expect(same).toBe(true)
      }
      await vi.waitFor(isQuiet, { interval: 1500, timeout: 10_000 })
    }
    await quiet()
    // A push that tells the whole event needs no read.
    const before = requests
    await step(sql, bot, 'joining')
    await vi.waitFor(() => expect(seen).toHaveLength(4), 5000)
    expect(requests).toBe(before)
    await quiet()
    is_stale = true
    // What the bot logged is in the history alone.
    await report(sql, bot, 'completed', { completion_reason: 'left_alone', bot_logs: 'Nobody is here.' })
    await watching
    expect(seen.slice(4).sort()).toEqual(['completed', 'failed'])
    expect(stale).toBe(2)
  })

  test('asks for many runs in few requests, and for all that a page cuts off', async () => {
    const user = await signUp(stack)
    const bots = await Promise.all(Array.from({ length: 120 }, () => playedBot(sql, user.user_id)))
    await Promise.all(bots.map((bot) => live(sql, bot)))
    let requests = 0
    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: async () => user.access_token,
      global: {
        fetch: (input, init) => {
          requests += 1
          // As a project does whose API gives no more than 100 rows.
          return fetch(String(input).replace('limit=1000', 'limit=100'), init)
        },
      },
    })
    const rollcall = createRollcall(client)
    const lives = await Promise.all(bots.map(({ bot_id }) => statuses(rollcall.bots.watch(bot_id))))
    expect(new Set(lives.map((seen) => seen.length))).toEqual(new Set([9]))
    // 1,080 events, 100 a page, of which the last run is read on.
    expect(requests).toBeLessThan(16)
  })
})

describe('letting go', () => {
  test('of 1,000 watches leaves no channel, timer, socket or listener', async () => {
    const user = await signUp(stack)
    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: async () => user.access_token,
    })
    const rollcall = createRollcall(client)
    const bots = await Promise.all(Array.from({ length: 10 }, () => playedBot(sql, user.user_id)))
    const handles = () => {
      const counts: Record<string, number> = { Timeout: 0, TCPSocketWrap: 0 }
      for (const name of process.getActiveResourcesInfo()) counts[name] = (counts[name] ?? 0) + 1
      return counts
    }
    const before = handles()
    const over = new AbortController()
    const kept: AsyncIterator<unknown>[] = []
    const abandoned = Array.from({ length: 1000 }, async (_, i) => {
      const watch = rollcall.bots.watch(bots[i % 10]?.bot_id ?? '', { signal: over.signal })
      // Some never start, some leave the loop, some are returned while they wait, the others are aborted.
      if (i % 4 === 0) return
      if (i % 4 === 1) for await (const _ of watch) break
      if (i % 4 === 2) {
        kept.push(watch)
        for await (const _ of watch);
      }
      if (i % 4 === 3) {
        try {
          for await (const _ of watch);
        } catch (error) {
          expect(error).toBe(over.signal.reason)
        }
      }
    })
    await vi.waitFor(() => expect(client.getChannels()).toHaveLength(1), 10_000)
    await vi.waitFor(() => expect(getEventListeners(over.signal, 'abort')).toHaveLength(500), 10_000)
    for (const watch of kept) await watch.return?.()
    over.abort()
    await Promise.all(abandoned)

    expect(getEventListeners(over.signal, 'abort')).toEqual([])
    await vi.waitFor(() => {
      expect(client.getChannels()).toEqual([])
      expect(client.realtime.isConnected()).toBe(false)
      const now = handles()
      expect(now.Timeout).toBeLessThanOrEqual(before.Timeout ?? 0)
      expect(now.TCPSocketWrap).toBeLessThanOrEqual(before.TCPSocketWrap ?? 0)
    }, 20_000)
  })
})
