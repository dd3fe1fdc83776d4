import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal } from '../support/rpc.ts'
import { automation, published, worker } from '../support/workflows.ts'

let database: TestDatabase
let rows: Rows
beforeAll(async () => {
  database = await createTestDatabase()
  rows = await someRows()
})
afterAll(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

type Rows = Record<
  'workflow' | 'session' | 'producer' | 'consumer' | 'mutation' | 'event' | 'task' | 'other',
  string
>

/** A workflow with a consumer's run whose side effect is under way. */
async function someRows(): Promise<Rows> {
  const { workflow_id } = await automation(database.owner)
  const w = worker(database.owner)
  const session = await published(database.owner, new Date())
  const run = await w.consumerAt('mutating', session)
  const { mutation_id } = await w.begin(session, run, { reconcile: { url: 'x' } })
  const ids = async (query: string) => {
    const [row] = await database.owner.unsafe(query, [workflow_id])
    return row?.id as string
  }
  return {
    workflow: workflow_id,
    session: session.session_id,
    consumer: run.run_id,
    producer: await ids(
      `select id from public.handler_runs where workflow_id = $1 and handler_type = 'producer'`,
    ),
    mutation: mutation_id,
    event: await ids(`select id from public.workflow_events where workflow_id = $1 and status = 'reserved'`),
    other: await ids(`select id from public.workflow_events where workflow_id = $1 and status = 'pending'`),
    task: await ids(
      `insert into public.workflow_tasks (workflow_id, owner_id, type, created_at)
       select id, owner_id, 'planner', now() from public.workflows where id = $1 returning id`,
    ),
  }
}

const undo = new Error('undo')
/** Runs `work` as the owner of the tables after `prepare` past all triggers; nothing of it stays. */
async function trying(prepare: string, work: (sql: postgres.TransactionSql) => Promise<void>): Promise<void> {
  const done = database.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    if (prepare !== '') await sql.unsafe(prepare)
    await sql`set local session_replication_role = origin`
    await sql`set local role postgres`
    await work(sql)
    throw undo
  })
  await done.catch((error) => {
    if (error !== undo) throw error
  })
}
const attempt = (sql: postgres.TransactionSql, change: string) =>
  sql.savepoint((point) => point.unsafe(change) as unknown as Promise<unknown>)

type Machine = { states: { state: string; kind: string }[]; transitions: [string, string][] }
const machines = JSON.parse(
  readFileSync(new URL('../cases/machines.json', import.meta.url), 'utf8'),
) as Record<string, Machine>

/** Where a machine's state stands, and what makes each state whole, so that nothing but the guard decides. */
const places: Record<
  string,
  { table: string; row: keyof Rows; set: (state: string) => string; history: boolean }
> = {
  workflow: { table: 'workflows', row: 'workflow', history: true, set: (state) => `status = '${state}'` },
  script_run: {
    table: 'script_runs',
    row: 'session',
    history: true,
    set: (state) =>
      state === 'running'
        ? `status = 'running', result = null, ended_at = null`
        : `status = '${state}', result = '${state === 'success' ? 'completed' : 'failed'}', ended_at = now(), lease_expires_at = null`,
  },
  handler_run: {
    table: 'handler_runs',
    row: 'consumer',
    history: true,
    set: (state) =>
      `status = '${state}', phase = '${state === 'committed' ? 'committed' : 'emitting'}', ended_at = ${state === 'active' ? 'null' : 'now()'}`,
  },
  mutation: {
    table: 'workflow_mutations',
    row: 'mutation',
    history: true,
    set: (state) =>
      `status = '${state}', resolved_at = ${['applied', 'failed'].includes(state) ? 'now()' : 'null'}`,
  },
  producer_phase: {
    table: 'handler_runs',
    row: 'producer',
    history: false,
    set: (state) => phase(state),
  },
  consumer_phase: { table: 'handler_runs', row: 'consumer', history: false, set: (state) => phase(state) },
  event: {
    table: 'workflow_events',
    row: 'event',
    history: false,
    set: (state) =>
      `status = '${state}', reserved_by_run_id = ${state === 'pending' ? 'null' : `'${rows.consumer}'`}`,
  },
  task: {
    table: 'workflow_tasks',
    row: 'task',
    history: false,
    set: (state) =>
      `state = '${state}', error = ${state === 'error' ? `'x'` : 'null'}, ended_at = ${['finished', 'error'].includes(state) ? 'now()' : 'null'}`,
  },
}

