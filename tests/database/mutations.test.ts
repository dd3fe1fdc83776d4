import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'
import {
  automation,
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

const reconcile = { url: 'https://orders.test/{{key}}', headers: { authorization: '{{secret.KEY}}' } }
type Begun = { workflow_id: string; session: Session; run: PlayedRun; mutation_id: string }

/** A workflow with a side effect under way. */
async function begun(more: Record<string, unknown> = {}): Promise<Begun> {
  const { workflow_id } = await automation(clock.sql)
  const session = await published(clock.sql, clock.now())
  const run = await w.consumerAt('mutating', session)
  const { mutation_id } = await w.begin(session, run, more)
  return { workflow_id, session, run, mutation_id }
}

async function refused(work: () => Promise<unknown>, message: string, code = 'PT409'): Promise<void> {
  const before = await everything(database.superuser)
  expect(await refusal(work())).toMatchObject({ code, message })
  expect(await everything(database.superuser)).toEqual(before)
}

type Ask = { mutation_id: string; attempt: number; reconcile: unknown; run_id: string }
const ask = () => rpc<Ask | null>(clock.sql, 'claim_reconcile', { worker: 'w' })
const told = (mutation_id: string, attempt: number | null, outcome: string, more = {}) =>
  rpc<Record<string, unknown>>(clock.sql, 'record_reconcile', { mutation_id, attempt, outcome, ...more })
const nobody = (session: Session) => ({ ...session, lease_token: null as never })

describe('a side effect', () => {
  test('is written down before it leaves, once a run; the same begun again is unchanged', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('mutating', session)
    const mutation_id = randomUUID()
    await clock.advance(50)
    expect(await w.begin(session, run, { mutation_id, reconcile })).toMatchObject({
      changed: true,
      mutation_id,
      // It has a whole lease from here on.
      lease_expires_at: '2026-03-01T12:01:50+00:00',
    })
    expect(await w.begin(session, run, { mutation_id, reconcile })).toMatchObject({
      changed: false,
      mutation_id,
    })
    await refused(() => w.begin(session, run), 'mutation_exists')
    await refused(() => w.begin(session, run, { mutation_id: randomUUID() }), 'mutation_exists')
    expect((await stateOf(clock.sql, workflow_id)).mutations).toMatchObject([
      {
        id: mutation_id,
        run_id: run.run_id,
        status: 'in_flight',
        tool: 'Http.send',
        params: { url: 'x' },
        reconcile,
      },
    ])
    expect((await w.create(session)).run.mutation).toEqual({
      ...{ mutation_id, tool: 'Http.send', status: 'in_flight', result: null },
    })
  })

  test('needs its words', async () => {
    await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('mutating', session)
    for (const bad of [
      { tool: ' ' },
      { params: null },
      { params: 'x'.repeat(1_048_577) },
      { reconcile: {} },
      { reconcile: 'x' },
    ]) {
      await refused(() => w.begin(session, run, bad), 'invalid_request', 'PT422')
    }
  })

  test('that happened moves its run behind it; the same again is unchanged, anything else is refused', async () => {
    const { workflow_id, session, run, mutation_id } = await begun()
    expect(await w.apply(session, { mutation_id }, { id: 1 })).toMatchObject({
      changed: true,
      status: 'applied',
    })
    expect(await w.apply(session, { mutation_id }, { id: 1 })).toMatchObject({
      changed: false,
      result: 'unchanged',
    })
    await refused(() => w.apply(session, { mutation_id }, { id: 2 }), 'mutation_settled')
    await refused(() => w.fail(session, { mutation_id }), 'mutation_settled')
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      pending_retry_run_id: null,
      runs: [{}, { id: run.run_id, status: 'active', phase: 'mutated', mutation_outcome: 'success' }],
      mutations: [{ status: 'applied', result: { id: 1 }, resolved_by: null, resolved_at: clock.now() }],
      events: [{ status: 'reserved' }, {}],
    })
  })

  test('that certainly did not happen gives the events back, and the run ends before it', async () => {
    const { workflow_id, session, run, mutation_id } = await begun()
    expect(await w.fail(session, { mutation_id }, 'HTTP 422')).toMatchObject({
      changed: true,
      status: 'failed',
    })
    expect(await w.fail(session, { mutation_id }, 'HTTP 422')).toMatchObject({
      changed: false,
      result: 'unchanged',
    })
    await refused(() => w.fail(session, { mutation_id }, 'other'), 'mutation_settled')
    await refused(() => w.apply(session, { mutation_id }), 'mutation_settled')
    const state = {
      pending_retry_run_id: null,
      events: [{ status: 'pending', attempt_number: 2, reserved_by_run_id: null }, { attempt_number: 1 }],
      mutations: [{ status: 'failed', error: 'HTTP 422' }],
    }
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      ...state,
      runs: [{}, { status: 'active', phase: 'mutated', mutation_outcome: 'failure' }],
    })
    await w.end(session, run, 'failed:logic')
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({ ...state, error: null, maintenance: true })
  })

  test("leaves an error and a retry alone that are not its run's", async () => {
    const { workflow_id, session, mutation_id } = await begun()
    const [other] = (await stateOf(clock.sql, workflow_id)).runs
    await database.superuser.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`
        update public.workflows set error = 'x', error_code = 'INTERNAL', error_at = now(), error_run_id = ${other.id},
          pending_retry_run_id = ${other.id}`
    })
    await w.fail(session, { mutation_id })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: 'x',
      pending_retry_run_id: other.id,
    })
    await clock.sql`select private.clear_workflow_error(${workflow_id})`
    await clock.sql`update public.workflows set pending_retry_run_id = null`
  })

  test.each([
    ['paused:transient', null],
    ['paused:approval', 'AUTH_REQUIRED'],
    ['paused:reconciliation', 'MUTATION_UNCERTAIN'],
    ['failed:internal', 'INTERNAL'],
    ['crashed', null],
  ])(
    'that nobody knows of when its run ends as %s is asked after, or left to a person',
    async (status, code) => {
      for (const asked of [true, false]) {
        const { workflow_id, session, run } = await begun(asked ? { reconcile } : {})
        await clock.advance(7)
        await w.end(session, run, status)
        const next_reconcile_at = asked ? new Date(clock.now().getTime() + 30_000) : null
        expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
          error: 'E!',
          error_code: code ?? 'MUTATION_UNCERTAIN',
          error_run_id: run.run_id,
          state: 'error',
          pending_retry_run_id: run.run_id,
          next_due_at: null,
          mutations: [
            { status: asked ? 'needs_reconcile' : 'indeterminate', next_reconcile_at, reconcile_attempts: 0 },
          ],
          events: [{ status: 'reserved', attempt_number: 1, reserved_by_run_id: run.run_id }, {}],
          notifications: [{ type: 'error' }],
        })
        for (const fn of ['resume_workflow', 'retry_workflow', 'request_run']) {
          await refused(() => rpc(clock.sql, fn, { workflow_id }), 'unresolved_mutation')
        }
        expect(await w.claim()).toBe(null)
      }
    },
  )

  test('of a lost worker is asked after 30 s after its lease ended, whenever the sweep comes', async () => {
    const { workflow_id } = await begun({ reconcile })
    await clock.advance(75)
    await rpc(clock.sql, 'lifecycle.sweep')
    const at = new Date('2026-03-01T12:01:30Z')
    expect((await stateOf(clock.sql, workflow_id)).mutations).toMatchObject([{ next_reconcile_at: at }])
    expect(await ask()).toBe(null)
    await clock.advance(15)
    expect(await ask()).toMatchObject({ attempt: 1 })
  })

  test('settled by nobody in particular after its run has ended is settled all the same', async () => {
    const { workflow_id, session, run, mutation_id } = await begun({ reconcile })
    await w.end(session, run, 'paused:reconciliation')
    await w.apply(nobody(session), { mutation_id }, { id: 3 })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      pending_retry_run_id: run.run_id,
      runs: [{}, { status: 'paused:reconciliation', phase: 'mutated', mutation_outcome: 'success' }],
      mutations: [{ status: 'applied', next_reconcile_at: null }],
    })
    expect((await w.session()).run?.result).toEqual({ status: 'applied', result: { id: 3 } })
  })
})

