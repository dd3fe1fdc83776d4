import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'
import {
  automation,
  config,
  everything,
  type PlayedRun,
  published,
  type Session,
  stateOf,
  worker,
} from '../support/workflows.ts'

let database: TestDatabase
let clock: ClockedSession
let w: ReturnType<typeof worker>
beforeEach(async () => {
  database = await createTestDatabase()
  clock = await openClock(database)
  w = worker(clock.sql)
})
afterEach(async () => {
  expect(await clock.sql`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

const later = () => new Date(clock.now().getTime() + 3_600_000)

/** What is refused, and that nothing has changed by it. */
async function refused(work: () => Promise<unknown>, message: string, code = 'PT409'): Promise<void> {
  const before = await everything(database.superuser)
  expect(await refusal(work())).toMatchObject({ code, message })
  expect(await everything(database.superuser)).toEqual(before)
}

describe('a producer', () => {
  test('publishes and keeps its state with the commit, and its consumer has work', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await w.session()
    expect(session).toMatchObject({
      workflow_id,
      trigger: 'schedule',
      run: null,
      script: { major: 1, minor: 0, config },
    })
    const created = await w.create(session)
    expect(created).toMatchObject({
      result: 'created',
      run: {
        handler_type: 'producer',
        handler_name: 'P',
        phase: 'pending',
        status: 'active',
        state: {},
        events: [],
      },
    })
    await clock.sql`update public.handler_states set dirty = false`
    await w.advance(session, created.run, 'executing')
    expect((await stateOf(clock.sql, workflow_id)).events).toEqual([])

    const commit = () =>
      w.commitProducer(session, created.run, ['e1', 'e2'], later(), { cost: 5, logs: [{ text: 'x' }] })
    expect(await commit()).toMatchObject({ ok: true, changed: true })
    const state = await stateOf(clock.sql, workflow_id)
    expect(state).toMatchObject({
      events: [
        {
          message_id: 'e1',
          payload: { of: 'e1' },
          status: 'pending',
          attempt_number: 1,
          created_by_run_id: created.run.run_id,
        },
        { message_id: 'e2' },
      ],
      runs: [
        {
          status: 'committed',
          phase: 'committed',
          state_before: {},
          state_after: { seen: 2 },
          cost_microusd: '5',
        },
      ],
      sessions: [{ status: 'running', handler_run_count: 1, cost_microusd: '5' }],
      handlers: [
        { handler_name: 'P', state: { seen: 2 } },
        { handler_name: 'C', dirty: true },
      ],
    })
    expect(await clock.sql`select next_run_at, last_run_at from public.producer_schedules`).toEqual([
      { next_run_at: later(), last_run_at: clock.now() },
    ])
    const before = await everything(database.superuser)
    expect(await commit()).toMatchObject({ changed: false, result: 'unchanged' })
    expect(await everything(database.superuser)).toEqual(before)
    // Once a session: what is due next is the consumer.
    expect((await w.create(session)).run).toMatchObject({ handler_name: 'C' })
  })

  test('publishes a message once: repeated, it changes only while it is pending', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now(), ['e1', 'e2', 'e3'])
    const run = await w.consumerAt('emitting', session, ['e1'])
    await w.commitConsumer(session, run)
    await w.finish(session)
    const again = await w.session()
    await w.consumerAt('prepared', again, ['e2'])
    await w.end(again, (await w.create(again)).run, 'paused:transient')
    await clock.advance(3600)
    const next = await w.session()
    const { run: producer } = await w.create(next)
    await w.advance(next, producer, 'executing')
    const publications = ['e1', 'e2', 'e2', 'e4'].map((message_id, n) => ({
      topic: 't',
      message_id,
      payload: { n },
    }))
    await w.commitProducer(next, producer, [], later(), { publications })
    expect((await stateOf(clock.sql, workflow_id)).events).toMatchObject([
      { message_id: 'e1', status: 'consumed', payload: { of: 'e1' } },
      { message_id: 'e2', status: 'pending', payload: { n: 2 }, attempt_number: 2 },
      { message_id: 'e3', payload: { of: 'e3' } },
      { message_id: 'e4', payload: { n: 3 } },
    ])
  })

  test('is refused what it may not publish, and its commit writes nothing', async () => {
    await automation(clock.sql)
    const session = await w.session()
    const { run } = await w.create(session)
    const commit = (publications: unknown, more = {}) =>
      w.commitProducer(session, run, [], later(), { publications, ...more })
    await refused(() => commit([]), 'illegal_transition')
    await w.advance(session, run, 'executing')
    const good = { topic: 't', message_id: 'e1', payload: 1 }
    await refused(() => commit([good, { topic: 'u', message_id: 'e', payload: 1 }]), 'unknown_topic')
    for (const bad of [
      {},
      [{ topic: 't', message_id: '' }],
      [{ topic: 't', message_id: 'x'.repeat(256) }],
      [{ ...good, payload: 'x'.repeat(65_600) }],
      Array.from({ length: 1001 }, (_, n) => ({ topic: 't', message_id: `${n}`, payload: n })),
    ]) {
      await refused(() => commit(bad), 'invalid_request', 'PT422')
    }
    await refused(() => commit([good], { next_run_at: null }), 'invalid_request', 'PT422')
    await refused(() => w.commitConsumer(session, run), 'wrong_handler_type')
    await commit(Array.from({ length: 1000 }, (_, n) => ({ topic: 't', message_id: `${n}`, payload: n })))
    const [{ n }] = (await clock.sql`select count(*)::int as n from public.workflow_events`) as unknown as [
      { n: number },
    ]
    expect(n).toBe(1000)
  })

  test('tells its owner with the commit what the script wants to say', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await w.session()
    const { run } = await w.create(session)
    await w.advance(session, run, 'executing')
    await w.commitProducer(session, run, [], later(), { messages: ['Hello.'] })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      state: 'active',
      messages: [{ role: 'assistant', type: null, content: 'Hello.' }],
      notifications: [{ type: 'script_message', payload: { message: 'Hello.', run_id: run.run_id } }],
    })
  })
})

describe('a consumer', () => {
  test('reserves, sends, and consumes its events with the commit', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const { run } = await w.create(session)
    expect(run).toMatchObject({
      handler_type: 'consumer',
      handler_name: 'C',
      phase: 'pending',
      result: { status: 'none' },
    })
    await w.advance(session, run, 'preparing')
    expect((await w.peek(session, run)).events).toMatchObject([
      { message_id: 'e1', payload: { of: 'e1' }, attempt_number: 1 },
      { message_id: 'e2' },
    ])
    expect((await w.peek(session, run, 't', 1)).events).toHaveLength(1)
    const prepared = { result: { hello: 1 }, reservations: [{ topic: 't', ids: ['e1', 'e1'] }] }
    const after = (await w.advance(session, run, 'prepared', prepared)).run
    expect(after).toMatchObject({
      phase: 'prepared',
      prepare_result: { hello: 1 },
      events: [{ topic: 't', message_id: 'e1', payload: { of: 'e1' }, attempt_number: 1 }],
    })
    expect(await w.advance(session, run, 'prepared', prepared)).toMatchObject({
      changed: false,
      result: 'unchanged',
    })
    expect((await w.peek(session, run)).events).toMatchObject([{ message_id: 'e2' }])
    await w.advance(session, run, 'mutating')
    const mutation = await w.begin(session, run)
    await w.apply(session, mutation, { id: 7 })
    const emitting = (await w.advance(session, run, 'emitting')).run
    expect(emitting).toMatchObject({
      mutation_outcome: 'success',
      result: { status: 'applied', result: { id: 7 } },
    })
    expect(await w.commitConsumer(session, run, { n: 1 }, { cost: 3 })).toMatchObject({ changed: true })
    expect(await w.commitConsumer(session, run, { n: 1 })).toMatchObject({
      changed: false,
      result: 'unchanged',
    })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      events: [
        { message_id: 'e1', status: 'consumed', reserved_by_run_id: run.run_id, attempt_number: 1 },
        { message_id: 'e2', status: 'pending', reserved_by_run_id: null },
      ],
      handlers: [{}, { handler_name: 'C', state: { n: 1 }, dirty: true }],
      sessions: [{ handler_run_count: 2, cost_microusd: '3' }],
    })
  })

  test('has no more work when it has looked and reserved nothing; next() runs all the same', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('prepared', session, [])
    await refused(() => w.advance(session, run, 'mutating'), 'nothing_reserved')
    await w.advance(session, run, 'emitting')
    await w.commitConsumer(session, run, null)
    expect((await stateOf(clock.sql, workflow_id)).handlers).toMatchObject([{}, { dirty: false, state: {} }])
    expect(await w.create(session)).toMatchObject({ result: 'nothing_due', run: null })
    await w.finish(session)
    expect((await stateOf(clock.sql, workflow_id)).next_due_at).toEqual(later())
  })

  test('wakes when it wants to: at the earliest in 30 s, at the latest in 24 h, and null clears it', async () => {
    const { workflow_id } = await automation(clock.sql)
    let session = await published(clock.sql, clock.now(), [])
    const wake = async (wake_at: string | null) => {
      const { run } = await w.create(session, { handler_type: 'consumer', handler_name: 'C' })
      await w.advance(session, run, 'preparing')
      await w.advance(session, run, 'prepared', { result: {}, wake_at })
      await w.advance(session, run, 'emitting')
      await w.commitConsumer(session, run)
      const [, { wake_at: stored }] = (await stateOf(clock.sql, workflow_id)).handlers
      return stored && (stored.getTime() - clock.now().getTime()) / 1000
    }
    const inSeconds = (s: number) => new Date(clock.now().getTime() + s * 1000).toISOString()
    expect(await wake(inSeconds(1))).toBe(30)
    expect(await wake('2020-01-01T00:00:00Z')).toBe(30)
    expect(await wake(inSeconds(100_000))).toBe(86_400)
    expect(await wake(null)).toBe(null)
    expect(await wake(inSeconds(90))).toBe(90)
    await w.finish(session)
    expect(await w.claim()).toBe(null)
    await clock.advance(90)
    session = await w.session()
    expect(session.trigger).toBe('event')
    expect((await w.create(session)).run).toMatchObject({ handler_name: 'C' })
  })

  test('that failed after its time came looks again, though it had no event', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now(), [])
    await clock.sql`update public.handler_states set dirty = false, wake_at = ${clock.now()} where handler_type = 'consumer'`
    const run = await w.consumerAt('emitting', session, [])
    await w.end(session, run, 'paused:transient')
    expect((await stateOf(clock.sql, workflow_id)).handlers).toMatchObject([
      {},
      { dirty: true, wake_at: null },
    ])
    await clock.advance(60)
    expect((await w.create(await w.session())).run).toMatchObject({ handler_name: 'C' })
  })

  test('reserves all that it names, or nothing', async () => {
    await automation(clock.sql, {
      script: {
        topics: ['t', 'u'],
        producers: { P: { schedule: { interval: '5m' }, publishes: ['t', 'u'] } },
        consumers: {
          C: { subscribe: ['t'], publishes: [], has_mutate: true, has_next: true },
          D: { subscribe: ['u'], publishes: [], has_mutate: true, has_next: true },
        },
      },
    })
    const session = await w.session()
    const { run: producer } = await w.create(session)
    await w.advance(session, producer, 'executing')
    const publications = ['t/e1', 't/e2', 't/e3', 'u/e9'].map((path) => {
      const [topic, message_id] = path.split('/')
      return { topic, message_id, payload: {} }
    })
    await w.commitProducer(session, producer, [], later(), { publications })
    const first = await w.consumerAt('emitting', session, ['e1'])
    await w.commitConsumer(session, first)
    const run = await w.consumerAt('preparing', session)
    const reserve = (reservations: unknown) =>
      w.advance(session, run, 'prepared', { result: {}, reservations })
    for (const [reservations, code] of [
      [[{ topic: 't', ids: ['e2', 'e4'] }], 'unknown_event'],
      [[{ topic: 't', ids: ['e2', 'e1'] }], 'event_not_pending'],
      [
        [
          { topic: 't', ids: ['e2'] },
          { topic: 'u', ids: ['e9'] },
        ],
        'unknown_event',
      ],
      [[{ topic: 'nowhere', ids: ['e2'] }], 'unknown_event'],
    ] as const) {
      await refused(() => reserve(reservations), code)
    }
    for (const bad of [{}, [{}], [{ topic: 't', ids: 'e2' }], 'e2', [[]]]) {
      await refused(() => reserve(bad), 'invalid_request', 'PT422')
    }
    await refused(() => w.peek(session, run, 'u'), 'unknown_topic')
    await refused(() => w.peek(session, run, 't', 0), 'invalid_request', 'PT422')
    await reserve([
      { topic: 't', ids: ['e3'] },
      { topic: 't', ids: ['e2'] },
    ])
    // Another workflow's events are none of its business.
    await w.yield(session)
    await automation(clock.sql)
  })

  test('goes from phase to phase by legal hops only', async () => {
    await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const legal: Record<string, string[]> = {
      pending: ['preparing'],
      preparing: ['prepared'],
      prepared: ['mutating', 'emitting'],
      mutating: ['mutated'],
      mutated: ['emitting'],
      emitting: [],
    }
    const phases = [...Object.keys(legal), 'executing']
    let run = (await w.create(session)).run
    for (const phase of Object.keys(legal)) {
      if (phase !== 'pending') {
        const payload =
          phase === 'prepared' ? { result: {}, reservations: [{ topic: 't', ids: ['e1'] }] } : {}
        run = { ...run, ...(await w.advance(session, run, phase, payload)).run }
      }
      for (const to of phases) {
        if (to === phase || legal[phase]?.includes(to)) continue
        await refused(() => w.advance(session, run, to), 'illegal_transition')
      }
      await refused(() => w.advance(session, run, 'committed'), 'use_commit_operation')
      if (phase !== 'emitting') await refused(() => w.commitConsumer(session, run), 'illegal_transition')
      await refused(() => w.commitProducer(session, run, [], later()), 'wrong_handler_type')
      if (phase !== 'mutating') await refused(() => w.begin(session, run), 'not_mutating')
    }
    await w.commitConsumer(session, run)
    await refused(() => w.advance(session, run, 'preparing'), 'run_not_active')
    await refused(() => w.begin(session, run), 'run_not_active')
  })

  test('does not go on behind a side effect that failed, or of which nobody knows', async () => {
    await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('mutating', session)
    const mutation = await w.begin(session, run)
    await refused(() => w.advance(session, run, 'mutated'), 'mutation_exists')
    await w.fail(session, mutation)
    await refused(() => w.advance(session, run, 'emitting'), 'mutation_failed')
    await refused(() => w.commitConsumer(session, run), 'illegal_transition')
    await w.end(session, run, 'failed:logic')

    await rpc(clock.sql, 'activate_workflow', { workflow_id: session.workflow_id })
    const next = await w.session()
    await w.publish(next, ['e3'], clock.now())
    const other = await w.consumerAt('mutating', next, ['e3'])
    await w.begin(next, other)
    // By no path: not even where the row is brought there past the guards.
    await database.superuser.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`update public.handler_runs set phase = 'mutated' where id = ${other.run_id}`
    })
    await refused(() => w.advance(next, other, 'emitting'), 'unresolved_mutation')
    await database.superuser.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`update public.handler_runs set phase = 'emitting' where id = ${other.run_id}`
    })
    await refused(() => w.commitConsumer(next, other), 'unresolved_mutation')
  })
})

describe('a run', () => {
  test('is not begun while the workflow is paused or blocked, a retry waits, or another one is under way', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const { run } = await w.create(session)
    // The same once more is the same run.
    expect(await w.create(session)).toMatchObject({
      changed: false,
      result: 'unchanged',
      run: { run_id: run.run_id },
    })
    await refused(() => w.create(session, { handler_type: 'producer', handler_name: 'P' }), 'run_active')
    await refused(() => w.finish(session), 'run_active')
    await rpc(clock.sql, 'pause_workflow', { workflow_id })
    // Pausing fails nothing: the run comes to its end.
    await w.advance(session, run, 'preparing')
    await w.advance(session, run, 'prepared', { result: {}, reservations: [{ topic: 't', ids: ['e1'] }] })
    await w.advance(session, run, 'emitting')
    await w.commitConsumer(session, run)
    await refused(() => w.create(session), 'not_runnable')
    await rpc(clock.sql, 'resume_workflow', { workflow_id })
    for (const change of [
      `error = 'x', error_code = 'X', error_at = now()`,
      `maintenance = true`,
      `status = 'archived'`,
    ]) {
      const broken = (sql: typeof clock.sql) => sql.unsafe(`update public.workflows set ${change}`)
      await database.superuser
        .begin(async (sql) => {
          await sql`set local session_replication_role = replica`
          await broken(sql as never)
          await sql`select set_config('rollcall.now', ${clock.now().toISOString()}, true)`
          expect(
            await refusal(sql.savepoint((point) => worker(point as never).create(session))),
          ).toMatchObject({
            code: 'PT409',
            message: 'not_runnable',
          })
          throw new Error('undo')
        })
        .catch((error) => expect(error.message).toBe('undo'))
    }
    await database.superuser
      .begin(async (sql) => {
        await sql`set local session_replication_role = replica`
        await sql`update public.workflows set pending_retry_run_id = ${run.run_id}`
        await sql`select set_config('rollcall.now', ${clock.now().toISOString()}, true)`
        expect(await refusal(sql.savepoint((point) => worker(point as never).create(session)))).toMatchObject(
          {
            message: 'retry_pending',
          },
        )
        throw new Error('undo')
      })
      .catch((error) => expect(error.message).toBe('undo'))
    await refused(
      () => w.create(session, { handler_type: 'consumer', handler_name: 'nobody' }),
      'handler_not_found',
      'PT404',
    )
    await refused(() => w.create(session, { handler_name: 'C' }), 'invalid_request', 'PT422')
    await w.finish(session)
    await refused(() => w.create(session), 'session_ended')
  })

  test("is nobody else's: a wrong token is stale, none is for a session that nobody holds", async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('mutating', session)
    const mutation = await w.begin(session, run)
    const calls = (holder: Session): [string, () => Promise<unknown>][] => [
      ['renew', () => w.renew(holder)],
      ['yield', () => w.yield(holder)],
      ['finish', () => w.finish(holder)],
      ['create', () => w.create(holder)],
      ['peek', () => w.peek(holder, run)],
      ['advance', () => w.advance(holder, run, 'mutated')],
      ['begin', () => w.begin(holder, run)],
      ['apply', () => w.apply(holder, mutation)],
      ['fail', () => w.fail(holder, mutation)],
      ['end', () => w.end(holder, run, 'crashed')],
      ['commit consumer', () => w.commitConsumer(holder, run)],
      ['commit producer', () => w.commitProducer(holder, run, [], later())],
    ]
    for (const lease_token of [randomUUID(), null as never]) {
      for (const [, call] of calls({ ...session, lease_token })) await refused(call, 'stale_lease')
    }
    // The lease is over and the sweep has taken the token: whatever its worker says comes too late.
    await clock.advance(61)
    await rpc(clock.sql, 'lifecycle.sweep')
    for (const [, call] of calls(session)) await refused(call, 'stale_lease')
    // People and tests need none now.
    const nobody = { ...session, lease_token: null as never }
    await refused(() => w.advance(nobody, run, 'mutated'), 'run_not_active')
    await w.apply(nobody, mutation, { id: 9 })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      pending_retry_run_id: run.run_id,
    })
  })

  test('that was given back goes on with another worker, and its former one is stale', async () => {
    await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('prepared', session)
    expect(await w.yield(session)).toMatchObject({ changed: true })
    expect(await w.yield(session)).toMatchObject({ changed: false, result: 'unchanged' })
    await refused(() => w.advance(session, run, 'mutating'), 'stale_lease')
    await refused(() => w.renew(session), 'stale_lease')
    const next = await worker(clock.sql, 'other').session()
    expect(next).toMatchObject({
      session_id: session.session_id,
      run: {
        run_id: run.run_id,
        phase: 'prepared',
        prepare_result: { ids: ['e1'] },
        events: [{ message_id: 'e1' }],
      },
    })
    expect(next.lease_token).not.toBe(session.lease_token)
    for (const call of [
      () => w.advance(session, run, 'mutating'),
      () => w.yield(session),
      () => w.finish(session),
    ]) {
      await refused(call, 'stale_lease')
    }
    await w.advance(next, run, 'mutating')
  })

  test('or a session that nobody knows is a 404', async () => {
    const run_id = randomUUID()
    const nothing = { session_id: run_id, lease_token: run_id } as unknown as Session
    const run = { run_id }
    for (const call of [
      () => w.advance(nothing, run, 'preparing'),
      () => w.peek(nothing, run),
      () => w.begin(nothing, run),
      () => w.end(nothing, run, 'crashed'),
      () => w.commitConsumer(nothing, run),
      () => w.commitProducer(nothing, run, [], later()),
      () => rpc(clock.sql, 'create_retry_run', run),
    ]) {
      await refused(call, 'handler_run_not_found', 'PT404')
    }
    for (const call of [
      () => w.create(nothing),
      () => w.renew(nothing),
      () => w.yield(nothing),
      () => w.finish(nothing),
    ]) {
      await refused(call, 'session_not_found', 'PT404')
    }
    await refused(() => w.apply(nothing, { mutation_id: run_id }), 'mutation_not_found', 'PT404')
    await refused(() => w.end(nothing, run, 'active'), 'invalid_request', 'PT422')
    await refused(() => w.end(nothing, run, null as never), 'invalid_request', 'PT422')
  })

  test('keeps the end of its logs where they are long, line by line', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await w.session()
    const { run } = await w.create(session)
    const at = clock.now().toISOString()
    const logs = Array.from({ length: 3000 }, (_, n) => ({
      at,
      level: 'info',
      text: `${n} ${'é"'.repeat(20)}`,
    }))
    logs.push({ at, level: 'error', text: 'x'.repeat(100_000) }, { at, level: 'error', text: 'last' })
    await w.end(session, run, 'failed:internal', { logs })
    const [kept] = (await stateOf(clock.sql, workflow_id)).runs
    expect(kept.logs[0]).toMatchObject({ level: 'warn', text: 'The lines before this one are left out.' })
    expect(kept.logs.slice(-2)).toEqual([
      { at, level: 'error', text: 'x'.repeat(1000) },
      { at, level: 'error', text: 'last' },
    ])
    expect(kept.logs.at(-3)).toEqual(logs[2999])
    const [size] = await clock.sql`select octet_length(logs::text) as bytes from public.handler_runs`
    expect(size?.bytes).toBeLessThanOrEqual(65_536)
    expect(size?.bytes).toBeGreaterThan(60_000)
  })

  test('that ended keeps its end: another status is refused', async () => {
    await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const { run } = await w.create(session)
    await w.end(session, run, 'paused:transient')
    await refused(() => w.end(session, run, 'failed:logic'), 'run_not_active')
    await refused(() => w.end(session, run, 'committed'), 'use_commit_operation')
  })
})

test('a failure before the commit of any operation leaves the state before', async () => {
  await automation(clock.sql)
  let session = null as unknown as Session
  let run = null as unknown as PlayedRun
  let mutation = null as unknown as { mutation_id: string }
  const reservations = [{ topic: 't', ids: ['e1'] }]
  const steps: (() => Promise<unknown>)[] = [
    async () => {
      session = await w.session()
    },
    () => w.renew(session),
    async () => {
      run = (await w.create(session)).run
    },
    () => w.advance(session, run, 'executing'),
    () => w.commitProducer(session, run, ['e1', 'e2'], later(), { messages: ['Hi.'] }),
    async () => {
      run = (await w.create(session)).run
    },
    () => w.advance(session, run, 'preparing'),
    () => w.advance(session, run, 'prepared', { result: {}, reservations }),
    () => w.yield(session),
    async () => {
      session = await w.session()
    },
    () => w.advance(session, run, 'mutating'),
    async () => {
      mutation = await w.begin(session, run, { reconcile: { url: 'x' } })
    },
    () => w.end(session, run, 'paused:reconciliation'),
    () => clock.advance(3600),
    async () => {
      mutation = await rpc(clock.sql, 'claim_reconcile', { worker: 'w' })
    },
    () =>
      rpc(clock.sql, 'record_reconcile', {
        mutation_id: mutation.mutation_id,
        attempt: 1,
        outcome: 'applied',
        result: 1,
      }),
    async () => {
      session = await w.session()
      run = session.run as PlayedRun
    },
    () => w.commitConsumer(session, run),
    () => w.finish(session),
    async () => {
      session = await w.session()
    },
    () => clock.advance(61),
    () => rpc(clock.sql, 'lifecycle.sweep'),
  ]
  for (const step of steps) {
    const before = await everything(clock.sql)
    await clock.sql`begin`
    await step()
    await clock.sql`rollback`
    await clock.sql`select set_config('rollcall.now', ${clock.now().toISOString()}, false)`
    expect(await everything(clock.sql)).toEqual(before)
    await step()
  }
})
