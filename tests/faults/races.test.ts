import { afterAll, beforeAll, expect, vi } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { random } from '../support/random.ts'
import { automationMoves } from './automation_moves.ts'
import { botMoves } from './bot_moves.ts'
import { executionMoves } from './execution_moves.ts'
import { faultTest, seed, sized } from './form.ts'
import { playing, time_moves } from './play.ts'
import { type Contest, claims, ends, repeated, setting } from './races.ts'
import { type Called, type Caller, openWorld, type World } from './world.ts'

const CONNECTIONS = 8
const ROUNDS = sized(3, 500)
let database: TestDatabase
let world: World
beforeAll(async () => {
  database = await createTestDatabase()
  world = await openWorld(database, CONNECTIONS)
  // Twenty callbacks at once are what is tried here.
  await database.superuser`update lifecycle.settings set callbacks_per_second = 1000`
})
afterAll(() => database?.drop())

const dice = random(`races ${seed}`)
const shuffled = <T>(list: readonly T[]): T[] =>
  list
    .map((value) => ({ value, at: dice() }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value)

/** Lets everybody call at once; every other time from a row that somebody has until all wait for it. */
async function atOnce(
  calls: { name: string; args: Record<string, unknown> }[],
  row?: Contest['row'],
): Promise<Called[]> {
  const start = () =>
    calls.map(({ name, args }, i) => (world.callers[i % CONNECTIONS] as Caller).call(name, args))
  if (row === undefined || dice() < 0.5) return settled(start())
  let started: Promise<Called>[] = []
  await database.owner.begin(async (tx) => {
    await tx.unsafe(`select from public.${row.table} where ${row.key} = $1 for update`, [row.id])
    let done = 0
    started = start().map((one) => one.finally(() => done++))
    await vi.waitFor(
      async () => {
        // Not within the transaction: it would see the same activity for ever.
        const [waiting] = await database.superuser`
          select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
        expect(waiting?.n + done).toBeGreaterThanOrEqual(calls.length)
      },
      { interval: 2, timeout: 5_000 },
    )
  })
  return settled(started)
}

/** All of them, also where one fails: nothing of it reaches the next round. */
async function settled(calls: Promise<Called>[]): Promise<Called[]> {
  await Promise.allSettled(calls)
  return Promise.all(calls)
}

faultTest('of two ends exactly one happens, and everybody else is told so', 60, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, begin] of Object.entries(ends)) {
      await world.reset()
      const { subject, row, ways } = await begin(setting(world))
      const calls = shuffled(
        Array.from({ length: CONNECTIONS }, (_, i) => ways[i % ways.length] as (typeof ways)[0]),
      )
      const called = await atOnce(calls, row)

      const winners = called.filter((one, i) => calls[i]?.ends && one.answer?.ok && one.answer.changed)
      if (subject === null) {
        expect(winners, name).toHaveLength(1)
      } else {
        const terminal = await database.owner`
          select e.to_status, e.xid::text from public.status_events e
          join lifecycle.states s on s.machine = e.machine and s.state = e.to_status and s.kind = 'terminal'
          where e.machine = ${subject.machine} and e.subject_id = ${subject.id}`
        expect(terminal, name).toHaveLength(1)
        const [by] = called.filter(({ xid }) => xid !== null && xid === terminal[0]?.xid)
        expect(
          winners.map(({ xid }) => xid),
          name,
        ).toEqual(by?.name === 'lifecycle.sweep' ? [] : [terminal[0]?.xid])
      }
      expect(await world.problems(), name).toEqual([])
    }
  }
})

faultTest('of eight that claim one thing one gets it', 30, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, begin] of Object.entries(claims)) {
      await world.reset()
      const claim = await begin(setting(world))
      const called = await atOnce(Array.from({ length: CONNECTIONS }, () => claim))
      const got = called.filter(({ answer }) => answer !== null && answer !== false)
      expect(got, name).toHaveLength(1)
      expect(await world.problems(), name).toEqual([])
    }
  }
})

faultTest('twenty identical requests at once make one row', 30, async () => {
  for (let round = 0; round < sized(1, 100); round++) {
    for (const [name, begin] of Object.entries(repeated)) {
      await world.reset()
      const { table, rows, ...request } = await begin(setting(world))
      const called = await atOnce(Array.from({ length: 20 }, () => request))
      expect(
        called.filter(({ answer }) => answer?.ok && answer.changed),
        name,
      ).toHaveLength(1)
      expect(
        called.filter(({ answer }) => answer?.ok),
        name,
      ).toHaveLength(20)
      expect(await database.owner.unsafe(`select from ${table}`), name).toHaveLength(rows)
      expect(await world.problems(), name).toEqual([])
    }
  }
})

faultTest(
  'people, bots and workers of all parts at once never wait for each other in a circle',
  60,
  async () => {
    await world.reset()
    const parts = [botMoves(), executionMoves(), automationMoves()]
    const moves = Object.assign({}, ...parts.map((part) => part.moves), time_moves)
    const names = [...Object.keys(moves), ...parts.flatMap(({ often }) => [...often, ...often])]
    const wanted = sized(600, 10_000)
    const play = async (by: number) => {
      const roll = random(`mixed ${seed} ${by}`)
      while (world.called.length < wanted) {
        const name = names[Math.floor(roll() * names.length)] as string
        await moves[name](playing(world, { name, dice: Math.floor(roll() * 2 ** 31), by }))
      }
    }
    // A deadlock is an error that is no refusal: the call throws.
    await Promise.all(world.callers.map((_, by) => play(by)))
    expect(await world.problems()).toEqual([])
    const [row] =
      await database.superuser`select deadlocks::int from pg_stat_database where datname = current_database()`
    expect(row?.deadlocks).toBe(0)
  },
)
