import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { rpc } from '../support/rpc.ts'
import {
  activeWorkflow,
  draftWorkflow,
  type Json,
  readyWorkflow,
  workflowOf,
} from '../support/workflow_steps.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

const statuses = ['draft', 'active', 'disabled', 'archived'] as const
const events = ['none', 'open', 'acknowledged', 'resolved'] as const
const actions = {
  draft: ['talk', 'archive'],
  ready: ['activate', 'test', 'talk', 'archive'],
  active: ['pause', 'test', 'talk'],
  paused: ['resume', 'talk', 'archive'],
  error: ['view', 'retry', 'acknowledge', 'talk', 'pause'],
  fixing: ['wait', 'pause'],
  archived: ['unarchive'],
}

type Cell = {
  status: (typeof statuses)[number]
  error: boolean
  event: (typeof events)[number]
  maintenance: boolean
  script: boolean
}

/** What the specification says, read from top to bottom. */
function expected({ status, error, event, maintenance, script }: Cell): keyof typeof actions {
  if (status === 'archived') return 'archived'
  if (maintenance) return 'fixing'
  if (error || event === 'open') return 'error'
  if (status === 'disabled') return 'paused'
  if (status === 'active') return 'active'
  return script ? 'ready' : 'draft'
}

test('every combination of what its owner wants and what the system found is shown as one state', async () => {
  const cells: Cell[] = statuses.flatMap((status) =>
    events.flatMap((event) =>
      [true, false].flatMap((error) =>
        [true, false].flatMap((maintenance) =>
          (status === 'draft' ? [true, false] : [true]).map((script) => ({
            ...{ status, error, event, maintenance, script },
          })),
        ),
      ),
    ),
  )
  const drafts = new Map<Cell, string>()
  for (const cell of cells) {
    const made = cell.script ? await readyWorkflow(database.owner) : await draftWorkflow(database.owner)
    drafts.set(cell, made.workflow_id)
  }
  await database.superuser.begin(async (sql) => {
    // As rows that came about somehow: no guard, no history of the way there.
    await sql`set local session_replication_role = replica`
    for (const [{ status, error, event, maintenance }, id] of drafts) {
      await sql`
        update public.workflows w set status = ${status}, maintenance = ${maintenance},
          error = ${error ? 'No.' : null}, error_code = ${error ? 'INTERNAL' : null}, error_at = ${error ? new Date() : null},
          active_script_id = (select s.id from public.workflow_scripts s where s.workflow_id = w.id)
        where id = ${id}`
      if (event !== 'none')
        await sql`
          insert into public.workflow_messages
            (workflow_id, owner_id, role, type, content, created_at, acknowledged_at, resolved_at)
          select id, owner_id, 'event', 'error', 'No.', now(), ${event === 'acknowledged' ? new Date() : null},
            ${event === 'resolved' ? new Date() : null}
          from public.workflows where id = ${id}`
    }
  })
  const rows = await database.owner`select * from public.workflow_states`
  const shown = new Map(rows.map((row) => [row.workflow_id as string, row]))
  for (const [cell, id] of drafts) {
    const state = expected(cell)
    expect(shown.get(id), JSON.stringify(cell)).toMatchObject({
      state,
      status: cell.status,
      actions: actions[state],
    })
    expect(await workflowOf(database.owner, { workflow_id: id }), JSON.stringify(cell)).toMatchObject({
      ...{ state, actions: actions[state] },
    })
  }
  for (const state of Object.keys(actions)) {
    const { items } = await rpc<Json>(database.owner, 'list_workflows', { state, max_rows: 200 })
    const wanted = cells.filter((cell) => expected(cell) === state)
    expect(items.length, state).toBe(wanted.length)
    expect(new Set(items.map((item: Json) => item.state))).toEqual(new Set([state]))
  }
  // Nothing else of this file is to stumble over them.
  await database.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`delete from public.workflow_messages`
    await sql`delete from public.workflow_tasks`
    await sql`update public.workflows set active_script_id = null, status = 'draft'`
    await sql`delete from public.workflow_scripts`
    await sql`delete from public.workflow_chats`
    await sql`delete from public.workflows`
    await sql`delete from public.status_events`
  })
})

describe('what is shown', () => {
  const pushed = async (workflow_id: string): Promise<Json[]> =>
    (
      await database.superuser`
        select payload from realtime.messages
        where topic = ${`workflow:${workflow_id}`} and event = 'state_changed' order by (payload ->> 'version')::int`
    ).map(({ payload }) => payload)

  test('is pushed with each change of error, maintenance or active script, with a version that rises', async () => {
    const workflow = await activeWorkflow(database.owner)
    const { workflow_id } = workflow
    await database.owner`
      select private.set_workflow_error(${workflow_id}, 'INTERNAL', 'Internal error', 'producer', null)`
    await rpc(database.owner, 'resume_workflow', { workflow_id })
    await database.owner`update public.workflows set maintenance = true where id = ${workflow_id}`
    await rpc(database.owner, 'activate_workflow', { workflow_id })
    await rpc(database.owner, 'pause_workflow', { workflow_id })
    const all = await pushed(workflow_id)
    expect(all.map(({ state }) => state)).toEqual([
      'ready',
      'active',
      'error',
      'active',
      'fixing',
      'active',
      'paused',
    ])
    const versions = all.map(({ version }) => version)
    expect(versions).toEqual([...new Set(versions)].toSorted((a, b) => a - b))
    expect(versions.at(-1)).toBe((await workflowOf(database.owner, workflow)).version)
  })

  test('does not change with what a claim, a back-off or a request writes', async () => {
    const workflow = await activeWorkflow(database.owner)
    const { workflow_id } = workflow
    const before = (await pushed(workflow_id)).length
    const { version } = await workflowOf(database.owner, workflow)
    await rpc(database.owner, 'request_run', { workflow_id })
    await database.owner`
      update public.workflows set backoff_until = now(), transient_failures = 1, next_due_at = now() where id = ${workflow_id}`
    await database.owner`select private.refresh_due(${workflow_id})`
    expect(await pushed(workflow_id)).toHaveLength(before)
    expect((await workflowOf(database.owner, workflow)).version).toBe(version)
    await rpc(database.owner, 'pause_workflow', { workflow_id })
  })

  test('is seen by its owner and by operators alone', async () => {
    const workflow = await readyWorkflow(database.owner)
    const states = (claims: { sub: string; [claim: string]: unknown }) =>
      database.as(
        'authenticated',
        claims,
        (sql) => sql`select * from public.workflow_states where workflow_id = ${workflow.workflow_id}`,
      )
    expect(await states({ sub: workflow.owner_id })).toMatchObject([
      { state: 'ready', owner_id: workflow.owner_id },
    ])
    expect(await states({ sub: randomUUID() })).toEqual([])
    expect(await states({ sub: randomUUID(), app_metadata: { rollcall: 'operator' } })).toHaveLength(1)
  })
})
