import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'
import { config, everything } from '../support/workflows.ts'

// biome-ignore lint/suspicious/noExplicitAny: the cells are read from a file
type Json = any
type Cell = { id: string; given: Json; call: Json; expect: Json }

const { cases: cells } = JSON.parse(
  readFileSync(new URL('../cases/handler_run_status.json', import.meta.url), 'utf8'),
) as { cases: Cell[] }

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

/** Writes the state that a cell begins from, with a history that fits. */
async function fixture({ workflow, session, run, mutation, events }: Json): Promise<Json> {
  const named = { workflow: randomUUID(), S1: randomUUID(), R1: randomUUID(), mutation: randomUUID() }
  const owner_id = randomUUID()
  const script_id = randomUUID()
  const topic_id = randomUUID()
  const ids: Record<string, string> = { ...named, ...of(Object.keys(events), () => randomUUID()) }
  const moves: [string, string, string[]][] = [
    ['workflow', named.workflow, ['draft', 'active']],
    ['script_run', named.S1, ['running']],
    ['handler_run', named.R1, ['active']],
  ]
  if (mutation) {
    const path = mutation.status === 'in_flight' ? ['in_flight'] : ['in_flight', mutation.status]
    moves.push(['mutation', named.mutation, path])
  }
  await database.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`
      insert into public.workflow_scripts (id, workflow_id, owner_id, major, minor, code, config, created_at)
      values (${script_id}, ${named.workflow}, ${owner_id}, 1, 0, 'workflow = {}', ${sql.json(config)}, now())`
    await sql`
      insert into public.workflows (id, owner_id, title, status, status_seq, status_updated_at, version, error, error_code, error_at,
        maintenance, maintenance_fix_count, pending_retry_run_id, active_script_id, created_at, updated_at)
      values (${named.workflow}, ${owner_id}, 'Orders', ${workflow.status}, 2, now(), 2, ${workflow.error},
        ${workflow.error && 'X'}, ${workflow.error && sql`now()`}, ${workflow.maintenance},
        ${workflow.maintenance_fix_count}, ${workflow.pending_retry_run_id}, ${script_id}, now(), now())`
    await sql`
      insert into public.script_runs (id, workflow_id, owner_id, script_id, trigger, status, version, cost_microusd, handler_run_count, started_at)
      values (${named.S1}, ${named.workflow}, ${owner_id}, ${script_id}, 'schedule', ${session.status}, 1,
        ${session.cost}, ${session.handler_run_count}, now())`
    await sql`
      insert into public.handler_runs (id, script_run_id, workflow_id, owner_id, handler_type, handler_name, phase, status, version,
        mutation_outcome, cost_microusd, started_at)
      values (${named.R1}, ${named.S1}, ${named.workflow}, ${owner_id}, ${run.handler_type}, ${run.handler_name}, ${run.phase},
        ${run.status}, 1, ${run.mutation_outcome}, ${run.cost}, now())`
    await sql`
      insert into public.workflow_topics (id, workflow_id, owner_id, name, created_at)
      values (${topic_id}, ${named.workflow}, ${owner_id}, 't', now())`
    for (const [message_id, event] of Object.entries<Json>(events)) {
      await sql`
        insert into public.workflow_events (id, workflow_id, owner_id, topic_id, message_id, payload, status, reserved_by_run_id,
          attempt_number, created_at, updated_at)
        values (${ids[message_id] as string}, ${named.workflow}, ${owner_id}, ${topic_id}, ${message_id}, '{}', ${event.status},
          ${event.reserved_by && (ids[event.reserved_by] as string)}, ${event.attempt}, now(), now())`
    }
    for (const [type, name] of [
      ['producer', 'P'],
      ['consumer', 'C'],
    ] as const) {
      await sql`
        insert into public.handler_states (workflow_id, owner_id, handler_type, handler_name, updated_at)
        values (${named.workflow}, ${owner_id}, ${type}, ${name}, now())`
    }
    if (mutation) {
      const settled = ['applied', 'failed'].includes(mutation.status)
      await sql`
        insert into public.workflow_mutations (id, run_id, workflow_id, owner_id, tool, params, status, version, resolved_by, resolved_at, created_at)
        values (${named.mutation}, ${named.R1}, ${named.workflow}, ${owner_id}, 'Http.send', '{}', ${mutation.status},
          ${mutation.status === 'in_flight' ? 1 : 2}, ${mutation.resolved_by}, ${settled ? sql`now()` : null}, now())`
    }
    for (const [machine, subject_id, path] of moves) {
      for (const [i, to_status] of path.entries()) {
        await sql`
          insert into public.status_events (machine, subject_id, owner_id, seq, from_status, to_status, source, created_at)
          values (${machine}, ${subject_id}, ${owner_id}, ${i + 1}, ${path[i - 1] ?? null}, ${to_status}, 'worker', now())`
      }
    }
  })
  return ids
}