describe('asking', () => {
  test('counts in the claim: after 10 s, doubling; the fifth answer that is none leaves it to a person', async () => {
    const { workflow_id, session, run, mutation_id } = await begun({ reconcile })
    await w.end(session, run, 'paused:reconciliation')
    await clock.advance(29)
    expect(await ask()).toBe(null)
    await clock.advance(1)
    for (const [n, seconds] of [10, 20, 40, 80].entries()) {
      expect(await ask()).toMatchObject({ mutation_id, run_id: run.run_id, attempt: n + 1, reconcile })
      expect(await ask()).toBe(null)
      // Whether it answers that it does not know, or nothing at all, is the same.
      if (n % 2 === 0) {
        const answer = await told(mutation_id, n + 1, 'again', { error: `HTTP 404, ${n}` })
        expect(answer).toMatchObject({ ok: true, status: 'needs_reconcile' })
      }
      await clock.advance(seconds - 1)
      expect(await ask()).toBe(null)
      await clock.advance(1)
    }
    expect(await ask()).toMatchObject({ attempt: 5 })
    expect(await told(mutation_id, 5, 'again')).toMatchObject({ changed: true, status: 'indeterminate' })
    expect(await told(mutation_id, 5, 'again')).toMatchObject({ changed: false, result: 'unchanged' })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error_code: 'MUTATION_UNCERTAIN',
      pending_retry_run_id: run.run_id,
      mutations: [
        { status: 'indeterminate', reconcile_attempts: 5, next_reconcile_at: null, error: 'HTTP 404, 2' },
      ],
      events: [{ status: 'reserved' }, {}],
    })
    await clock.advance(10_000)
    expect(await ask()).toBe(null)
  })

  test('that is lost five times leaves it to a person too', async () => {
    const { workflow_id, session, run } = await begun({ reconcile })
    await w.end(session, run, 'paused:reconciliation')
    for (let n = 1; n <= 5; n++) {
      await clock.advance(1000)
      expect(await ask()).toMatchObject({ attempt: n })
    }
    await clock.advance(1000)
    expect(await ask()).toBe(null)
    expect((await stateOf(clock.sql, workflow_id)).mutations).toMatchObject([{ status: 'indeterminate' }])
  })

  test('hears that it happened: next() goes on with the result', async () => {
    const { workflow_id, session, run, mutation_id } = await begun({ reconcile })
    await w.end(session, run, 'crashed')
    await clock.advance(30)
    await ask()
    expect(await told(mutation_id, 1, 'applied', { result: { id: 5 } })).toMatchObject({
      changed: true,
      status: 'applied',
    })
    expect(await told(mutation_id, 1, 'applied', { result: { id: 5 } })).toMatchObject({ changed: false })
    await refused(() => told(mutation_id, 1, 'failed'), 'mutation_settled')
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      state: 'active',
      pending_retry_run_id: run.run_id,
      runs: [{}, { status: 'crashed', phase: 'mutated', mutation_outcome: 'success' }],
      mutations: [{ status: 'applied', resolved_by: 'reconcile', result: { id: 5 } }],
      notifications: [{ resolved_at: clock.now() }],
      messages: [{ resolved_at: clock.now() }],
    })
    const retry = await w.session()
    expect(retry).toMatchObject({
      trigger: 'retry',
      run: { result: { status: 'applied', result: { id: 5 } } },
    })
    await w.commitConsumer(retry, retry.run as PlayedRun)
    await w.finish(retry)
  })

  test('hears that it did not happen: the event is worked on again', async () => {
    const { workflow_id, session, run, mutation_id } = await begun({ reconcile })
    await w.end(session, run, 'paused:transient')
    await clock.advance(30)
    await ask()
    expect(await told(mutation_id, 1, 'failed')).toMatchObject({ changed: true, status: 'failed' })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      pending_retry_run_id: null,
      runs: [{}, { status: 'paused:transient', phase: 'mutated', mutation_outcome: 'failure' }],
      mutations: [{ status: 'failed', resolved_by: 'reconcile' }],
      events: [{ status: 'pending', attempt_number: 2 }, {}],
      handlers: [{}, { dirty: true }],
    })
    expect((await w.create(await w.session())).run).toMatchObject({ handler_name: 'C', phase: 'pending' })
  })

  test('hears only the newest answer', async () => {
    const { session, run, mutation_id } = await begun({ reconcile })
    await refused(() => told(mutation_id, 0, 'applied'), 'mutation_settled')
    await w.end(session, run, 'paused:reconciliation')
    await clock.advance(30)
    await ask()
    await clock.advance(10)
    await ask()
    for (const attempt of [1, 3, null])
      await refused(() => told(mutation_id, attempt, 'applied'), 'stale_attempt')
    await refused(() => told(mutation_id, 2, 'perhaps'), 'invalid_request', 'PT422')
    await refused(() => told(randomUUID(), 2, 'applied'), 'mutation_not_found', 'PT404')
    await told(mutation_id, 2, 'applied')
  })

  test('passes by what somebody holds, and each is asked by one', async () => {
    const mine: Begun[] = []
    for (let n = 0; n < 5; n++) {
      const each = await begun({ reconcile })
      await w.end(each.session, each.run, 'paused:reconciliation')
      await clock.advance(1)
      mine.push(each)
    }
    await clock.advance(30)
    const other = database.connect('postgres', { max: 1 })
    await other`begin`
    await other`select from public.workflows where id = ${mine[0]?.workflow_id as string} for update`
    expect(await ask()).toMatchObject({ mutation_id: mine[1]?.mutation_id })
    await other`rollback`
    const others = await Promise.all([0, 1, 2, 3].map(() => openClock(database, clock.now())))
    const asked = await Promise.all(
      others.map(({ sql }) => rpc<Ask | null>(sql, 'claim_reconcile', { worker: 'w' })),
    )
    const ids = asked.flatMap((each) => (each === null ? [] : [each.mutation_id]))
    expect(new Set(ids).size).toBe(ids.length)
    // Whoever met a locked one went on without it.
    for (let left = await ask(); left !== null; left = await ask()) ids.push(left.mutation_id)
    expect(ids.sort()).toEqual([0, 2, 3, 4].map((n) => mine[n]?.mutation_id).sort())
  })
})

