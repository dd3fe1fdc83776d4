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

const sweep = () => rpc<{ checked: number; changed: number; errors: number }>(clock.sql, 'lifecycle.sweep')
const load = async (lane: string) => {
  const [row] = await clock.sql`select due, leases from lifecycle.lane_load(${lane})`
  return row
}
/** Ends the active run of the session that is due, as `status`. */
async function failing(status: string): Promise<void> {
  const session = await w.session()
  const { run } = await w.create(session)
  if (status === 'lost') {
    await clock.advance(61)
    await sweep()
  } else await w.end(session, run, status)
}
/** Takes the consumer behind its side effect and ends the run there. */
async function failedBehindMutation(
  session: Session,
  more: Record<string, unknown> = {},
): Promise<PlayedRun> {
  const run = await w.consumerAt('mutating', session)
  await w.apply(session, await w.begin(session, run), { id: 7 })
  await w.end(session, run, 'paused:transient', more)
  return run
}

describe('a claim', () => {
  test('gives every due workflow to one of several workers, once', async () => {
    await clock.sql`
      select public.activate_workflow((public.create_workflow(
        owner_id => gen_random_uuid(), title => 'W' || n, code => 'x', config => ${clock.sql.json(config)}) ->> 'workflow_id')::uuid)
      from generate_series(1, 200) n`
    const workers = Array.from({ length: 4 }, (_, n) =>
      worker(database.connect('postgres', { max: 1 }), `w${n}`),
    )
    const taken = await Promise.all(
      workers.map(async (each) => {
        const sessions: Session[] = []
        for (;;) {
          const session = await each.claim()
          if (session === null) return sessions
          sessions.push(session)
        }
      }),
    )
    const all = taken.flat()
    expect(all).toHaveLength(200)
    expect(new Set(all.map(({ workflow_id }) => workflow_id)).size).toBe(200)
    expect(taken.every((sessions) => sessions.length > 0)).toBe(true)
    expect(await load('scripts')).toMatchObject({ due: false })
    await database.owner`update public.script_runs set lease_expires_at = ${clock.now()} where status = 'running'`
    await clock.advance(30)
    for (let n = 0; n < 4; n++) await sweep()
    expect(await database.owner`select from public.script_runs where status = 'running'`).toEqual([])
  })

  test('takes first what has been due for longest, and what is locked not at all', async () => {
    const ids: string[] = []
    for (let n = 0; n < 4; n++) ids.push((await automation(clock.sql)).workflow_id)
    await clock.advance(100)
    for (const [n, at] of [30, 10, 20, 0].entries()) {
      const due = new Date(clock.now().getTime() - 60_000 + at * 1000)
      await clock.sql`update public.workflows set next_due_at = ${due} where id = ${ids[n] as string}`
    }
    const other = database.connect('postgres', { max: 1 })
    await other`begin`
    await other`select from public.workflows where id = ${ids[1] as string} for update`
    const order = [
      (await w.session()).workflow_id,
      (await w.session()).workflow_id,
      (await w.session()).workflow_id,
    ]
    expect(order).toEqual([ids[3], ids[2], ids[0]])
    expect(await w.claim()).toBe(null)
    await other`rollback`
    expect((await w.session()).workflow_id).toBe(ids[1])
    expect(await w.claim()).toBe(null)
  })

  test('leaves alone what may not run', async () => {
    const { workflow_id } = await automation(clock.sql)
    const past = `'${new Date(clock.now().getTime() - 1000).toISOString()}'`
    for (const change of [
      `status = 'disabled'`,
      `status = 'archived', run_requested_at = now()`,
      `status = 'draft'`,
      `error = 'x', error_code = 'X', error_at = now()`,
      `maintenance = true`,
      `backoff_until = '${new Date(clock.now().getTime() + 1000).toISOString()}'`,
    ]) {
      await database.superuser
        .begin(async (sql) => {
          await sql`set local session_replication_role = replica`
          await sql`select set_config('rollcall.now', ${clock.now().toISOString()}, true)`
          await sql.unsafe(`update public.workflows set next_due_at = ${past}, ${change}`)
          expect(await worker(sql as never).claim()).toBe(null)
          throw new Error('undo')
        })
        .catch((error) => expect(error.message).toBe('undo'))
    }
    expect(await w.session()).toMatchObject({ workflow_id })
    expect(await w.claim()).toBe(null)
    // A date in the row does not make a second session of it.
    await clock.sql`update public.workflows set next_due_at = ${clock.now()}`
    expect(await w.claim()).toBe(null)
  })

  test('passes by a workflow that can not begin, and tries it again in a minute', async () => {
    const broken = await automation(clock.sql, { active: false })
    await rpc(clock.sql, 'request_run', { workflow_id: broken.workflow_id })
    await clock.sql`update public.workflow_scripts set config = '{"topics": 5}'`
    const good = await automation(clock.sql)
    expect(await w.session()).toMatchObject({ workflow_id: good.workflow_id })
    expect(await w.claim()).toBe(null)
    const { next_due_at } = await stateOf(clock.sql, broken.workflow_id)
    expect(next_due_at.getTime() - clock.now().getTime()).toBe(60_000)
    await clock.sql`update public.workflow_scripts set config = ${clock.sql.json(config)}`
    await clock.advance(60)
    expect(await w.session()).toMatchObject({ workflow_id: broken.workflow_id, trigger: 'manual' })
    await sweep()
  })

  test('of a test runs all producers of the newest script, due or not, once', async () => {
    const { workflow_id } = await automation(clock.sql, { active: false })
    expect(await w.claim()).toBe(null)
    await rpc(clock.sql, 'request_run', { workflow_id })
    const session = await w.session()
    expect(session).toMatchObject({ trigger: 'manual', script: { major: 1, minor: 0 } })
    await w.publish(session, ['e1'], clock.now())
    const run = await w.consumerAt('emitting', session)
    await w.commitConsumer(session, run)
    const empty = await w.consumerAt('emitting', session, [])
    await w.commitConsumer(session, empty)
    expect(await w.create(session)).toMatchObject({ result: 'nothing_due' })
    await w.finish(session)
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      status: 'draft',
      next_due_at: null,
      run_requested_at: null,
      events: [{ status: 'consumed' }],
    })
    expect(await w.claim()).toBe(null)
  })

  test('of a test ends with a pause that comes meanwhile', async () => {
    const { workflow_id } = await automation(clock.sql)
    await rpc(clock.sql, 'request_run', { workflow_id })
    const session = await w.session()
    expect(session.trigger).toBe('manual')
    await clock.advance(1)
    await rpc(clock.sql, 'pause_workflow', { workflow_id })
    expect(await refusal(w.create(session))).toMatchObject({ message: 'not_runnable' })
    await w.finish(session)
    expect(await w.claim()).toBe(null)
  })

  test('takes sessions that were given back before anything else', async () => {
    await automation(clock.sql)
    const session = await w.session()
    await w.yield(session)
    await clock.advance(300)
    await automation(clock.sql)
    expect(await load('scripts')).toMatchObject({ due: true, leases: 0 })
    // Given back it waits for as long as it takes: the sweep does not end it.
    expect(await sweep()).toMatchObject({ changed: 0 })
    expect((await w.session()).session_id).toBe(session.session_id)
    expect((await w.session()).session_id).not.toBe(session.session_id)
    expect(await load('scripts')).toMatchObject({ due: false, leases: 2 })
  })

  test('makes nothing due of a consumer that a newer script lacks', async () => {
    const { workflow_id, owner_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('mutating', session)
    const { script_id } = await rpc<{ script_id: string }>(clock.sql, 'save_script', {
      workflow_id,
      owner_id,
      code: 'x',
      config: { ...config, consumers: { D: { ...config.consumers.C } } },
    })
    await rpc(clock.sql, 'activate_workflow', { workflow_id, script_id })
    await w.end(session, run, 'paused:transient')
    await clock.advance(60)
    const next = await w.session()
    for (;;) {
      const { run: due } = await w.create(next)
      if (due === null) break
      expect(due.handler_name).not.toBe('C')
      if (due.handler_type === 'producer') {
        await w.advance(next, due, 'executing')
        await w.commitProducer(next, due, [], new Date(clock.now().getTime() + 3_600_000))
      } else {
        for (const phase of ['preparing', 'prepared', 'emitting']) await w.advance(next, due, phase)
        await w.commitConsumer(next, due)
      }
    }
    await w.finish(next)
    expect(await w.claim()).toBe(null)
    expect((await stateOf(clock.sql, workflow_id)).events).toMatchObject([
      { status: 'pending' },
      { status: 'pending' },
    ])
  })

  test('and its lease are HOT updates', async () => {
    await automation(clock.sql)
    const sql = database.connect('postgres', { max: 1 })
    const hot = async () => {
      await sql`select pg_stat_force_next_flush()`
      await sql`select pg_stat_clear_snapshot()`
      const [row] = await sql`
        select n_tup_hot_upd::int as hot, n_tup_upd::int as updates from pg_stat_user_tables where relname = 'script_runs'`
      return row
    }
    const mine = worker(sql)
    const session = await mine.session()
    await mine.renew(session)
    await mine.yield(session)
    await mine.renew(await mine.session())
    expect(await hot()).toEqual({ hot: 4, updates: 4 })
  })

  test('costs the same with 100,000 finished sessions and runs as with none', async () => {
    const sql = database.connect('postgres', { max: 1 })
    type Plan = { Plan: { 'Shared Hit Blocks': number; 'Shared Read Blocks': number } }
    const pages = async () => {
      for (let n = 0; n < 3; n++) await automation(sql)
      // The first calls of a session load what the next ones find.
      await worker(sql).claim()
      await worker(sql).claim()
      const [row] = await sql.unsafe(
        `explain (analyze, buffers, format json) select public.claim_workflow_session('w')`,
      )
      const plans = (row?.['QUERY PLAN'] ?? []) as Plan[]
      return plans.reduce((sum, { Plan: it }) => sum + it['Shared Hit Blocks'] + it['Shared Read Blocks'], 0)
    }
    const empty = await pages()
    const { workflow_id, owner_id, script_id } = await automation(sql, { active: false })
    await database.superuser.begin(async (work) => {
      await work`set local session_replication_role = replica`
      await work`
        with ended as (
          insert into public.script_runs (workflow_id, owner_id, script_id, trigger, status, result, started_at, ended_at)
          select ${workflow_id}, ${owner_id}, ${script_id}, 'schedule', 'success', 'completed', now(), now()
          from generate_series(1, 100000) returning id
        )
        insert into public.handler_runs (script_run_id, workflow_id, owner_id, handler_type, handler_name, phase, status, started_at, ended_at)
        select id, ${workflow_id}, ${owner_id}, 'producer', 'P', 'committed', 'committed', now(), now() from ended`
      await work`
        insert into public.workflows (owner_id, title, status_updated_at, created_at, updated_at)
        select gen_random_uuid(), 'x', now(), now(), now() from generate_series(1, 20000)`
    })
    await database.superuser`vacuum analyze public.script_runs, public.handler_runs, public.workflows`
    expect((await pages()) - empty).toBeLessThanOrEqual(8)
    await database.superuser`truncate public.workflows cascade`
    await database.superuser.begin(async (work) => {
      await work`set local session_replication_role = replica`
      await work`delete from public.status_events`
    })
  })
})

