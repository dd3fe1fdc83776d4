import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { botIn, historyOf, pushesOf, report, requestBot } from '../support/bots.ts'
import { openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { rpc } from '../support/rpc.ts'

let database: TestDatabase
beforeEach(async () => {
  database = await createTestDatabase()
})
afterEach(() => database.drop())

const hints = async (topic: string) => {
  const [row] =
    await database.superuser`select count(*)::int as n from realtime.messages where topic = ${topic} and event = 'changed'`
  return row?.n as number
}

test('I02 each change is one push, in the order of seq, with the old and the new status', async () => {
  const bot = await botIn(database.owner, 'active')
  await report(database.owner, bot, 'completed')
  const pushes = await pushesOf(database.owner, bot)
  const history = [
    ...(await historyOf(database.owner, bot, 'meeting')),
    ...(await historyOf(database.owner, bot, 'bot')),
  ]
  history.sort((a, b) => Number(a.id) - Number(b.id))
  expect(pushes.map(({ event_id, machine, seq, from, to }) => [event_id, machine, seq, from, to])).toEqual(
    history.map((event) => [Number(event.id), event.machine, event.seq, event.from_status, event.to_status]),
  )
  expect(pushes.at(-1)).toMatchObject({
    subject_id: bot.bot_id,
    bot_status: 'completed',
    meeting_status: 'completed',
    error_code: null,
    version: 9,
    at: expect.any(String),
  })
  for (const push of pushes) expect(Buffer.byteLength(JSON.stringify(push))).toBeLessThan(1024)
  const [meta] = await database.superuser`
    select bool_and(private) as private, min(event) as event from realtime.messages where topic = ${`bot:${bot.bot_id}`}`
  expect(meta).toEqual({ private: true, event: 'status_changed' })
})

test('a change that is rolled back pushes nothing', async () => {
  const bot = await requestBot(database.owner)
  const before = (await pushesOf(database.owner, bot)).length
  await database.owner
    .begin(async (sql) => {
      await report(sql as never, bot, 'active')
      throw new Error('changed my mind')
    })
    .catch(() => {})
  expect(await pushesOf(database.owner, bot)).toHaveLength(before)
})

test('with the switch off nothing is sent, and the history is written all the same', async () => {
  await database.owner`update lifecycle.settings set push = false`
  const bot = await botIn(database.owner, 'active')
  expect(await pushesOf(database.owner, bot)).toEqual([])
  expect(await hints(`owner:${bot.owner_id}`)).toBe(0)
  expect(await historyOf(database.owner, bot, 'meeting')).toHaveLength(4)
})

test('an owner hears at most four hints a second, and the tail is not lost', async () => {
  const owner_id = randomUUID()
  const clock = await openClock(database)
  for (let i = 0; i < 5; i++) await requestBot(clock.sql, { owner_id })
  expect(await hints(`owner:${owner_id}`)).toBe(1)
  expect(await hints('operators')).toBe(1)
  await clock.advance(0.249)
  await requestBot(clock.sql, { owner_id })
  expect(await hints(`owner:${owner_id}`)).toBe(1)
  await clock.advance(0.001)
  await requestBot(clock.sql, { owner_id })
  expect(await hints(`owner:${owner_id}`)).toBe(2)

  await requestBot(clock.sql, { owner_id })
  await clock.advance(0.1)
  // Too early after the last hint: owed, and sent by the next flush.
  expect(await rpc(clock.sql, 'lifecycle.flush_hints')).toBe(0)
  await clock.advance(1)
  expect(await rpc(clock.sql, 'lifecycle.flush_hints')).toBe(2)
  expect(await hints(`owner:${owner_id}`)).toBe(3)
  await clock.advance(1)
  expect(await rpc(clock.sql, 'lifecycle.flush_hints')).toBe(0)
})

test('a change that stood alone is hinted once, not again by the flush', async () => {
  const clock = await openClock(database)
  const { owner_id } = await requestBot(clock.sql)
  await clock.advance(2)
  expect(await rpc(clock.sql, 'lifecycle.flush_hints')).toBe(0)
  expect(await hints(`owner:${owner_id}`)).toBe(1)
})

test('a change whose transaction commits after a later hint is hinted by the flush', async () => {
  const clock = await openClock(database)
  const slow = await openClock(database, clock.now())
  const bot = await requestBot(clock.sql)
  await clock.advance(0.1)
  const gate = Promise.withResolvers<void>()
  const begun = Promise.withResolvers<void>()
  const late = slow.sql.begin(async (sql) => {
    await report(sql as never, bot, 'joining')
    begun.resolve()
    await gate.promise
  })
  await begun.promise
  await clock.advance(5)
  await requestBot(clock.sql, { owner_id: bot.owner_id })
  await rpc(clock.sql, 'lifecycle.flush_hints')
  const before = await hints(`owner:${bot.owner_id}`)
  gate.resolve()
  await late
  await clock.advance(1)
  await rpc(clock.sql, 'lifecycle.flush_hints')
  expect(await hints(`owner:${bot.owner_id}`)).toBe(before + 1)
})

test('after a long pause the flush takes several calls, each within the locks that a server has', async () => {
  // As after an outage of the recurring jobs: history of more owners than there is room for locks.
  const [row] = await database.superuser`
    select ceil(2.5 * current_setting('max_locks_per_transaction')::int
      * (current_setting('max_connections')::int + 40))::int as n`
  const owners = row?.n as number
  await database.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`
      insert into public.status_events (machine, subject_id, owner_id, seq, to_status, source, created_at)
      select 'bot', gen_random_uuid(), gen_random_uuid(), 1, 'pending', 'user', now() from generate_series(1, ${owners}::int)`
  })
  const clock = await openClock(database)
  const sent: number[] = []
  for (;;) {
    sent.push(await rpc(clock.sql, 'lifecycle.flush_hints', { batch: 2000 }))
    await clock.advance(1)
    const [mark] = await database.superuser`select hinting_to is null as is_there from lifecycle.watermarks`
    if (mark?.is_there) break
  }
  expect(sent.length).toBeGreaterThan(owners / 4001)
  expect(Math.max(...sent)).toBeLessThanOrEqual(4001)
  const [told] = await database.superuser`
    select count(distinct topic)::int as n from realtime.messages where event = 'changed' and topic like 'owner:%'`
  expect(told?.n).toBe(owners)
  expect(await rpc(clock.sql, 'lifecycle.flush_hints')).toBe(0)
})

