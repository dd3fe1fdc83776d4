import { afterEach, beforeEach, expect, test } from 'vitest'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { random } from '../support/random.ts'
import { rpc } from '../support/rpc.ts'
import { automation, type PlayedRun, type Session, stateOf, worker } from '../support/workflows.ts'

// Workers that die, or stand still and wake up too late, between any two of their calls.
let database: TestDatabase
let clock: ClockedSession
beforeEach(async () => {
  database = await createTestDatabase()
  clock = await openClock(database)
})
afterEach(() => database.drop())

/** Where a worker may die: before each of its calls, and before and after its send. */
type Life = AsyncGenerator<string, void>

/** The other side: what was done for which event, by idempotency key. */
class Service {
  readonly done = new Map<string, string[]>()
  readonly #keys = new Set<string>()

  send(key: string, events: string[]): void {
    if (this.#keys.has(key)) return
    this.#keys.add(key)
    for (const event of events) this.done.set(event, [...(this.done.get(event) ?? []), key])
  }
  knows(key: string): boolean {
    return this.#keys.has(key)
  }
}

interface World {
  dice: () => number
  service: Service
  /** How many messages are published until there are no more. */
  messages: number
  published: Set<string>
  next_heard: string[]
}

/** One session of a worker, as the real one makes its calls. */
async function* life(world: World, name: string): Life {
  const w = worker(clock.sql, name)
  yield 'claim'
  const session = await w.claim()
  if (session === null) return
  let run: PlayedRun | null = session.run
  for (;;) {
    yield 'next phase'
    if (world.dice() < 0.1) {
      await w.yield(session)
      return
    }
    run ??= (await w.create(session)).run as PlayedRun | null
    if (run === null) {
      yield 'finish'
      await w.finish(session)
      return
    }
    if (run.handler_type === 'producer') run = yield* produce(world, w, session, run)
    else run = yield* consume(world, w, session, run)
    if (run?.status === 'ended') return
  }
}

type Worker = ReturnType<typeof worker>
const ended = { status: 'ended' } as PlayedRun

async function* produce(world: World, w: Worker, session: Session, run: PlayedRun) {
  if (run.phase === 'pending')
    return { ...run, ...(await w.advance(session, run, 'executing')).run } as PlayedRun
  yield 'commit producer'
  // It publishes again what it published before: a message is one event all the same.
  const n = Math.min(world.messages, world.published.size + 2)
  const ids = Array.from({ length: n }, (_, i) => `e${i}`)
  await w.commitProducer(session, run, ids, new Date(clock.now().getTime() + 60_000))
  for (const id of ids) world.published.add(id)
  return null
}

async function* consume(
  world: World,
  w: Worker,
  session: Session,
  run: PlayedRun,
): AsyncGenerator<string, PlayedRun | null> {
  const { dice, service } = world
  const to = async (phase: string, payload = {}) =>
    ({ ...run, ...(await w.advance(session, run, phase, payload)).run }) as PlayedRun
  switch (run.phase) {
    case 'pending':
      return to('preparing')
    case 'preparing': {
      const { events } = await w.peek(session, run, 't', 1 + Math.floor(dice() * 2))
      yield 'prepared'
      const ids = events.map(({ message_id }: { message_id: string }) => message_id)
      return to('prepared', { result: {}, reservations: ids.length > 0 ? [{ topic: 't', ids }] : [] })
    }
    case 'prepared':
      return to(run.events.length > 0 ? 'mutating' : 'emitting')
    case 'mutating': {
      if (run.mutation) {
        await w.end(session, run, 'paused:reconciliation')
        return ended
      }
      const mutation = await w.begin(session, run, dice() < 0.5 ? { reconcile: { url: 'x' } } : {})
      const until = new Date(mutation.lease_expires_at).getTime()
      yield 'send'
      // A send begins only with 35 s left of the lease; else it is as if the request had not left.
      const may_send = until - clock.now().getTime() >= 35_000
      const refused = dice() < 0.15
      if (may_send && !refused) {
        service.send(
          mutation.mutation_id,
          run.events.map(({ message_id }) => message_id),
        )
      }
      const unheard = may_send && dice() < 0.25
      yield 'sent'
      if (unheard) {
        await w.end(session, run, 'paused:reconciliation')
        return ended
      }
      if (!may_send || refused) {
        await w.fail(session, mutation)
        yield 'failed'
        await w.end(session, run, 'paused:transient')
        return ended
      }
      await w.apply(session, mutation, { key: mutation.mutation_id })
      return { ...run, phase: 'mutated' }
    }
    case 'mutated':
      return to('emitting')
    default: {
      if (dice() < 0.15) {
        await w.end(session, run, dice() < 0.5 ? 'paused:transient' : 'failed:internal')
        return ended
      }
      yield 'commit consumer'
      await w.commitConsumer(session, run, { last: run.run_id })
      if (run.result.status === 'applied') world.next_heard.push(run.result.result.key)
      return null
    }
  }
}

/** What a person and the background do meanwhile: they say what is true. */
async function tend(workflow_id: string, { service, dice }: World): Promise<void> {
  const asked = await rpc<{ mutation_id: string; attempt: number } | null>(clock.sql, 'claim_reconcile', {
    worker: 'r',
  })
  if (asked !== null && dice() < 0.7) {
    const { mutation_id, attempt } = asked
    const truth = service.knows(mutation_id) ? 'applied' : 'failed'
    const outcome = dice() < 0.3 ? 'again' : truth
    const result = outcome === 'applied' ? { key: mutation_id } : null
    await rpc(clock.sql, 'record_reconcile', { mutation_id, attempt, outcome, result })
  }
  const state = await stateOf(clock.sql, workflow_id)
  const unknown = state.mutations.find(({ status }: { status: string }) => status === 'indeterminate')
  if (unknown && dice() < 0.5) {
    const happened = service.knows(unknown.id)
    await rpc(clock.sql, 'resolve_mutation', {
      mutation_id: unknown.id,
      how: happened ? 'applied' : 'failed',
      ...(happened ? { result: { key: unknown.id } } : {}),
    })
  } else if (
    state.error &&
    !state.mutations.some(({ next_reconcile_at }: { next_reconcile_at: Date }) => next_reconcile_at)
  ) {
    if (!unknown) await rpc(clock.sql, 'resume_workflow', { workflow_id })
  }
}

const seeds = Array.from({ length: 6 }, (_, n) => `kill ${n + 1}`)

test.each(seeds)(
  'no event is worked on twice and none is lost, wherever workers die (%s)',
  { timeout: 120_000 },
  async (seed) => {
    const dice = random(seed)
    const world: World = { dice, service: new Service(), messages: 8, published: new Set(), next_heard: [] }
    const { workflow_id } = await automation(clock.sql)
    let workers: { life: Life; sleeps_until: number }[] = []
    const done = async () => {
      const { events, pending_retry_run_id } = await stateOf(clock.sql, workflow_id)
      return (
        events.length === world.messages &&
        pending_retry_run_id === null &&
        events.every(({ status }: { status: string }) => status === 'consumed')
      )
    }
    let steps = 0
    while (steps % 8 !== 0 || !(await done())) {
      if (++steps > 3000)
        throw new Error(`Not done after 3000 steps: ${JSON.stringify(await stateOf(clock.sql, workflow_id))}`)
      // The last stretch is without mishaps, so that it comes to an end.
      const mishaps = steps < 400 ? 1 : 0
      if (workers.length < 3) workers.push({ life: life(world, `w${steps}`), sleeps_until: 0 })
      const awake = workers.filter(({ sleeps_until }) => sleeps_until <= steps)
      const one = awake[Math.floor(dice() * awake.length)]
      if (one) {
        const fate = dice()
        if (fate < 0.04 * mishaps) workers = workers.filter((each) => each !== one)
        // Standing still: its lease may be over, and swept away, when it goes on.
        else if (fate < 0.08 * mishaps) one.sleeps_until = steps + 5 + Math.floor(dice() * 30)
        else {
          const over = await one.life.next().then(
            ({ done }) => done,
            (error) => {
              // Told that it is too late, or that the workflow does not run any more: it lets go.
              expect([
                'stale_lease',
                'not_runnable',
                'retry_pending',
                'session_ended',
                'run_not_active',
              ]).toContain(error.message)
              return true
            },
          )
          if (over) workers = workers.filter((each) => each !== one)
        }
      }
      await clock.advance(dice() < 0.15 ? 40 * dice() : dice())
      if (dice() < 0.2) await rpc(clock.sql, 'lifecycle.sweep')
      if (dice() < 0.2) await tend(workflow_id, world)
    }
    // Every event had its effect, and had it once; each effect was heard of by next(), once.
    expect([...world.service.done.values()].map((keys) => keys.length)).toEqual(Array(world.messages).fill(1))
    expect([...world.published].every((id) => world.service.done.has(id))).toBe(true)
    const keys = [...new Set([...world.service.done.values()].flat())]
    expect(world.next_heard.sort()).toEqual(keys.sort())
    await clock.advance(120)
    await rpc(clock.sql, 'lifecycle.sweep')
    expect(await clock.sql`select * from public.invariant_violations`).toEqual([])
  },
)