describe('a session', () => {
  test('that is finished well starts the counts of failures anew; finished again it is unchanged', async () => {
    const { workflow_id } = await automation(clock.sql)
    await failing('paused:transient')
    await clock.advance(60)
    await clock.sql`update public.workflows set maintenance_fix_count = 2`
    const session = await published(clock.sql, clock.now(), [])
    const run = await w.consumerAt('emitting', session, [])
    await w.commitConsumer(session, run, null, { cost: 4 })
    expect(await w.finish(session)).toMatchObject({ ok: true, changed: true, status: 'success' })
    expect(await w.finish(session)).toMatchObject({ ok: true, changed: false, result: 'unchanged' })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      transient_failures: 0,
      backoff_until: null,
      maintenance_fix_count: 0,
      sessions: [
        { status: 'success', result: 'completed', cost_microusd: '4', handler_run_count: 2 },
        { status: 'failed' },
      ],
    })
    expect(await refusal(w.yield(session))).toMatchObject({ message: 'stale_lease' })
    await failingSession()
    async function failingSession() {
      await clock.advance(3600)
      const next = await w.session()
      await w.end(next, (await w.create(next)).run, 'failed:internal')
      expect(await refusal(w.finish(next))).toMatchObject({ message: 'session_ended' })
    }
  })

  test('is renewed for as long as it has not ended', async () => {
    await automation(clock.sql)
    const session = await w.session()
    await clock.advance(45)
    expect(await w.renew(session)).toMatchObject({ ok: true, lease_expires_at: '2026-03-01T12:01:45+00:00' })
    await clock.advance(59)
    expect(await sweep()).toMatchObject({ changed: 0 })
    await clock.advance(2)
    expect(await w.claim()).toBe(null)
    expect(await sweep()).toMatchObject({ checked: 1, changed: 1, errors: 0 })
    expect(await refusal(w.renew(session))).toMatchObject({ message: 'stale_lease' })
  })
})