function phase(state: string): string {
  const committed = state === 'committed'
  return `phase = '${state}', status = '${committed ? 'committed' : 'active'}', ended_at = ${committed ? 'now()' : 'null'}`
}

describe('the guard', () => {
  test.each(Object.entries(places))(
    'of %s allows direct SQL the moves of the machine and no other',
    async (name, place) => {
      const { states, transitions } = machines[name] as Machine
      const id = rows[place.row]
      const where = `where id = '${id}'`
      const versioned = place.history ? (name === 'workflow' ? 'status_seq' : 'version') : '0'
      for (const { state: from } of states) {
        for (const { state: to } of states) {
          // The other one is out of the way: only one session and one run may be open.
          const alone = `update public.handler_runs set status = 'committed', phase = 'committed', ended_at = now()
          where workflow_id = '${rows.workflow}' and status = 'active'; `
          await trying(
            `${alone} update public.${place.table} set ${place.set(from)} ${where}`,
            async (sql) => {
              const read = async () =>
                (
                  await sql.unsafe(
                    `select to_jsonb(t) as row, ${versioned} as version from public.${place.table} t ${where}`,
                  )
                )[0]
              const events = async () =>
                (await sql`select count(*)::int as n from public.status_events where subject_id = ${id}`)[0]
                  ?.n as number
              const [before, told] = [await read(), await events()]
              const change = attempt(sql, `update public.${place.table} set ${place.set(to)} ${where}`)
              if (from === to) {
                // No transition, unless it would change an end.
                await change.catch((error) => expect(error).toMatchObject({ code: 'PT409' }))
                const after = await read()
                expect(after?.version).toBe(before?.version)
                expect(await events()).toBe(told)
              } else if (transitions.some(([a, b]) => a === from && b === to)) {
                await change
                const after = await read()
                expect(after?.version).toBe((before?.version as number) + (place.history ? 1 : 0))
                const is_recorded = place.history || to === 'committed'
                expect(await events()).toBe(told + (is_recorded ? 1 : 0))
              } else {
                expect(await refusal(change), `${from} to ${to}`).toMatchObject({
                  code: 'PT409',
                  message: 'illegal_transition',
                })
                expect(await read()).toEqual(before)
                expect(await events()).toBe(told)
              }
            },
          )
        }
      }
    },
  )

  test('lets each begin in its initial state only', async () => {
    const owner = randomUUID()
    const inserts: Record<string, (state: string) => string> = {
      workflow: (state) =>
        `insert into public.workflows (owner_id, title, status, active_script_id) select '${owner}', 'x', '${state}', active_script_id
         from public.workflows where id = '${rows.workflow}'`,
      script_run: (state) =>
        `insert into public.script_runs (workflow_id, owner_id, script_id, trigger, status, result, ended_at, started_at)
         select workflow_id, owner_id, script_id, trigger, '${state}', ${state === 'running' ? 'null, null' : `'${state === 'success' ? 'completed' : 'failed'}', now()`}, now()
         from public.script_runs where id = '${rows.session}'`,
      handler_run: (state) =>
        `insert into public.handler_runs (script_run_id, workflow_id, owner_id, handler_type, handler_name, status, phase, ended_at, started_at)
         select script_run_id, workflow_id, owner_id, handler_type, handler_name, '${state}', '${state === 'committed' ? 'committed' : 'pending'}',
           ${state === 'active' ? 'null' : 'now()'}, now() from public.handler_runs where id = '${rows.consumer}'`,
      consumer_phase: (state) =>
        `insert into public.handler_runs (script_run_id, workflow_id, owner_id, handler_type, handler_name, phase, status, ended_at, started_at)
         select script_run_id, workflow_id, owner_id, handler_type, handler_name, '${state}', '${state === 'committed' ? 'committed' : 'active'}',
           ${state === 'committed' ? 'now()' : 'null'}, now() from public.handler_runs where id = '${rows.consumer}'`,
      mutation: (state) =>
        `insert into public.workflow_mutations (run_id, workflow_id, owner_id, tool, params, reconcile, status, resolved_at, created_at)
         select id, workflow_id, owner_id, 'x', '{}', '{}', '${state}', ${['applied', 'failed'].includes(state) ? 'now()' : 'null'}, now()
         from public.handler_runs where id = '${rows.consumer}'`,
      event: (state) =>
        `insert into public.workflow_events (workflow_id, owner_id, topic_id, message_id, payload, status, reserved_by_run_id, created_at, updated_at)
         select workflow_id, owner_id, topic_id, 'new', '{}', '${state}', ${state === 'pending' ? 'null' : `'${rows.consumer}'`}, now(), now()
         from public.workflow_events where id = '${rows.event}'`,
      task: (state) =>
        `insert into public.workflow_tasks (workflow_id, owner_id, type, state, error, ended_at, created_at)
         select id, owner_id, 'planner', '${state}', ${state === 'error' ? `'x'` : 'null'}, ${['finished', 'error'].includes(state) ? 'now()' : 'null'}, now()
         from public.workflows where id = '${rows.workflow}'`,
    }
    for (const [machine, insert] of Object.entries(inserts)) {
      for (const { state, kind } of (machines[machine] as Machine).states) {
        const room = `
          update public.script_runs set status = 'success', result = 'completed', ended_at = now(), lease_expires_at = null where workflow_id = '${rows.workflow}';
          update public.handler_runs set status = 'committed', phase = 'committed', ended_at = now() where workflow_id = '${rows.workflow}' and status = 'active';
          delete from public.workflow_mutations`
        await trying(room, async (sql) => {
          const begun = attempt(sql, insert(state))
          if (kind === 'initial') await begun
          else
            expect(await refusal(begun), `${machine} ${state}`).toMatchObject({
              code: 'PT409',
              message: 'illegal_transition',
            })
        })
      }
    }
  })

  test('lets a retry begin at emitting, behind an outcome, and once', async () => {
    const insert = (outcome: string, retry_of: string, phase = 'emitting') =>
      `insert into public.handler_runs (script_run_id, workflow_id, owner_id, handler_type, handler_name, phase, mutation_outcome, retry_of, started_at)
       select script_run_id, workflow_id, owner_id, handler_type, handler_name, '${phase}', ${outcome}, ${retry_of}, now()
       from public.handler_runs where id = '${rows.consumer}'`
    const of = `'${rows.consumer}'`
    const ended = `update public.handler_runs set status = 'crashed', phase = 'mutated', mutation_outcome = 'success', ended_at = now()
      where id = '${rows.consumer}'`
    for (const bad of [
      insert('null', of),
      insert(`'failure'`, of),
      insert(`'success'`, 'null'),
      insert('null', of, 'pending'),
      insert(`'success'`, of, 'mutated'),
    ]) {
      await trying(ended, async (sql) => {
        expect(await refusal(attempt(sql, bad))).toMatchObject({
          code: 'PT409',
          message: 'illegal_transition',
        })
      })
    }
    await trying(ended, async (sql) => {
      await sql.unsafe(insert(`'skipped'`, of))
      await sql.unsafe(`update public.handler_runs set status = 'crashed' where retry_of = ${of}`)
      expect(await refusal(attempt(sql, insert(`'success'`, of)))).toMatchObject({
        code: '23505',
        constraint_name: 'one_retry_per_run',
      })
    })
  })

  test('keeps the end of what has ended, and an outcome, for ever', async () => {
    const run = `update public.handler_runs set %, status = 'crashed', error = 'x', ended_at = now() where id = '${rows.consumer}'`
    const behind = run.replace('%', `phase = 'mutating'`)
    for (const change of [
      `error = 'y'`,
      `error = null`,
      `error_type = 'auth'`,
      `ended_at = now() + interval '1 s'`,
      `state_after = '{}'`,
      `phase = 'emitting'`,
      `phase = 'prepared'`,
    ]) {
      await trying(behind, async (sql) => {
        expect(
          await refusal(
            attempt(sql, `update public.handler_runs set ${change} where id = '${rows.consumer}'`),
          ),
        ).toMatchObject({
          code: 'PT409',
        })
      })
    }
    // What is learned of its side effect later moves it behind that, and no further.
    await trying(behind, async (sql) => {
      const set = (change: string) =>
        attempt(sql, `update public.handler_runs set ${change} where id = '${rows.consumer}'`)
      expect(await refusal(set(`mutation_outcome = 'success'`))).toMatchObject({
        constraint_name: 'outcome_is_behind_mutating',
      })
      await set(`phase = 'mutated', mutation_outcome = 'success'`)
      for (const change of [`mutation_outcome = 'failure'`, `mutation_outcome = null`]) {
        expect(await refusal(set(change))).toMatchObject({ code: 'PT409', message: 'outcome_is_set' })
      }
      expect(await refusal(set(`phase = 'emitting'`))).toMatchObject({
        code: 'PT409',
        message: 'illegal_transition',
      })
    })
    await trying(
      `update public.workflow_mutations set status = 'applied', resolved_at = now(), result = '1' where id = '${rows.mutation}'`,
      async (sql) => {
        for (const change of [
          `result = '2'`,
          `error = 'x'`,
          `resolved_by = 'user'`,
          `resolved_at = now() + interval '1 s'`,
        ]) {
          const changed = attempt(
            sql,
            `update public.workflow_mutations set ${change} where id = '${rows.mutation}'`,
          )
          expect(await refusal(changed)).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
        }
      },
    )
    await trying(
      `update public.script_runs set status = 'failed', result = 'failed', ended_at = now(), lease_expires_at = null where id = '${rows.session}'`,
      async (sql) => {
        for (const change of [`result = 'transient'`, `error = 'x'`, `ended_at = now() + interval '1 s'`]) {
          const changed = attempt(sql, `update public.script_runs set ${change} where id = '${rows.session}'`)
          expect(await refusal(changed)).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
        }
      },
    )
  })
})