function of<T>(keys: string[], make: () => T): Record<string, T> {
  return Object.fromEntries(keys.map((key) => [key, make()]))
}

/** The state in the words of the cells. */
async function stateOf(ids: Record<string, string>, events: string[]): Promise<Json> {
  const named = Object.fromEntries(Object.entries(ids).map(([name, id]) => [id, name]))
  const name = (id: string | null) => id && named[id]
  const sql = database.owner
  const [workflow] = await sql`select * from public.workflows where id = ${ids.workflow as string}`
  const [session] = await sql`select * from public.script_runs where id = ${ids.S1 as string}`
  const [run] = await sql`select * from public.handler_runs where id = ${ids.R1 as string}`
  const rows = await sql`select * from public.workflow_events where workflow_id = ${ids.workflow as string}`
  const notes = await sql`
    select * from public.workflow_notifications where workflow_id = ${ids.workflow as string} and resolved_at is null`
  return {
    run: {
      phase: run?.phase,
      status: run?.status,
      mutation_outcome: run?.mutation_outcome,
      error: run?.error,
      error_type: run?.error_type,
      ended: run?.ended_at !== null,
    },
    events: Object.fromEntries(
      events.map((message_id) => {
        const event = rows.find((row) => row.message_id === message_id)
        return [
          message_id,
          {
            status: event?.status,
            reserved_by: name(event?.reserved_by_run_id),
            attempt: event?.attempt_number,
          },
        ]
      }),
    ),
    session: {
      ended: session?.ended_at !== null,
      error: session?.error,
      error_type: session?.error_type,
      cost: Number(session?.cost_microusd),
      handler_run_count: session?.handler_run_count,
      status: session?.status,
    },
    workflow: {
      status: workflow?.status,
      error: workflow?.error,
      maintenance: workflow?.maintenance,
      maintenance_fix_count: workflow?.maintenance_fix_count,
      pending_retry_run_id: name(workflow?.pending_retry_run_id),
    },
    notification: notes.length,
  }
}

describe('update_handler_run_status', () => {
  test.each(cells)('$id: $given.run.handler_type at $given.run.phase, $call.status', async (cell) => {
    const ids = await fixture(cell.given)
    const before = await everything(database.superuser)
    const { status, error, error_type } = cell.call
    const call = rpc(database.owner, cell.call.op, {
      run_id: ids[cell.call.run],
      status,
      error,
      error_type,
    })
    if (cell.expect.raises) {
      expect(await refusal(call)).toMatchObject({ code: 'PT409', message: cell.expect.raises })
      expect(await everything(database.superuser)).toEqual(before)
      // What can not be is ended as it can, so that the invariants are judged of all.
      await rpc(database.owner, cell.call.op, { run_id: ids[cell.call.run], status: 'crashed' })
      return
    }
    expect(await call).toMatchObject({ ok: true, changed: true, status })
    expect(await stateOf(ids, Object.keys(cell.given.events))).toEqual(cell.expect)
    // Again it is no error and changes nothing.
    const after = await everything(database.superuser)
    const again = { run_id: ids[cell.call.run], status, error, error_type }
    expect(await rpc(database.owner, cell.call.op, again)).toMatchObject({
      ok: true,
      changed: false,
      result: 'unchanged',
    })
    expect(await everything(database.superuser)).toEqual(after)
  })
})