describe('the sweep', () => {
  test('ends a session without a run as interrupted, and lets the workflow rest', async () => {
    const { workflow_id } = await automation(clock.sql)
    await w.session()
    await clock.advance(60)
    expect(await sweep()).toMatchObject({ changed: 1 })
    expect(await sweep()).toMatchObject({ checked: 0 })
    const state = await stateOf(clock.sql, workflow_id)
    expect(state).toMatchObject({
      error: null,
      transient_failures: 1,
      sessions: [{ status: 'failed', result: 'failed', error_code: 'INTERRUPTED', lease_owner: 'w' }],
    })
    expect(state.backoff_until > clock.now()).toBe(true)
    expect(await w.claim()).toBe(null)
    await clock.advance(10)
    expect(await w.claim()).toMatchObject({ workflow_id })
  })

  test('ends a session whose runs all committed as a success', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    await clock.advance(60)
    await sweep()
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      transient_failures: 0,
      sessions: [{ status: 'success', result: 'completed', handler_run_count: 1 }],
    })
    expect((await w.session()).session_id).not.toBe(session.session_id)
  })

  test.each([
    ['pending', 'pending', 2, null],
    ['preparing', 'pending', 1, null],
    ['prepared', 'pending', 2, null],
    ['mutating', 'pending', 2, null],
    ['emitting', 'pending', 2, null],
    ['begun', 'reserved', 1, 'MUTATION_UNCERTAIN'],
    ['applied', 'reserved', 1, null],
    ['failed', 'pending', 2, null],
  ])('finds a run crashed at %s: its event is %s', async (at, status, attempt_number, error_code) => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now(), ['e1'])
    const phase = ['begun', 'applied', 'failed'].includes(at) ? 'mutating' : at
    const run = await w.consumerAt(phase, session)
    if (phase !== at) {
      const mutation = await w.begin(session, run)
      if (at === 'applied') await w.apply(session, mutation)
      if (at === 'failed') await w.fail(session, mutation)
    }
    const is_retried = ['begun', 'applied'].includes(at)
    const reserved = ['prepared', 'mutating', 'emitting', 'begun', 'applied', 'failed'].includes(at)
    await clock.advance(60)
    expect(await sweep()).toMatchObject({ changed: 1, errors: 0 })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      status: 'active',
      error_code,
      pending_retry_run_id: is_retried ? run.run_id : null,
      transient_failures: 1,
      sessions: [{ status: 'failed', result: 'failed', error_code: 'CRASHED' }],
      runs: [
        {},
        {
          status: 'crashed',
          phase: ['applied', 'failed'].includes(at) ? 'mutated' : phase,
          error_type: 'unknown',
        },
      ],
      events: [
        {
          status,
          attempt_number: reserved ? attempt_number : 1,
          reserved_by_run_id: is_retried ? run.run_id : null,
        },
      ],
      handlers: [{}, { dirty: true }],
      mutations: phase === at ? [] : [{ status: at === 'begun' ? 'indeterminate' : at }],
    })
    await clock.advance(60)
    if (error_code !== null) expect(await w.claim()).toBe(null)
    else if (is_retried) {
      expect(await w.session()).toMatchObject({
        trigger: 'retry',
        run: { phase: 'emitting', retry_of: run.run_id },
      })
    } else
      expect((await w.create(await w.session())).run).toMatchObject({ handler_name: 'C', phase: 'pending' })
  })

  test('passes by a workflow that somebody holds, and a row that can not be ended', async () => {
    const held = await automation(clock.sql)
    const broken = await automation(clock.sql)
    const fine = await automation(clock.sql)
    for (let n = 0; n < 3; n++) await w.session()
    await clock.advance(61)
    await database.superuser`
      create function private.fail_one() returns trigger language plpgsql as
        $$ begin if new.status = 'failed' then raise exception 'no'; end if; return new; end $$`
    await database.superuser.unsafe(`
      create trigger fail_one before update on public.script_runs
        for each row when (old.workflow_id = '${broken.workflow_id}') execute function private.fail_one()`)
    const other = database.connect('postgres', { max: 1 })
    await other`begin`
    await other`select from public.workflows where id = ${held.workflow_id} for update`
    expect(await sweep()).toEqual({ checked: 2, changed: 1, errors: 1 })
    await other`rollback`
    expect((await stateOf(clock.sql, fine.workflow_id)).sessions).toMatchObject([{ status: 'failed' }])
    expect(await sweep()).toEqual({ checked: 1, changed: 1, errors: 0 })
    await database.superuser`drop trigger fail_one on public.script_runs`
    await clock.advance(60)
    expect(await sweep()).toEqual({ checked: 1, changed: 1, errors: 0 })
  })

  test('twice at once ends each session once', async () => {
    for (let n = 0; n < 20; n++) await automation(clock.sql)
    for (let n = 0; n < 20; n++) await w.session()
    await database.owner`update public.script_runs set lease_expires_at = now() - interval '1 s'`
    const others = await Promise.all([0, 1].map(() => openClock(database, new Date())))
    const done = await Promise.all(
      others.map(({ sql }) => rpc<{ changed: number; errors: number }>(sql, 'lifecycle.sweep')),
    )
    expect(done.reduce((sum, { changed }) => sum + changed, 0)).toBe(20)
    expect(done.map(({ errors }) => errors)).toEqual([0, 0])
  })
})

