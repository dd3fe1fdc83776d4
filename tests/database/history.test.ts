import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { botIn, report, requestBot } from '../support/bots.ts'
import { openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'

type Changes = {
  events: { id: number; subject_id: string; seq: number; machine: string }[]
  next: string
  has_more: boolean
  reset: boolean
}

let database: TestDatabase
beforeEach(async () => {
  database = await createTestDatabase()
})
afterEach(() => database.drop())

const read = (
  sub: string,
  args: Record<string, unknown> = {},
  claims: Record<string, unknown> = {},
): Promise<Changes> =>
  database.as('authenticated', { sub, ...claims }, (sql) => rpc<Changes>(sql, 'status_changes', args))

/** Begins a transaction that the test ends: `end(true)` commits. */
async function beginOpen(
  work: (sql: postgres.TransactionSql) => Promise<unknown>,
): Promise<{ end(): Promise<void> }> {
  const gate = Promise.withResolvers<void>()
  const begun = Promise.withResolvers<void>()
  const done = database.owner.begin(async (sql) => {
    await work(sql)
    begun.resolve()
    await gate.promise
  })
  await begun.promise
  return {
    async end() {
      gate.resolve()
      await done
    },
  }
}

test('nobody changes the history, not even its owner', async () => {
  await requestBot(database.owner)
  for (const statement of [
    `update public.status_events set to_status = 'x'`,
    'delete from public.status_events',
    'truncate public.status_events',
    'update public.status_events set reason = null where false',
  ]) {
    expect(await refusal(database.owner.unsafe(statement)), statement).toMatchObject({
      code: 'PT409',
      message: 'append_only',
    })
  }
})

test('a cursor goes on where it ended, page by page', async () => {
  const owner_id = randomUUID()
  const bot = await botIn(database.owner, 'active', { owner_id })
  const first = await read(owner_id, { max_rows: 3 })
  expect(first).toMatchObject({ has_more: true, reset: false })
  await report(database.owner, bot, 'completed')
  const second = await read(owner_id, { after: first.next, max_rows: 100 })
  const third = await read(owner_id, { after: second.next, max_rows: 100 })
  const events = [...first.events, ...second.events, ...third.events]
  expect(events).toHaveLength(9)
  expect(new Set(events.map((event) => event.id)).size).toBe(9)
  expect(await read(owner_id, { after: third.next })).toMatchObject({
    events: [],
    has_more: false,
    reset: false,
  })
})

test('an event that commits late, with a lower id, is not missed', async () => {
  const owner_id = randomUUID()
  const late = await beginOpen((sql) =>
    requestBot(sql as never, { owner_id, native_meeting_id: 'late' }).then(() => sql`select 1`),
  )
  // The other owner's lock is not touched: another meeting of the same owner would wait for the advisory lock.
  const fast = await botIn(database.owner, 'requested', { owner_id: randomUUID() })
  await database.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`update public.status_events set owner_id = ${owner_id} where subject_id = ${fast.bot_id}`
    await sql`update public.workflow_threads set owner_id = ${owner_id} where bot_id = ${fast.bot_id}`
  })
  const before = await read(owner_id)
  expect(before.events.map((event) => event.subject_id)).toEqual([fast.bot_id, fast.bot_id])
  await late.end()
  const after = await read(owner_id, { after: before.next })
  expect(after.events).toHaveLength(2)
  expect(after.events[0]?.id).toBeLessThan(before.events[0]?.id ?? 0)
  expect((await read(owner_id, { after: after.next })).events).toEqual([])
})

test('readers that page while writers commit in any order see every event exactly once', async () => {
  const owner_id = randomUUID()
  const pool = database.connect('postgres', { max: 12 })
  const seen: Changes['events'] = []
  let cursor: string | null = null
  let writing = true
  const readOn = async () => {
    const page: Changes = await read(owner_id, { after: cursor, max_rows: 7 })
    seen.push(...page.events)
    cursor = page.next
    return page.events.length
  }
  const reader = (async () => {
    while (writing) await readOn()
    while (await readOn()) {}
  })()
  await Promise.all(
    Array.from({ length: 12 }, async (_, writer) => {
      for (let i = 0; i < 10; i++) {
        const bot = await requestBot(pool, { owner_id })
        await pool.begin(async (sql) => {
          await report(sql as never, bot, 'active')
          await sql`select pg_sleep(${((writer * 7 + i * 5) % 20) / 1000})`
        })
        await report(pool, bot, 'completed')
      }
    }),
  )
  writing = false
  await reader
  expect(seen).toHaveLength(120 * 9)
  expect(new Set(seen.map((event) => event.id)).size).toBe(120 * 9)
  const last = new Map<string, number>()
  for (const event of seen) {
    const subject = `${event.machine} ${event.subject_id}`
    expect(event.seq).toBe((last.get(subject) ?? 0) + 1)
    last.set(subject, event.seq)
  }
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
})

test("owners read their own history, operators everyone's, others none", async () => {
  const owner_id = randomUUID()
  await requestBot(database.owner, { owner_id })
  await requestBot(database.owner)
  expect((await read(owner_id)).events).toHaveLength(2)
  expect((await read(randomUUID())).events).toEqual([])
  expect((await read(randomUUID(), {}, { app_metadata: { rollcall: 'operator' } })).events).toHaveLength(4)
  const all = await database.as('service_role', {}, (sql) => rpc<Changes>(sql, 'status_changes'))
  expect(all.events).toHaveLength(4)
  const error = await refusal(database.as('anon', {}, (sql) => rpc(sql, 'status_changes')))
  expect(error.code).toBe('42501')
})

test('max_rows 0 gives only a cursor of this moment', async () => {
  const owner_id = randomUUID()
  const bot = await requestBot(database.owner, { owner_id })
  const now = await read(owner_id, { max_rows: 0 })
  expect(now.events).toEqual([])
  await report(database.owner, bot, 'joining')
  expect((await read(owner_id, { after: now.next })).events).toHaveLength(2)
})

test('a cursor from before the pruning, or from another cluster, says that all must be read anew', async () => {
  const owner_id = randomUUID()
  const clock = await openClock(database)
  const bot = await botIn(clock.sql, 'active', { owner_id })
  const cursor = (await read(owner_id, { max_rows: 1 })).next
  await report(clock.sql, bot, 'completed')
  await clock.advance(91 * 24 * 3600)
  expect(await rpc(clock.sql, 'lifecycle.prune')).toMatchObject({ events: 9 })
  const stale = await read(owner_id, { after: cursor })
  expect(stale).toMatchObject({ events: [], reset: true })
  expect(await read(owner_id, { after: stale.next })).toMatchObject({ reset: false })
  expect(await read(owner_id, { after: '900000000:900000000:' })).toMatchObject({ reset: true })
})

test('bad input is refused with the name of what is wrong', async () => {
  for (const args of [
    { max_rows: -1 },
    { max_rows: 1001 },
    { max_rows: null },
    { after: 'yesterday' },
    { after: '1:1:/x' },
    { after: '1:1:/1:1:/x' },
    { after: '' },
  ]) {
    expect(await refusal(read(randomUUID(), args)), JSON.stringify(args)).toMatchObject({
      code: 'PT422',
      message: 'invalid_request',
    })
  }
})