describe('a person', () => {
  test.each([
    [
      'failed',
      { status: 'failed', resolved_by: 'user' },
      'failure',
      { status: 'pending', attempt_number: 2 },
      false,
    ],
    [
      'skipped',
      { status: 'failed', resolved_by: 'user_skip' },
      'skipped',
      { status: 'skipped', attempt_number: 1 },
      true,
    ],
    [
      'applied',
      { status: 'applied', resolved_by: 'user' },
      'success',
      { status: 'reserved', attempt_number: 1 },
      true,
    ],
  ])('says %s of what nobody knew', async (how, mutation, mutation_outcome, event, is_retried) => {
    const { workflow_id, session, run, mutation_id } = await begun()
    await refused(() => rpc(clock.sql, 'resolve_mutation', { mutation_id, how }), 'not_indeterminate')
    await w.end(session, run, 'paused:reconciliation')
    await rpc(clock.sql, 'resolve_mutation', { mutation_id, how })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      state: 'active',
      pending_retry_run_id: is_retried ? run.run_id : null,
      runs: [{}, { status: 'paused:reconciliation', phase: 'mutated', mutation_outcome }],
      mutations: [mutation],
      events: [event, {}],
      notifications: [{ resolved_at: clock.now() }],
    })
    const next = await w.session()
    if (is_retried) {
      expect(next.run).toMatchObject({ phase: 'emitting', retry_of: run.run_id })
      await w.commitConsumer(next, next.run as PlayedRun)
    } else expect((await w.create(next)).run).toMatchObject({ handler_name: 'C' })
  })

  test('lets it be asked again from the beginning', async () => {
    const { session, run, mutation_id } = await begun({ reconcile })
    await w.end(session, run, 'paused:reconciliation')
    for (let n = 1; n <= 5; n++) {
      await clock.advance(1000)
      await ask()
    }
    await told(mutation_id, 5, 'again')
    await rpc(clock.sql, 'resolve_mutation', { mutation_id, how: 'ask_again' })
    expect(await ask()).toMatchObject({ mutation_id, attempt: 1 })
    await told(mutation_id, 1, 'failed')
  })
})