test('a change that commits while the flush is on its way is hinted as well', async () => {
  const clock = await openClock(database)
  const bots = []
  for (let i = 0; i < 6; i++) bots.push(await requestBot(clock.sql))
  await clock.advance(0.1)
  for (const bot of bots) await report(clock.sql, bot, 'joining')
  await clock.advance(1)
  expect(await rpc(clock.sql, 'lifecycle.flush_hints', { batch: 3 })).toBeGreaterThan(0)
  const late = bots[0] as (typeof bots)[0]
  const before = await hints(`owner:${late.owner_id}`)
  // Of an owner that the flush is past, or is about to come to.
  await database.superuser`update lifecycle.hints set quiet_until = ${new Date(clock.now().getTime() + 60_000)}`
  await report(clock.sql, late, 'awaiting_admission')
  await clock.advance(120)
  for (let i = 0; i < 20; i++) {
    await rpc(clock.sql, 'lifecycle.flush_hints', { batch: 3 })
    await clock.advance(1)
  }
  expect(await hints(`owner:${late.owner_id}`)).toBeGreaterThan(before)
  for (const { owner_id } of bots) expect(await hints(`owner:${owner_id}`)).toBeGreaterThanOrEqual(2)
  expect(await rpc(clock.sql, 'lifecycle.flush_hints')).toBe(0)
})

