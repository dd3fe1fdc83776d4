import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'
import { automation, everything, published, stateOf, worker } from '../support/workflows.ts'

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

const reason = 'Seen to by hand.'
const repair = (machine: string, subject_id: string, to_status: string, more = {}) =>
  rpc(clock.sql, 'lifecycle.repair', { machine, subject_id, to_status, reason, ...more })
const last = async (subject_id: string) => {
  const [event] = await clock.sql`
    select from_status, to_status, source, reason from public.status_events
    where subject_id = ${subject_id} order by seq desc limit 1`
  return event
}
async function refused(work: () => Promise<unknown>, message: string, code = 'PT409') {
  const before = await everything(database.superuser)
  expect(await refusal(work())).toMatchObject({ code, message })
  expect(await everything(database.superuser)).toEqual(before)
}
const of = (workflow_id: string) => stateOf(clock.sql, workflow_id)

/** A workflow whose consumer is in a phase, with a side effect where `mutation` says so. */
async function at(phase: string, mutation?: Record<string, unknown>) {
  const { workflow_id } = await automation(clock.sql)
  const session = await published(clock.sql, clock.now())
  const run = await w.consumerAt(phase, session)
  const begun = mutation === undefined ? { mutation_id: '' } : await w.begin(session, run, mutation)
  return { workflow_id, session, run, mutation_id: begun.mutation_id as string }
}

describe('a workflow', () => {
  test('goes around its machine, and the history says why', async () => {
    const { workflow_id, script_id } = await automation(clock.sql, { active: false })
    expect(await repair('workflow', workflow_id, 'disabled')).toEqual({
      ...{ ok: true, changed: true, result: 'processed' },
      ...{ machine: 'workflow', subject_id: workflow_id, workflow_id, status: 'disabled' },
    })
    expect(await last(workflow_id)).toEqual({
      ...{ from_status: 'draft', to_status: 'disabled', source: 'repair', reason },
    })
    expect(await repair('workflow', workflow_id, 'disabled')).toMatchObject({ result: 'unchanged' })

    await repair('workflow', workflow_id, 'active')
    expect(await of(workflow_id)).toMatchObject({ active_script_id: script_id, next_due_at: clock.now() })
    await repair('workflow', workflow_id, 'archived')
    expect(await of(workflow_id)).toMatchObject({ status: 'archived', next_due_at: null })
    await rpc(clock.sql, 'unarchive_workflow', { workflow_id })
    expect(await last(workflow_id)).toMatchObject({
      to_status: 'disabled',
      source: 'user',
      reason: 'unarchived',
    })
  })

  test('without a script is not active, and an unknown one is not found', async () => {
    const { workflow_id } = await rpc<{ workflow_id: string }>(clock.sql, 'create_workflow', {
      ...{ owner_id: randomUUID(), message: 'x' },
    })
    await refused(() => repair('workflow', workflow_id, 'active'), 'script_not_found', 'PT404')
    for (const machine of ['workflow', 'handler_run', 'mutation']) {
      const [{ state }] = (await clock.sql`
        select state from lifecycle.states where machine = ${machine} limit 1`) as unknown as [
        { state: string },
      ]
      await refused(() => repair(machine, randomUUID(), state), `${machine}_not_found`, 'PT404')
    }
    await refused(() => repair('script_run', randomUUID(), 'failed'), 'session_not_found', 'PT404')
    await refused(() => repair('workflow', workflow_id, 'paused'), 'invalid_request', 'PT422')
    await refused(() => repair('event', workflow_id, 'pending'), 'invalid_request', 'PT422')
  })
})

describe('a session', () => {
  test('that failed runs again for whoever claims it, and is a success in the end', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await w.session()
    await repair('script_run', session.session_id, 'failed', { error_code: 'CRASHED' })
    expect((await of(workflow_id)).sessions[0]).toMatchObject({
      ...{ status: 'failed', result: 'failed', error: reason, error_code: 'CRASHED' },
    })
    expect(await refusal(w.renew(session))).toMatchObject({ message: 'stale_lease' })

    await repair('script_run', session.session_id, 'running')
    expect((await of(workflow_id)).sessions[0]).toMatchObject({ result: null, error: null, ended_at: null })
    const again = await w.session()
    expect(again.session_id).toBe(session.session_id)
    await w.publish(again, ['e1'], clock.now())
    await repair('script_run', session.session_id, 'success')
    expect(await last(session.session_id)).toMatchObject({ to_status: 'success', source: 'repair', reason })
    expect(await refusal(w.finish(again))).toMatchObject({ message: 'stale_lease' })
  })

  test('ends by itself only where no run of it is active, and runs where no other does', async () => {
    const { session } = await at('preparing')
    await refused(() => repair('script_run', session.session_id, 'success'), 'run_active')
    await repair('handler_run', (await of(session.workflow_id)).runs.at(-1).id, 'crashed')
    await rpc(clock.sql, 'retry_workflow', { workflow_id: session.workflow_id })
    await w.session()
    await refused(() => repair('script_run', session.session_id, 'running'), 'session_running')
  })
})