describe('the tables', () => {
  test.each([
    [
      'one_running_session_per_workflow',
      () => `insert into public.script_runs (workflow_id, owner_id, script_id, trigger, started_at)
             select workflow_id, owner_id, script_id, 'event', now() from public.script_runs where id = '${rows.session}'`,
    ],
    [
      'one_active_run_per_workflow',
      () => `insert into public.handler_runs (script_run_id, workflow_id, owner_id, handler_type, handler_name, started_at)
             select script_run_id, workflow_id, owner_id, 'producer', 'P', now() from public.handler_runs where id = '${rows.consumer}'`,
    ],
    [
      'one_mutation_per_run',
      () => `insert into public.workflow_mutations (run_id, workflow_id, owner_id, tool, params, created_at)
             select run_id, workflow_id, owner_id, 'x', '{}', now() from public.workflow_mutations where id = '${rows.mutation}'`,
    ],
    [
      'one_event_per_message',
      () => `insert into public.workflow_events (workflow_id, owner_id, topic_id, message_id, payload, created_at, updated_at)
             select workflow_id, owner_id, topic_id, message_id, '{}', now(), now() from public.workflow_events where id = '${rows.event}'`,
    ],
    [
      'reserved_names_its_run',
      () => `update public.workflow_events set reserved_by_run_id = null where id = '${rows.event}'`,
    ],
    [
      'reserved_names_its_run',
      () =>
        `update public.workflow_events set reserved_by_run_id = '${rows.consumer}' where id = '${rows.other}'`,
    ],
    [
      'committed_is_committed',
      () => `update public.handler_runs set status = 'committed' where id = '${rows.consumer}'`,
    ],
    [
      'ended_has_its_time',
      () => `update public.handler_runs set ended_at = now() where id = '${rows.consumer}'`,
    ],
    [
      'phase_is_of_its_type',
      () => `update public.handler_runs set handler_type = 'producer' where id = '${rows.consumer}'`,
    ],
    ['error_has_its_code', () => `update public.workflows set error = 'x' where id = '${rows.workflow}'`],
    [
      'active_has_a_script',
      () => `update public.workflows set active_script_id = null where id = '${rows.workflow}'`,
    ],
    [
      'ended_has_its_result',
      () => `update public.script_runs set result = 'failed' where id = '${rows.session}'`,
    ],
  ])('keep that %s', async (constraint_name, change) => {
    await trying('', async (sql) => {
      expect(await refusal(attempt(sql, change()))).toMatchObject({ constraint_name })
    })
  })

  test('are written by no role of the API, and read by their owner alone', async () => {
    const [{ owner_id }] = (await database.owner`
      select owner_id from public.workflows where id = ${rows.workflow}`) as unknown as [{ owner_id: string }]
    const tables = [
      ...[
        'workflows',
        'workflow_tasks',
        'workflow_chats',
        'workflow_messages',
        'workflow_scripts',
        'script_runs',
      ],
      ...['handler_runs', 'workflow_topics', 'workflow_events', 'workflow_mutations', 'handler_states'],
      ...['producer_schedules', 'workflow_notifications'],
    ]
    for (const table of tables) {
      for (const role of ['anon', 'authenticated', 'service_role'] as const) {
        for (const change of [
          `delete from public.${table}`,
          `update public.${table} set owner_id = owner_id`,
          `truncate public.${table}`,
        ]) {
          const done = database.as(
            role,
            { sub: owner_id },
            (sql) => sql.unsafe(change) as unknown as Promise<unknown>,
          )
          expect(await refusal(done), `${role}: ${change}`).toMatchObject({ code: '42501' })
        }
      }
      const count = (role: 'authenticated' | 'service_role', sub: string) =>
        database.as(role, { sub }, async (sql) => (await sql.unsafe(`select * from public.${table}`)).length)
      expect(await count('authenticated', randomUUID())).toBe(0)
      expect(await count('authenticated', owner_id)).toBe(await count('service_role', owner_id))
    }
    const secrets = database.as('service_role', {}, (sql) => sql`select * from private.workflow_secrets`)
    expect(await refusal(secrets)).toMatchObject({ code: '42501' })
  })

  test('let owners hear the topic of their workflow, and nobody else', async () => {
    const [{ owner_id }] = (await database.owner`
      select owner_id from public.workflows where id = ${rows.workflow}`) as unknown as [{ owner_id: string }]
    const hears = (sub: string) =>
      database.as('authenticated', { sub }, async (sql) => {
        await sql`select set_config('realtime.topic', ${`workflow:${rows.workflow}`}, true)`
        return (
          (await sql`select 1 from realtime.messages where topic = ${`workflow:${rows.workflow}`}`).length > 0
        )
      })
    expect(await hears(owner_id)).toBe(true)
    expect(await hears(randomUUID())).toBe(false)
  })
})

