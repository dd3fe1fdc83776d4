import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import { SignJWT } from 'jose'
import postgres from 'postgres'
import { expect, test } from 'vitest'
import { type BotChange, type Connection, createRollcall } from '../../src/index.ts'
import { startStack } from '../../src/local/stack.ts'
import type { TestBot } from '../support/bots.ts'
import { random } from '../support/random.ts'
import { playedBot, step, whole_life } from '../support/watched_bots.ts'

const seed = Number(process.env.ROLLCALL_STORM_SEED ?? 42)
const BOTS = 500
/** How long the lives of the bots take together at least (ms). */
const STORM_MS = 25_000
const CONNECTIONS = 8
/** Long enough for the slowest request, and no longer. */
const TOKEN_S = 5

const chaos = [
  `seed=${seed}`,
  'drop=0.3,duplicate=0.2,reorder=0.2,delay=0.2,delay_ms=400',
  // Per delivered message, of which there are about three a second.
  'close=0.03,close_channel=0.03,crash=0.03',
  // Refused joins take 5 s, as real ones do; the day's table of messages is lost now and then.
  'join_error=0.3,lose_partition=0.05,partition_ms=2000,deaf=0.3,deaf_ms=800',
].join(',')

test('500 watched bots in a storm: nothing is missed, doubled or out of order, and nobody is flooded', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'rollcall-storm-'))
  const stack = await startStack({ dir, port: 0, db_port: 0, durable: false, seeded: false, chaos })
  const sql = postgres(stack.db_url, { max: CONNECTIONS + 2, onnotice: () => {} })
  const roll = random(`storm ${seed}`)
  try {
    // The same owner for the same seed: the dice of the storm know topics by their name.
    const user_id = `00000000-0000-4000-8000-${String(seed).padStart(12, '0')}`
    let requests = 0
    let frozen_until = 0
    // Reads that are slow, that fail, and a server that freezes.
    const unreliable: typeof fetch = async (input, init) => {
      requests += 1
      const pause_ms = Math.max(frozen_until - performance.now(), roll() < 0.1 ? roll() * 1500 : 0)
      if (pause_ms > 0) await new Promise((resolve) => setTimeout(resolve, pause_ms))
      if (roll() < 0.03) throw new TypeError('the network is gone')
      if (roll() < 0.03) return new Response('{"message":"bad gateway"}', { status: 502 })
      return fetch(input, init)
    }
    // Tokens that run out every few seconds.
    const sign = () =>
      new SignJWT({ sub: user_id, role: 'authenticated' })
        .setProtectedHeader({ alg: 'HS256' })
        .setIssuedAt()
        .setExpirationTime(Math.floor(Date.now() / 1000) + TOKEN_S)
        .sign(new TextEncoder().encode(stack.jwt_secret))
    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: sign,
      global: { fetch: unreliable },
    })

    const bots: TestBot[] = await Promise.all(Array.from({ length: BOTS }, () => playedBot(sql, user_id)))
    requests = 0
    const started = performance.now()
    const rollcall = createRollcall(client)
    const connections: Connection[] = []
    rollcall.onConnection((connection) => connections.push(connection))
    const seen = new Map<string, BotChange[]>()
    let most_channels = 0
    const watches = bots.map(async ({ bot_id }) => {
      const changes: BotChange[] = []
      seen.set(bot_id, changes)
      for await (const change of rollcall.bots.watch(bot_id)) changes.push(change)
    })

    // Each bot takes its steps at random times; some steps commit late, behind others that began after them.
    const moves = bots.flatMap((bot) => {
      const times = whole_life.map(() => roll() * STORM_MS).sort((a, b) => a - b)
      return whole_life.map((name, i) => ({ bot, name, at: times[i] ?? 0 }))
    })
    moves.sort((a, b) => a.at - b.at)
    const busy = new Map<string, Promise<void>>()
    const play = async () => {
      for (let move = moves.shift(); move !== undefined; move = moves.shift()) {
        const { bot, name, at } = move
        const wait_ms = started + at - performance.now()
        if (wait_ms > 0) await new Promise((resolve) => setTimeout(resolve, wait_ms))
        const before = busy.get(bot.bot_id)
        const hold_ms = roll() < 0.05 ? roll() * 400 : 0
        const done = (async () => {
          await before
          if (hold_ms === 0) return step(sql, bot, name)
          await sql.begin(async (tx) => {
            await step(tx as unknown as postgres.Sql, bot, name)
            await new Promise((resolve) => setTimeout(resolve, hold_ms))
          })
        })()
        busy.set(bot.bot_id, done)
        await done
        most_channels = Math.max(most_channels, client.getChannels().length)
      }
    }
    const freezer = setInterval(() => {
      if (roll() < 0.1) frozen_until = performance.now() + 2000
    }, 1000)
    await Promise.all(Array.from({ length: CONNECTIONS }, play))
    clearInterval(freezer)
    const played_ms = performance.now() - started
    await Promise.all(watches)
    const took_s = (performance.now() - started) / 1000

    const truth = await sql<{ subject_id: string; ids: string[] }[]>`
      select subject_id, array_agg(id order by id) as ids from public.status_events
      where owner_id = ${user_id} group by subject_id`
    let total = 0
    let missed = 0
    let doubled = 0
    let disordered = 0
    for (const { subject_id, ids } of truth) {
      const got = (seen.get(subject_id) ?? []).map(({ id }) => id)
      total += ids.length
      missed += ids.filter((id) => !got.includes(Number(id))).length
      doubled += got.length - new Set(got).size
      disordered += got.filter((id, i) => id < (got[i - 1] ?? 0)).length
    }
    const rate = requests / took_s
    console.log(
      `storm: seed ${seed}, ${BOTS} bots, ${total} transitions in ${(played_ms / 1000).toFixed(1)} s, ` +
        `${missed} missed, ${doubled} doubled, ${disordered} out of order; ` +
        `${requests} requests in ${took_s.toFixed(1)} s = ${rate.toFixed(2)}/s; ` +
        `at most ${most_channels} channel; link: ${connections.join(' ')}`,
    )
    expect({ missed, doubled, disordered }).toEqual({ missed: 0, doubled: 0, disordered: 0 })
    expect(total).toBe(BOTS * 9)
    expect(rate).toBeLessThan(2)
    expect(most_channels).toBe(1)
    expect(connections).toContain('live')
  } finally {
    await sql.end({ timeout: 1 })
    await stack.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}, 120_000)
