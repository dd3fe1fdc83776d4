import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { pushMigrations } from '../../src/local/migrations.ts'
import { installPlatform } from '../../src/local/platform.ts'
import { type Postgres, startPostgres } from '../../src/local/postgres.ts'
import { type Answer, report, requestBot, type TestBot } from '../support/bots.ts'

// A cluster of its own: it is killed.
const dir = mkdtempSync(join(tmpdir(), 'rollcall-restart-'))
const LIVES = 100
let cluster: Postgres

beforeAll(async () => {
  cluster = await startPostgres({ dir, port: 0 })
  await installPlatform(cluster.url('supabase_admin'))
  await pushMigrations(cluster.url('postgres'))
})
afterAll(async () => {
  await cluster.stop()
  rmSync(dir, { recursive: true, force: true })
})

test('with Postgres killed in the middle of a hundred lives each life still ends in the right state', async () => {
  const sql = postgres(cluster.url('postgres'), {
    max: 8,
    onnotice: () => {},
    connect_timeout: 2,
    max_lifetime: 60,
  })
  const acknowledged = new Map<string, string>()
  let done = 0
  let lost_answers = 0

  /** What a bot does: the same report until it is answered. */
  async function insist<T>(work: () => Promise<T>): Promise<T> {
    const give_up = Date.now() + 60_000
    for (;;) {
      try {
        return await work()
      } catch (error) {
        // A refusal of the database is an answer; everything else is a lost one.
        if (error instanceof postgres.PostgresError && error.code.startsWith('PT')) throw error
        if (Date.now() > give_up) throw error
        lost_answers++
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    }
  }

  async function live(n: number): Promise<void> {
    const owner_id = `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`
    const bot: TestBot = await insist(() =>
      requestBot(sql, {
        owner_id,
        native_meeting_id: `life-${n}`,
        idempotency_key: `life-${n}`,
        launch: false,
      }),
    )
    for (const status of ['joining', 'awaiting_admission', 'active', n % 2 ? 'completed' : 'failed']) {
      const answer: Answer = await insist(() => report(sql, bot, status, { event_id: `${status}` }))
      expect(answer.ok, `life ${n}: ${status}`).toBe(true)
      acknowledged.set(bot.bot_id, answer.meeting_status)
    }
    done++
  }

  const lives = Array.from({ length: LIVES }, (_, n) => live(n))
  for (const reached of [LIVES / 4, LIVES / 2]) {
    await expect.poll(() => done, { timeout: 60_000, interval: 5 }).toBeGreaterThanOrEqual(reached)
    const { port, pid } = cluster
    process.kill(pid, 'SIGKILL')
    // The children of a killed server hold its port a moment longer.
    cluster = await vi.waitFor(() => startPostgres({ dir, port }), { timeout: 10_000, interval: 100 })
  }
  await Promise.all(lives)

  expect(acknowledged.size).toBe(LIVES)
  expect(lost_answers).toBeGreaterThan(0)
  const rows =
    await sql`select bot_id, bot_status, meeting_status, bot_seq, meeting_seq from public.workflow_threads`
  expect(rows).toHaveLength(LIVES)
  for (const row of rows) {
    expect(row.meeting_status).toBe(acknowledged.get(row.bot_id))
    expect(row).toMatchObject({ bot_status: row.meeting_status, bot_seq: 4, meeting_seq: 5 })
  }
  expect(await sql`select * from public.invariant_violations`).toEqual([])
  console.log(`${LIVES} lives, 2 kills, ${lost_answers} answers lost and asked for again, nothing else`)
  await sql.end({ timeout: 1 })
}, 120_000)