describe('the invariants', () => {
  const ended = (more = '') =>
    `update public.handler_runs set status = 'crashed', error = 'x', ended_at = now() ${more} where id = '${rows.consumer}'`
  test.each([
    [
      'reserved_by_nobody',
      'event',
      () => `${ended()}; update public.workflow_mutations set status = 'applied', resolved_at = now()`,
    ],
    [
      'retry_of_the_wrong_run',
      'workflow',
      () => `update public.workflows set pending_retry_run_id = '${rows.consumer}'`,
    ],
    [
      'retry_of_the_wrong_run',
      'workflow',
      () => `update public.workflows set pending_retry_run_id = '${rows.producer}'`,
    ],
    [
      'retry_of_the_wrong_run',
      'workflow',
      () => `${ended(`, phase = 'mutated', mutation_outcome = 'failure'`)}; delete from public.workflow_mutations;
        update public.workflows set pending_retry_run_id = '${rows.consumer}'`,
    ],
    [
      'unresolved_without_an_error',
      'mutation',
      () => `${ended()}; update public.workflow_mutations set status = 'indeterminate'`,
    ],
    ['in_flight_without_a_run', 'mutation', () => ended()],
    [
      'session_without_a_worker',
      'script_run',
      () => `update public.script_runs set lease_expires_at = now() - interval '61 s'`,
    ],
    [
      'ended_with_a_run_left',
      'script_run',
      () =>
        `update public.script_runs set status = 'failed', result = 'failed', ended_at = now(), lease_expires_at = null`,
    ],
    [
      'maintenance_without_a_maintainer',
      'workflow',
      () => `update public.workflows set maintenance = true, updated_at = now() - interval '6 min'`,
    ],
    ['status_and_history_disagree', 'workflow', () => `update public.workflows set status = 'disabled'`],
    [
      'history_does_not_fold',
      'workflow',
      () => `update public.status_events set from_status = 'archived' where machine = 'workflow' and seq = 2`,
    ],
    [
      'illegal_move_in_history',
      'mutation',
      () => `insert into public.status_events (machine, subject_id, seq, from_status, to_status, source, created_at)
        values ('mutation', '${rows.mutation}', 2, 'applied', 'failed', 'worker', now())`,
    ],
    [
      'seq_has_a_gap',
      'handler_run',
      () => `insert into public.status_events (machine, subject_id, seq, from_status, to_status, source, created_at)
        values ('handler_run', '${rows.consumer}', 3, 'active', 'crashed', 'worker', now())`,
    ],
  ])('tell of %s (%s)', async (violation, machine, change) => {
    await trying('', async (sql) => {
      expect(await sql`select * from public.invariant_violations`).toEqual([])
    })
    await trying(change(), async (sql) => {
      const found = await sql`select violation, machine from public.invariant_violations`
      expect(found).toContainEqual({ violation, machine })
    })
  })
})
