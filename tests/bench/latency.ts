/**
 * How long a transition takes from its COMMIT (sent) to the callbacks of Realtime and of `bots.watch()`, next to what
 * Postgres itself takes for a NOTIFY: measured in turns, after the same pauses, since a process that has slept is slow.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { createRollcall } from '../../src/index.ts'
import { type Stack, startStack } from '../../src/local/stack.ts'
import { signUp } from '../support/stack.ts'
import { playedBot, step } from '../support/watched_bots.ts'
import { median, quantile, type Row } from './measure.ts'

const CLIENTS = 5
const LIVES = 10
/** Before each commit of a client: longer than any read that the last one caused (ms). */
const SPACING_MS = 850
/** The steps of a bot that nobody else takes for it. */
const steps = ['joining', 'awaiting_admission', 'active', 'left'] as const

export async function latency(): Promise<Row[]> {
  const dir = mkdtempSync(join(tmpdir(), 'rollcall-latency-'))
  // Where benchmarks run as root, Postgres runs as somebody else.
  chmodSync(dir, 0o755)
  const stack = await startStack({ dir, port: 0, db_port: 0, durable: false, seeded: false })
  const sql = postgres(stack.db_url, { max: CLIENTS + 2, onnotice: () => {} })
  try {
    const samples = await Promise.all(Array.from({ length: CLIENTS }, (_, i) => watched(stack, sql, i)))
    const echoes = samples.flatMap(({ echoed }) => echoed)
    const echo = median(echoes)
    const row = (what: string, times: number[], must: number | null): Row => ({
      what,
      must: must === null ? '' : `under ${must} times`,
      goal: '',
      measured: `${(median(times) / echo).toFixed(1)} times (median ${median(times).toFixed(1)} ms, p95 ${quantile(times, 0.95).toFixed(1)} ms, n ${times.length})`,
      reached: must === null ? null : median(times) / echo < must,
    })
    return [
      row('a bare LISTEN/NOTIFY echo', echoes, null),
      row(
        'a NOTIFY of the transition',
        samples.flatMap(({ notified }) => notified),
        null,
      ),
      row(
        'a push of Realtime',
        samples.flatMap(({ pushed }) => pushed),
        null,
      ),
      row(
        'the callback of `bots.watch()`',
        samples.flatMap(({ watched }) => watched),
        1.5,
      ),
    ]
  } finally {
    await sql.end({ timeout: 1 })
    await stack.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Commits what `work` does, and says when the COMMIT was sent: the work before it does not count. */
async function committed(sql: postgres.Sql, work: (tx: postgres.Sql) => Promise<unknown>): Promise<number> {
  let sent = 0
  await sql.begin(async (tx) => {
    await work(tx as unknown as postgres.Sql)
    sent = performance.now()
  })
  return sent
}

async function watched(
  stack: Stack,
  sql: postgres.Sql,
  nth: number,
): Promise<Record<'echoed' | 'notified' | 'pushed' | 'watched', number[]>> {
  const times = {
    echoed: [] as number[],
    notified: [] as number[],
    pushed: [] as number[],
    watched: [] as number[],
  }
  let echoed = Promise.withResolvers<number>()
  const { unlisten } = await sql.listen(`echo_${nth}`, () => echoed.resolve(performance.now()))
  const user = await signUp(stack)
  const rollcall = createRollcall(user.client)
  const listener = createClient(stack.api_url, stack.publishable_key, {
    accessToken: async () => user.access_token,
  })
  await listener.realtime.setAuth()
  await pause((SPACING_MS * nth) / CLIENTS)
  for (let i = 0; i < LIVES; i++) {
    const bot = await playedBot(sql, user.user_id)
    let arrived = Promise.withResolvers<number>()
    let heard = Promise.withResolvers<number>()
    const channel = listener.channel(`bot:${bot.bot_id}`, { config: { private: true } })
    channel.on('broadcast', { event: '*' }, () => heard.resolve(performance.now()))
    await new Promise<void>((done) => channel.subscribe((status) => status === 'SUBSCRIBED' && done()))
    const over = new AbortController()
    const watching = (async () => {
      for await (const _ of rollcall.bots.watch(bot.bot_id, { signal: over.signal })) {
        arrived.resolve(performance.now())
      }
    })().catch(() => {})
    await arrived.promise
    for (const name of steps) {
      await pause(SPACING_MS)
      const notify = (tx: postgres.Sql) => tx`select pg_notify(${`echo_${nth}`}, '')`
      echoed = Promise.withResolvers()
      const notified = await committed(sql, notify)
      times.echoed.push((await echoed.promise) - notified)
      await pause(SPACING_MS)
      echoed = Promise.withResolvers()
      arrived = Promise.withResolvers()
      heard = Promise.withResolvers()
      const sent = await committed(sql, async (tx) => {
        await step(tx, bot, name)
        await notify(tx)
      })
      times.notified.push((await echoed.promise) - sent)
      times.pushed.push((await heard.promise) - sent)
      times.watched.push((await arrived.promise) - sent)
    }
    over.abort()
    await watching
    await listener.removeChannel(channel)
  }
  await unlisten()
  return times
}