describe('a run', () => {
  test('that is active ends with all that follows from its end, whoever has the lease', async () => {
    const { workflow_id, session, run } = await at('prepared')
    await repair('handler_run', run.run_id, 'failed:internal')
    expect(await of(workflow_id)).toMatchObject({
      ...{ error: reason, error_code: 'INTERNAL', error_run_id: run.run_id },
      sessions: [{ status: 'failed', result: 'failed' }],
      events: [{ status: 'pending', attempt_number: 2 }, { status: 'pending' }],
    })
    expect(await last(run.run_id)).toMatchObject({ from_status: 'active', source: 'repair', reason })
    expect(await refusal(w.advance(session, run, 'mutating'))).toMatchObject({ message: 'stale_lease' })

    // Another end changes what is said of it, and no more.
    await repair('handler_run', run.run_id, 'crashed')
    expect(await last(run.run_id)).toMatchObject({ from_status: 'failed:internal', to_status: 'crashed' })
    expect(await of(workflow_id)).toMatchObject({ error_code: 'INTERNAL', transient_failures: 0 })
  })

  test('that ended before its side effect begins anew, with the events that are there then', async () => {
    const { workflow_id, session, run } = await at('mutating')
    await w.end(session, run, 'failed:internal')
    await repair('handler_run', run.run_id, 'active')
    expect(await of(workflow_id)).toMatchObject({ error: null, sessions: [{ status: 'running' }] })
    const again = await w.session()
    expect(again).toMatchObject({
      session_id: session.session_id,
      run: { run_id: run.run_id, phase: 'pending', prepare_result: null, events: [] },
    })
    for (const phase of ['preparing', 'prepared', 'mutating']) {
      const reservations = [{ topic: 't', ids: ['e2'] }]
      await w.advance(again, run, phase, phase === 'prepared' ? { result: {}, reservations } : {})
    }
    await w.apply(again, await w.begin(again, run))
    await w.advance(again, run, 'emitting')
    await w.commitConsumer(again, run)
    expect((await of(workflow_id)).events).toMatchObject([{ status: 'pending' }, { status: 'consumed' }])
  })

  test('that ended behind its side effect goes on with next()', async () => {
    const { workflow_id, session, run, mutation_id } = await at('mutating', {})
    await w.apply(session, { mutation_id })
    await w.end(session, run, 'failed:internal')
    await repair('handler_run', run.run_id, 'active')
    expect(await of(workflow_id)).toMatchObject({ error: null, pending_retry_run_id: null })
    const again = await w.session()
    expect(again.run).toMatchObject({ phase: 'mutated', result: { status: 'applied', result: { id: 1 } } })
    await w.advance(again, run, 'emitting')
    await w.commitConsumer(again, run)
    await w.finish(again)
  })

  test('is committed by hand: its events are consumed and nothing is retried', async () => {
    const { workflow_id, session, run, mutation_id } = await at('mutating', {})
    await w.apply(session, { mutation_id })
    await w.end(session, run, 'failed:internal')
    await repair('handler_run', run.run_id, 'committed')
    expect(await of(workflow_id)).toMatchObject({
      ...{ error: null, pending_retry_run_id: null },
      events: [{ status: 'consumed', reserved_by_run_id: run.run_id }, { status: 'pending' }],
    })
    await refused(() => repair('handler_run', run.run_id, 'active'), 'run_committed')
  })

  test('that is under way and committed by hand gives its session back', async () => {
    const { workflow_id, session, run } = await at('emitting')
    await repair('handler_run', run.run_id, 'committed')
    expect(await refusal(w.finish(session))).toMatchObject({ message: 'stale_lease' })
    const again = await w.session()
    expect(again).toMatchObject({ session_id: session.session_id, run: null })
    await w.finish(again)
    expect((await of(workflow_id)).sessions[0]).toMatchObject({ status: 'success', handler_run_count: 2 })
  })

  test('is left alone where its side effect or another run decides', async () => {
    const uncertain = await at('mutating', {})
    await refused(() => repair('handler_run', uncertain.run.run_id, 'failed:logic'), 'unresolved_mutation')
    await w.end(uncertain.session, uncertain.run, 'paused:reconciliation')
    await refused(() => repair('handler_run', uncertain.run.run_id, 'active'), 'unresolved_mutation')
    await refused(() => repair('handler_run', uncertain.run.run_id, 'committed'), 'unresolved_mutation')

    const failed = await at('mutating', {})
    await w.fail(failed.session, failed)
    await w.end(failed.session, failed.run, 'failed:internal')
    await refused(() => repair('handler_run', failed.run.run_id, 'active'), 'mutation_failed')
    await refused(
      () => repair('handler_run', failed.run.run_id, 'paused:reconciliation'),
      'no_unresolved_mutation',
    )

    const retried = await at('mutating', {})
    await w.apply(retried.session, retried)
    await w.end(retried.session, retried.run, 'failed:internal')
    await rpc(clock.sql, 'create_retry_run', { run_id: retried.run.run_id })
    await refused(() => repair('handler_run', retried.run.run_id, 'active'), 'already_retried')
  })
})