test('a transaction that stays open keeps back no hints but its own, and nobody hears twice', async () => {
  const clock = await openClock(database)
  const other = await openClock(database, clock.now())
  const bots: Awaited<ReturnType<typeof requestBot>>[] = []
  const heard = async () => Promise.all(bots.map(({ owner_id }) => hints(`owner:${owner_id}`)))
  await other.sql.begin(async (sql) => {
    await requestBot(sql as never)
    for (let i = 0; i < 6; i++) bots.push(await requestBot(clock.sql))
    await clock.advance(0.1)
    for (const bot of bots) await report(clock.sql, bot, 'joining')
    for (let i = 0; i < 5; i++) {
      await clock.advance(1)
      await rpc(clock.sql, 'lifecycle.flush_hints')
    }
    expect(await heard()).toEqual([2, 2, 2, 2, 2, 2])
    expect(await hints('operators')).toBe(0)
  })
  await clock.advance(1)
  await rpc(clock.sql, 'lifecycle.flush_hints')
  expect(await heard()).toEqual([2, 2, 2, 2, 2, 2])
  expect(await hints('operators')).toBe(2)
})

test("transactions of one owner do not wait for each other's hint", async () => {
  const owner_id = randomUUID()
  const one = await requestBot(database.owner, { owner_id })
  const two = await requestBot(database.owner, { owner_id })
  const clock = await openClock(database, new Date(Date.now() + 60_000))
  const other = await openClock(database, new Date(Date.now() + 60_000))
  await clock.sql.begin(async (sql) => {
    await report(sql as never, one, 'joining')
    await other.sql`set lock_timeout = '2s'`
    expect(await report(other.sql, two, 'joining')).toMatchObject({ ok: true, changed: true })
  })
})

test('neither a change nor the flush waits for a hint that the other is about to send', async () => {
  const owner_id = randomUUID()
  const start = new Date(Date.now() + 120_000)
  const [flush, change, other] = [
    await openClock(database, start),
    await openClock(database, start),
    await openClock(database, start),
  ]
  for (const { sql } of [flush, change, other]) await sql`set lock_timeout = '2s'`
  const one = await requestBot(change.sql as never, { owner_id })
  await report(change.sql as never, one, 'joining')
  // The flush has marked what is owed, and has not committed.
  await flush.sql.begin(async (sql) => {
    await rpc(sql as never, 'lifecycle.flush_hints')
    await change.advance(5)
    await requestBot(change.sql as never)
    expect(await report(change.sql as never, one, 'awaiting_admission')).toMatchObject({ ok: true })
  })
  // A change holds its owner's row, while the flush has news of the same owner.
  const before = await hints(`owner:${owner_id}`)
  await other.advance(60)
  await change.advance(60)
  await flush.advance(60)
  await change.sql
    .begin(async (sql) => {
      await requestBot(sql as never, { owner_id })
      await report(other.sql as never, one, 'active')
      await rpc(flush.sql as never, 'lifecycle.flush_hints')
      throw new Error('rolled back')
    })
    .catch((error) => expect(error.message).toBe('rolled back'))
  // What was owed is sent all the same, although that change was rolled back.
  await rpc(flush.sql as never, 'lifecycle.flush_hints')
  expect(await hints(`owner:${owner_id}`)).toBe(before + 1)
})

test('a push that cannot be stored never fails the change', async () => {
  await database.superuser.unsafe(`
    do $$ declare part text; begin
      for part in select inhrelid::regclass::text from pg_inherits where inhparent = 'realtime.messages'::regclass loop
        execute 'drop table ' || part;
      end loop;
    end $$`)
  const bot = await requestBot(database.owner)
  expect(await report(database.owner, bot, 'active')).toMatchObject({ ok: true, changed: true })
  expect(await pushesOf(database.owner, bot)).toEqual([])
})