test('each move of a side effect is in its history, with who made it', async () => {
  const { session, run, mutation_id } = await begun({ reconcile })
  await w.end(session, run, 'paused:reconciliation')
  await clock.advance(30)
  await ask()
  await told(mutation_id, 1, 'applied')
  expect(
    await clock.sql`
      select machine, from_status, to_status, source, error_code from public.status_events
      where subject_id in (${mutation_id}, ${run.run_id}, ${session.session_id}) order by id`,
  ).toEqual([
    { machine: 'script_run', from_status: null, to_status: 'running', source: 'worker', error_code: null },
    { machine: 'handler_run', from_status: null, to_status: 'active', source: 'worker', error_code: null },
    { machine: 'mutation', from_status: null, to_status: 'in_flight', source: 'worker', error_code: null },
    {
      machine: 'handler_run',
      from_status: 'active',
      to_status: 'paused:reconciliation',
      source: 'worker',
      error_code: 'MUTATION_UNCERTAIN',
    },
    {
      machine: 'script_run',
      from_status: 'running',
      to_status: 'failed',
      source: 'worker',
      error_code: 'MUTATION_UNCERTAIN',
    },
    {
      machine: 'mutation',
      from_status: 'in_flight',
      to_status: 'needs_reconcile',
      source: 'worker',
      error_code: 'MUTATION_UNCERTAIN',
    },
    {
      machine: 'mutation',
      from_status: 'needs_reconcile',
      to_status: 'applied',
      source: 'reconcile',
      error_code: null,
    },
  ])
})