describe('a side effect', () => {
  /** One of which it was said that it happened, by a run that ended behind it. */
  async function applied(more = {}) {
    const begun = await at('mutating', more)
    await w.apply(begun.session, begun)
    await w.end(begun.session, begun.run, 'failed:internal')
    return begun
  }

  test('that did not happen after all gives its events back', async () => {
    const { workflow_id, mutation_id, run } = await applied()
    await repair('mutation', mutation_id, 'failed')
    expect(await last(mutation_id)).toEqual({
      ...{ from_status: 'applied', to_status: 'failed', source: 'repair', reason },
    })
    expect(await of(workflow_id)).toMatchObject({
      ...{ error: null, pending_retry_run_id: null },
      mutations: [{ status: 'failed', resolved_by: 'user', error: reason, result: null }],
      events: [{ status: 'pending', attempt_number: 2 }, { status: 'pending' }],
    })
    expect((await of(workflow_id)).runs.at(-1)).toMatchObject({
      ...{ id: run.run_id, phase: 'mutated', mutation_outcome: 'failure' },
    })
  })

  test('of which nobody knows after all waits for a person, or is asked after', async () => {
    const { workflow_id, mutation_id, run } = await applied({ reconcile: { url: 'https://x.test' } })
    await rpc(clock.sql, 'retry_workflow', { workflow_id })
    await repair('mutation', mutation_id, 'indeterminate')
    expect(await of(workflow_id)).toMatchObject({
      ...{ error: reason, error_code: 'MUTATION_UNCERTAIN', pending_retry_run_id: run.run_id },
      ...{ next_due_at: null, mutations: [{ status: 'indeterminate', resolved_at: null }] },
    })
    await repair('mutation', mutation_id, 'needs_reconcile')
    expect(await rpc(clock.sql, 'claim_reconcile', { worker: 'w' })).toMatchObject({
      mutation_id,
      attempt: 1,
    })
    await rpc(clock.sql, 'record_reconcile', { mutation_id, attempt: 1, outcome: 'applied' })
    expect(await of(workflow_id)).toMatchObject({ error: null, pending_retry_run_id: run.run_id })
  })

  test('that is under way is settled, and its run goes on', async () => {
    const { session, run, mutation_id } = await at('mutating', {})
    await repair('mutation', mutation_id, 'applied')
    await w.advance(session, run, 'emitting')
    await w.commitConsumer(session, run)
    // The run has gone its way: the ledger alone is set right.
    await repair('mutation', mutation_id, 'failed')
    const { runs, events, mutations } = await of(session.workflow_id)
    expect(runs.at(-1)).toMatchObject({ status: 'committed', mutation_outcome: 'success' })
    expect(events[0]).toMatchObject({ status: 'consumed' })
    expect(mutations[0]).toMatchObject({ status: 'failed', error: reason })
    await refused(() => repair('mutation', mutation_id, 'indeterminate'), 'run_went_on')
  })

  test('is under way only in a run that is, and is asked after only where somebody can be', async () => {
    const { mutation_id } = await applied()
    await refused(() => repair('mutation', mutation_id, 'needs_reconcile'), 'cannot_be_asked')
    await refused(() => repair('mutation', mutation_id, 'in_flight'), 'run_not_active')
  })
})

test('a repair of an automation loosens no guard for what comes after it', async () => {
  const { workflow_id } = await automation(clock.sql)
  const error = await refusal(
    clock.sql.begin(async (sql) => {
      await rpc(sql, 'lifecycle.repair', {
        machine: 'workflow',
        subject_id: workflow_id,
        to_status: 'draft',
        reason,
      })
      await sql`update public.workflows set status = 'disabled' where id = ${workflow_id}`
    }),
  )
  expect(error).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
})