describe('the brake', () => {
  test('waits 10 s after a failure that passes, twice as long after each further one, at most 600 s', async () => {
    const { workflow_id } = await automation(clock.sql)
    await clock.sql`update lifecycle.settings set transient_limit = 100`
    for (const seconds of [10, 20, 40, 80, 160, 320, 600, 600]) {
      await failing('paused:transient')
      const { backoff_until, next_due_at, error } = await stateOf(clock.sql, workflow_id)
      const waits = (backoff_until.getTime() - clock.now().getTime()) / 1000
      expect(waits).toBeLessThanOrEqual(seconds)
      expect(waits).toBeGreaterThanOrEqual(seconds * 0.8 - 0.001)
      expect(next_due_at).toEqual(backoff_until)
      expect(error).toBe(null)
      expect(await w.claim()).toBe(null)
      await clock.advance(seconds)
    }
  })

  test.each([
    ['paused:transient', 'TRANSIENT_EXHAUSTED', 'E!'],
    ['lost', 'CRASH_LOOP', 'The worker died'],
  ])(
    'makes the sixth failure in a row (%s) an error, which a retry clears',
    async (status, error_code, error) => {
      const { workflow_id } = await automation(clock.sql)
      for (let n = 1; n <= 6; n++) {
        expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
          error: null,
          transient_failures: n - 1,
        })
        await failing(status)
        await clock.advance(600)
      }
      expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
        status: 'active',
        state: 'error',
        error,
        error_code,
        error_stage: 'producer',
        next_due_at: null,
        notifications: [{ type: 'error', resolved_at: null, payload: { code: error_code } }],
        messages: [{ role: 'event', type: 'error', resolved_at: null }],
      })
      expect(await w.claim()).toBe(null)
      await rpc(clock.sql, 'retry_workflow', { workflow_id })
      expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
        state: 'active',
        error: null,
        transient_failures: 0,
        backoff_until: null,
        notifications: [{ resolved_at: clock.now() }],
        messages: [{ resolved_at: clock.now() }],
      })
      await w.session()
    },
  )

  test('of one workflow never slows the others', async () => {
    const failing_one = await automation(clock.sql)
    await failing('paused:transient')
    const others = [await automation(clock.sql), await automation(clock.sql)]
    const taken = [(await w.session()).workflow_id, (await w.session()).workflow_id]
    expect(taken.sort()).toEqual(others.map(({ workflow_id }) => workflow_id).sort())
    expect(taken).not.toContain(failing_one.workflow_id)
    expect(await w.claim()).toBe(null)
  })

  test('opens no session where nothing is to be done when it lets go', async () => {
    const { workflow_id } = await automation(clock.sql)
    await failing('paused:transient')
    await clock.sql`delete from public.producer_schedules`
    await clock.sql`update public.handler_states set dirty = false, wake_at = null`
    await clock.sql`select private.refresh_due(${workflow_id})`
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({ next_due_at: null, transient_failures: 1 })
  })
})

