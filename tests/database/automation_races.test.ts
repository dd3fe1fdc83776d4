import type postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { rpc } from '../support/rpc.ts'
import { automation, type PlayedRun, type Session, stateOf, worker } from '../support/workflows.ts'

// Eight connections at once: each pair of operations on one run, by the real clock.
let database: TestDatabase
let connections: postgres.Sql[]
let w: ReturnType<typeof worker>
beforeAll(async () => {
  database = await createTestDatabase()
  connections = Array.from({ length: 8 }, () => database.connect('postgres', { max: 1 }))
  w = worker(database.owner)
  // What fails is due again at once: the brake has tests of its own.
  await database.owner`update lifecycle.settings set brake_first = '1 ms', brake_longest = '1 ms', transient_limit = 1000`
})
afterAll(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

type Scene = { workflow_id: string; session: Session; run: PlayedRun; mutation_id: string }
type Operation = (sql: postgres.Sql, scene: Scene) => Promise<unknown>

const nobody = ({ session }: Scene) => ({ ...session, lease_token: null as never })

/** A run whose side effect is under way, by a lease that has just run out. */
async function underWay(): Promise<Scene> {
  const { workflow_id } = await automation(database.owner)
  const session = await claimOf(workflow_id)
  await w.publish(session, ['e1', 'e2'], new Date())
  const run = await w.consumerAt('mutating', session)
  const { mutation_id } = await w.begin(session, run, { reconcile: { url: 'x' } })
  await database.owner`update public.script_runs set lease_expires_at = now() where id = ${session.session_id}`
  return { workflow_id, session, run, mutation_id }
}
/** A run behind its side effect. */
async function emitting(): Promise<Scene> {
  const scene = await underWay()
  await w.apply(scene.session, scene)
  await w.advance(scene.session, scene.run, 'emitting')
  return scene
}
/** A run that ended while nobody knew, and that is asked after. */
async function uncertain(): Promise<Scene> {
  const scene = await underWay()
  await w.end(scene.session, scene.run, 'paused:reconciliation')
  await database.owner`
    update public.workflow_mutations set next_reconcile_at = case when id = ${scene.mutation_id} then now() end
    where status = 'needs_reconcile'`
  await rpc(database.owner, 'claim_reconcile', { worker: 'w' })
  await database.owner`update public.workflow_mutations set next_reconcile_at = now() where id = ${scene.mutation_id}`
  return scene
}
/** A run that ended behind its side effect. */
async function toRetry(): Promise<Scene> {
  const scene = await emitting()
  await w.end(scene.session, scene.run, 'crashed')
  return scene
}
async function claimOf(workflow_id: string): Promise<Session> {
  await database.owner`update public.workflows set next_due_at = null where id <> ${workflow_id}`
  await database.owner`update public.script_runs set lease_owner = 'w' where status = 'running'`
  return w.session()
}

const of_workflow: Record<string, Operation> = Object.fromEntries(
  [
    'pause_workflow',
    'resume_workflow',
    'activate_workflow',
    'archive_workflow',
    'retry_workflow',
    'request_run',
  ].map((fn) => [fn, (sql: postgres.Sql, { workflow_id }: Scene) => rpc(sql, fn, { workflow_id })]),
)
const always: Record<string, Operation> = {
  claim: (sql) => worker(sql).claim(),
  claim_reconcile: (sql) => rpc(sql, 'claim_reconcile', { worker: 'w' }),
  sweep: (sql) => rpc(sql, 'lifecycle.sweep'),
}
const of_holder: Record<string, Operation> = {
  renew: (sql, { session }) => worker(sql).renew(session),
  yield: (sql, { session }) => worker(sql).yield(session),
  finish: (sql, { session }) => worker(sql).finish(session),
  create: (sql, { session }) => worker(sql).create(session),
  end: (sql, { session, run }) => worker(sql).end(session, run, 'paused:transient'),
  crash: (sql, { session, run }) => worker(sql).end(session, run, 'crashed'),
  emit: (sql, { session, run }) => worker(sql).advance(session, run, 'emitting'),
  commit: (sql, { session, run }) => worker(sql).commitConsumer(session, run),
  apply: (sql, { session, mutation_id }) => worker(sql).apply(session, { mutation_id }),
  fail: (sql, { session, mutation_id }) => worker(sql).fail(session, { mutation_id }),
}
const of_outcome: Record<string, Operation> = {
  apply: (sql, scene) => worker(sql).apply(nobody(scene), scene),
  fail: (sql, scene) => worker(sql).fail(nobody(scene), scene),
  told_applied: (sql, { mutation_id }) =>
    rpc(sql, 'record_reconcile', { mutation_id, attempt: 1, outcome: 'applied', result: { id: 1 } }),
  told_failed: (sql, { mutation_id }) =>
    rpc(sql, 'record_reconcile', { mutation_id, attempt: 1, outcome: 'failed' }),
  told_again: (sql, { mutation_id }) =>
    rpc(sql, 'record_reconcile', { mutation_id, attempt: 1, outcome: 'again' }),
  resolve_failed: (sql, { mutation_id }) => rpc(sql, 'resolve_mutation', { mutation_id, how: 'failed' }),
  resolve_skipped: (sql, { mutation_id }) => rpc(sql, 'resolve_mutation', { mutation_id, how: 'skipped' }),
}
const of_retry: Record<string, Operation> = {
  retry: (sql, { run }) => rpc(sql, 'create_retry_run', { run_id: run.run_id, worker: 'w' }),
}

/** Each of what is done to a run with each, itself included, and with all that may happen to its workflow. */
function pairs(operations: Record<string, Operation>): [string, string, Operation, Operation][] {
  const own = Object.entries(operations)
  const others = Object.entries({ ...always, ...of_workflow })
  return own.flatMap(([a, one], i) =>
    [...own.slice(i), ...others].map(([b, other]): [string, string, Operation, Operation] => [
      a,
      b,
      one,
      other,
    ]),
  )
}

async function race(scene: Scene, one: Operation, other: Operation): Promise<{ changed: number[] }> {
  const answers = await Promise.all(
    connections.map(async (sql, n) => {
      try {
        return { by: n % 2, answer: await (n % 2 === 0 ? one : other)(sql, scene) }
      } catch (error) {
        return { by: n % 2, error: error as postgres.PostgresError }
      }
    }),
  )
  const changed = [0, 0]
  for (const { by, answer, error } of answers as {
    by: number
    answer?: { changed?: boolean }
    error?: postgres.PostgresError
  }[]) {
    // Told in words; no deadlock, no violated constraint, nothing that nobody thought of.
    if (error) expect(`${error.code} ${error.message}`).toMatch(/^PT409 /)
    if (answer?.changed === true) changed[by] = (changed[by] ?? 0) + 1
  }
  const { mutations, runs, events } = await stateOf(database.owner, scene.workflow_id)
  const moves = await database.owner`
    select to_status from public.status_events where subject_id in (${scene.run.run_id}, ${scene.mutation_id})
    and to_status not in ('active', 'in_flight', 'needs_reconcile', 'indeterminate')`
  // It ends once, and its side effect is settled once.
  expect(moves.length).toBeLessThanOrEqual(2)
  expect(mutations).toHaveLength(1)
  expect(
    runs.filter(({ retry_of }: { retry_of: string }) => retry_of === scene.run.run_id).length,
  ).toBeLessThanOrEqual(1)
  if (mutations[0].status === 'applied') expect(['reserved', 'consumed']).toContain(events[0].status)
  return { changed }
}

describe.each([
  ['a run whose side effect is under way', underWay, of_holder, ['end', 'crash', 'apply', 'fail', 'yield']],
  ['a run behind its side effect', emitting, of_holder, ['end', 'crash', 'commit', 'yield']],
  ['a run of which nobody knows', uncertain, of_outcome, ['apply', 'fail', 'told_applied', 'told_failed']],
  ['a run to be retried', toRetry, of_retry, ['retry']],
] as [string, () => Promise<Scene>, Record<string, Operation>, string[]][])(
  'of %s',
  (_, make, operations, once) => {
    test('each pair of operations ends in words: one wins, the other is told', {
      timeout: 240_000,
    }, async () => {
      for (const [a, b, one, other] of pairs(operations)) {
        const { changed } = await race(await make(), one, other)
        // The same call by eight: it is done once.
        if (a === b && once.includes(a)) expect((changed[0] ?? 0) + (changed[1] ?? 0), a).toBe(1)
      }
      expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
    })
  },
)

describe('who comes second', () => {
  const [first, second] = [() => connections[0] as postgres.Sql, () => connections[1] as postgres.Sql]

  /** Waits until a connection stands in front of a lock. */
  async function waits(sql: postgres.Sql, pid: number): Promise<void> {
    await vi.waitFor(async () => {
      const rows = await sql`select from pg_stat_activity where pid = ${pid} and wait_event_type = 'Lock'`
      expect(rows).toHaveLength(1)
    })
  }
  const pidOf = async (sql: postgres.Sql) => (await sql`select pg_backend_pid() as pid`)[0]?.pid as number

  test('ends the run as one that is behind its side effect, once that is applied', async () => {
    const { workflow_id, session, run, mutation_id } = await underWay()
    const pid = await pidOf(second())
    await first()`begin`
    await worker(first()).apply(session, { mutation_id })
    const ending = worker(second()).end(session, run, 'paused:transient')
    await waits(database.superuser, pid)
    await first()`commit`
    await ending
    expect(await stateOf(database.owner, workflow_id)).toMatchObject({
      error: null,
      pending_retry_run_id: run.run_id,
      events: [{ status: 'reserved' }, {}],
      mutations: [{ status: 'applied' }],
    })
  })

  test('applies what happened though the run has ended, and nothing is sent again', async () => {
    const { workflow_id, session, run, mutation_id } = await underWay()
    const pid = await pidOf(second())
    await first()`begin`
    await worker(first()).end(session, run, 'paused:transient')
    const applying = worker(second()).apply(session, { mutation_id })
    await waits(database.superuser, pid)
    await first()`commit`
    expect(await applying).toMatchObject({ status: 'applied' })
    expect(await stateOf(database.owner, workflow_id)).toMatchObject({
      error: null,
      pending_retry_run_id: run.run_id,
    })
  })

  test('is the sweep, which waits for nobody', async () => {
    const { workflow_id, session, run } = await emitting()
    await first()`begin`
    await worker(first()).commitConsumer(session, run)
    expect(await rpc(second(), 'lifecycle.sweep')).toMatchObject({ errors: 0 })
    await first()`commit`
    expect((await stateOf(database.owner, workflow_id)).runs[1]).toMatchObject({ status: 'committed' })
    await rpc(second(), 'lifecycle.sweep')
    expect((await stateOf(database.owner, workflow_id)).sessions).toMatchObject([{ status: 'success' }])
  })

  test('commits after a pause, and begins nothing more', async () => {
    const { workflow_id, session, run } = await emitting()
    const pid = await pidOf(second())
    await first()`begin`
    await rpc(first(), 'pause_workflow', { workflow_id })
    const committing = worker(second()).commitConsumer(session, run)
    await waits(database.superuser, pid)
    await first()`commit`
    expect(await committing).toMatchObject({ status: 'committed' })
    await expect(worker(second()).create(session)).rejects.toMatchObject({ message: 'not_runnable' })
    await worker(second()).finish(session)
  })
})