describe('a retry', () => {
  test('goes on with next() through any number of retries, with the result of the one side effect', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now(), ['e1', 'e2'])
    const runs = [await failedBehindMutation(session)]
    for (const status of ['crashed', 'paused:transient', 'lost'] as const) {
      await clock.advance(60)
      const retry = await w.session()
      const last = runs.at(-1) as PlayedRun
      expect(retry).toMatchObject({
        trigger: 'retry',
        run: {
          phase: 'emitting',
          status: 'active',
          retry_of: last.run_id,
          mutation_outcome: 'success',
          mutation: null,
          prepare_result: { ids: ['e1'] },
          events: [{ message_id: 'e1', attempt_number: 1 }],
          result: { status: 'applied', result: { id: 7 } },
        },
      })
      expect((await stateOf(clock.sql, workflow_id)).pending_retry_run_id).toBe(null)
      const run = retry.run as PlayedRun
      runs.push(run)
      if (status === 'lost') {
        await clock.advance(60)
        await sweep()
      } else await w.end(retry, run, status)
      expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
        pending_retry_run_id: run.run_id,
        events: [
          { status: 'reserved', reserved_by_run_id: run.run_id, attempt_number: 1 },
          { status: 'pending' },
        ],
      })
      // One each: an earlier one of the chain is not retried once more.
      const twice = rpc(clock.sql, 'create_retry_run', { run_id: last.run_id })
      expect(await refusal(twice)).toMatchObject({ code: 'PT409', message: 'already_retried' })
    }
    await clock.advance(120)
    const retry = await w.session()
    await w.commitConsumer(retry, retry.run as PlayedRun)
    expect((await w.create(retry)).run).toMatchObject({ handler_name: 'C', events: [] })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      events: [
        { status: 'consumed', attempt_number: 1 },
        { status: 'pending', attempt_number: 1 },
      ],
      mutations: [{ status: 'applied' }],
      sessions: [{ trigger: 'retry', status: 'running' }, {}, {}, {}, {}],
    })
    await clock.advance(60)
    await sweep()
  })

  test('of a run whose side effect was skipped tells next() so and leaves its events skipped', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now(), ['e1'])
    const run = await w.consumerAt('mutating', session)
    const { mutation_id } = await w.begin(session, run)
    await w.end(session, run, 'paused:reconciliation')
    await rpc(clock.sql, 'resolve_mutation', { mutation_id, how: 'skipped' })
    const retry = await w.session()
    expect(retry.run).toMatchObject({ result: { status: 'skipped' }, events: [{ message_id: 'e1' }] })
    await w.end(retry, retry.run as PlayedRun, 'paused:transient')
    await clock.advance(60)
    const again = await w.session()
    expect(again.run).toMatchObject({ result: { status: 'skipped' }, events: [{ message_id: 'e1' }] })
    await w.commitConsumer(again, again.run as PlayedRun)
    expect((await stateOf(clock.sql, workflow_id)).events).toMatchObject([
      { status: 'skipped', reserved_by_run_id: again.run?.run_id },
    ])
    await w.finish(again)
  })

  test('goes on with the script that is active by then', async () => {
    const { workflow_id, owner_id } = await automation(clock.sql)
    await failedBehindMutation(await published(clock.sql, clock.now()))
    const saved = await rpc<{ script_id: string }>(clock.sql, 'save_script', {
      workflow_id,
      owner_id,
      code: 'y',
      config,
    })
    await rpc(clock.sql, 'activate_workflow', { workflow_id, script_id: saved.script_id })
    expect(await w.session()).toMatchObject({
      trigger: 'retry',
      script: { id: saved.script_id, major: 2 },
      run: { phase: 'emitting' },
    })
  })

  test('is only of a run that ended behind its side effect', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const retry = (run: PlayedRun) => rpc<Session>(clock.sql, 'create_retry_run', { run_id: run.run_id })
    const run = await w.consumerAt('prepared', session)
    expect(await refusal(retry(run))).toMatchObject({ message: 'not_retryable' })
    await w.end(session, run, 'paused:transient')
    const before = await everything(database.superuser)
    expect(await refusal(retry(run))).toMatchObject({ code: 'PT409', message: 'not_retryable' })
    expect(await everything(database.superuser)).toEqual(before)
    await clock.advance(60)
    const next = await w.session()
    expect(await refusal(retry(run))).toMatchObject({ message: 'not_retryable' })
    const failed = await failedBehindMutation(next)
    await rpc(clock.sql, 'pause_workflow', { workflow_id })
    const made = await retry(failed)
    expect(made).toMatchObject({
      result: 'created',
      trigger: 'retry',
      run: { retry_of: failed.run_id, phase: 'emitting' },
    })
    expect(await refusal(retry(failed))).toMatchObject({ message: 'already_retried' })
    await w.commitConsumer({ ...made }, made.run as PlayedRun)
    expect(await refusal(w.create(made))).toMatchObject({ message: 'not_runnable' })
    await w.finish(made)
  })

  test('that can not be is given up, and its owner is told', async () => {
    const { workflow_id } = await automation(clock.sql)
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('prepared', session)
    await w.end(session, run, 'paused:transient')
    await clock.sql`update public.workflows set pending_retry_run_id = ${run.run_id}`
    await clock.advance(60)
    const next = await w.session()
    expect(next).toMatchObject({ workflow_id, trigger: 'event', run: null })
    expect(await stateOf(clock.sql, workflow_id)).toMatchObject({
      error: null,
      state: 'error',
      pending_retry_run_id: null,
      notifications: [{ type: 'error', payload: { code: 'RETRY_INVALID', run_id: run.run_id } }],
    })
    expect((await w.create(next)).run).toMatchObject({ handler_name: 'C' })
  })
})

describe('a workflow', () => {
  test('tells its topic and its owner of sessions, runs and mutations, and what is shown of it', async () => {
    const { workflow_id } = await automation(clock.sql)
    const pushes = async () => {
      const rows = await database.superuser`
        select event, payload from realtime.messages where topic = ${`workflow:${workflow_id}`} order by inserted_at, id`
      await database.superuser`delete from realtime.messages`
      return rows
    }
    await pushes()
    const session = await published(clock.sql, clock.now())
    const run = await w.consumerAt('mutating', session)
    await w.begin(session, run)
    const told = await pushes()
    expect(told.map(({ payload }) => payload.machine)).toEqual([
      'script_run',
      'handler_run',
      'handler_run',
      'handler_run',
      'mutation',
    ])
    expect(told.at(-1)).toMatchObject({
      event: 'status_changed',
      payload: { machine: 'mutation', workflow_id, from: null, to: 'in_flight', run_id: run.run_id },
    })
    const { version } = await stateOf(clock.sql, workflow_id)
    await w.end(session, run, 'paused:reconciliation')
    const ended = await pushes()
    expect(ended.find(({ event }) => event === 'state_changed')).toMatchObject({
      payload: { workflow_id, version: version + 1, state: 'error' },
    })
  })

  test('is forgotten with its owner, and its history is pruned with its runs', async () => {
    const { owner_id } = await automation(clock.sql)
    const other = await automation(clock.sql)
    const session = await w.session()
    const mine = session.workflow_id === other.workflow_id ? await w.session() : session
    await w.publish(mine, ['e1', 'e2'], clock.now())
    await failedBehindMutation(mine)
    await clock.advance(60)
    for (let retry = await w.claim(); retry !== null; retry = await w.claim()) {
      if (retry.run) await w.commitConsumer(retry, retry.run)
    }
    await clock.advance(100 * 86_400)
    await sweep()
    const pruned = await rpc<{ events: number }>(clock.sql, 'lifecycle.prune', { older_than: '90 days' })
    expect(pruned.events).toBeGreaterThan(0)
    expect(await rpc(clock.sql, 'lifecycle.forget_owner', { owner_id })).toMatchObject({ workflows: 1 })
    const left = await everything(database.superuser)
    expect(JSON.stringify(left)).not.toContain(owner_id)
    expect(left.workflows).toMatchObject([{ id: other.workflow_id }])
  })
})

test('what is due of scripts and side effects wakes its lane', async () => {
  expect(await load('scripts')).toEqual({ due: false, leases: 0 })
  const { workflow_id } = await automation(clock.sql, { owner_id: randomUUID() })
  expect(await load('scripts')).toEqual({ due: true, leases: 0 })
  const session = await published(clock.sql, clock.now())
  expect(await load('scripts')).toEqual({ due: false, leases: 1 })
  const run = await w.consumerAt('mutating', session)
  await w.begin(session, run, { reconcile: { url: 'https://x.test' } })
  await w.end(session, run, 'paused:reconciliation')
  expect(await load('reconcile')).toMatchObject({ due: false })
  await clock.advance(30)
  expect(await load('reconcile')).toMatchObject({ due: true })
  expect(await load('scripts')).toEqual({ due: false, leases: 0 })
  expect(await stateOf(clock.sql, workflow_id)).toMatchObject({ next_due_at: null })
})
