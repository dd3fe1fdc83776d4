import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { claimSession, playProducer, playToEnd, playUntilSent } from '../support/played_sessions.ts'
import { refusal, rpc } from '../support/rpc.ts'

type Page = {
  events: { id: number; machine: string; to_status: string; cursor: string }[]
  next: string
  has_more: boolean
  reset: boolean
  state: string
  version: number
}

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database?.drop())

const config = {
  topics: ['items'],
  producers: { make: { schedule: { interval: '1d' }, publishes: ['items'] } },
  consumers: { send: { subscribe: ['items'], publishes: [], has_mutate: true, has_next: true } },
}

const read = (sub: string, args: Record<string, unknown>, claims: object = {}) =>
  database.as('authenticated', { sub, ...claims }, (sql) => rpc<Page>(sql, 'workflow_changes', args))

async function workflowOf(owner_id: string): Promise<string> {
  const args = { owner_id, title: 'Sending', code: 'workflow = {}', config }
  return (await rpc<{ id: string }>(database.owner, 'create_workflow', args)).id
}

/** One session of eight transitions. */
async function play(workflow_id: string, item: string): Promise<void> {
  await rpc(database.owner, 'request_run', { workflow_id })
  const session = await claimSession(database.owner, workflow_id)
  await playProducer(database.owner, session, item)
  await playToEnd(database.owner, session, await playUntilSent(database.owner, session, item))
}

test('pages of a workflow hold everything under it once and in order, and the state comes with the last', async () => {
  const owner_id = randomUUID()
  const workflow_id = await workflowOf(owner_id)
  // Of the same owner, and not asked for.
  await play(await workflowOf(owner_id), 'other')
  await play(workflow_id, 'item-1')
  const pages: Page[] = []
  let after: string | null = null
  do {
    const page: Page = await read(owner_id, { workflow_id, after, max_rows: 4 })
    pages.push(page)
    after = page.next
    // What happens meanwhile comes behind what was there.
    if (pages.length === 1) await play(workflow_id, 'item-2')
  } while (pages.at(-1)?.has_more)
  const events = pages.flatMap((page) => page.events)
  expect(events.map(({ machine, to_status }) => `${machine} ${to_status}`)).toEqual([
    'workflow draft',
    ...[1, 2].flatMap(() => [
      'script_run running',
      'handler_run active',
      'handler_run committed',
      'handler_run active',
      'mutation in_flight',
      'mutation applied',
      'handler_run committed',
      'script_run success',
    ]),
  ])
  const ids = events.map(({ id }) => id)
  expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b))
  expect(pages.at(-1)).toMatchObject({ state: 'ready', reset: false })
  expect(await read(owner_id, { workflow_id, after })).toMatchObject({ events: [], has_more: false })
})

test('each event has the cursor that reads on behind it, and max_rows 0 gives one of now', async () => {
  const owner_id = randomUUID()
  const workflow_id = await workflowOf(owner_id)
  const now = await read(owner_id, { workflow_id, max_rows: 0 })
  expect(now).toMatchObject({ events: [], has_more: false, state: 'ready' })
  await play(workflow_id, 'item-1')
  const { events } = await read(owner_id, { workflow_id, after: now.next })
  expect(events).toHaveLength(8)
  for (const [i, { cursor }] of events.entries()) {
    const rest: number[] = []
    let after: string = cursor
    for (let more = true; more; ) {
      const page = await read(owner_id, { workflow_id, after, max_rows: 3 })
      rest.push(...page.events.map(({ id }) => id))
      after = page.next
      more = page.has_more
    }
    expect(rest).toEqual(events.slice(i + 1).map(({ id }) => id))
  }
})

test('is for whoever may see the workflow', async () => {
  const owner_id = randomUUID()
  const workflow_id = await workflowOf(owner_id)
  const stranger = randomUUID()
  const operator = { app_metadata: { rollcall: 'operator' } }
  expect((await read(stranger, { workflow_id }, operator)).events).toHaveLength(1)
  const admin = await database.as('service_role', {}, (sql) =>
    rpc<Page>(sql, 'workflow_changes', { workflow_id, owner_id }),
  )
  expect(admin.events).toHaveLength(1)
  for (const [sub, args, claims] of [
    [stranger, { workflow_id }, {}],
    [stranger, { workflow_id, owner_id }, {}],
    [stranger, { workflow_id, owner_id: stranger }, operator],
    [owner_id, { workflow_id: randomUUID() }, {}],
  ] as const) {
    expect(await refusal(read(sub, args, claims))).toMatchObject({
      code: 'PT404',
      message: 'workflow_not_found',
    })
  }
  for (const args of [{ after: 'x' }, { after: '' }, { max_rows: -1 }, { max_rows: 1001 }]) {
    expect(await refusal(read(owner_id, { workflow_id, ...args }))).toMatchObject({
      code: 'PT422',
      message: 'invalid_request',
    })
  }
  expect(await read(owner_id, { workflow_id, after: '999999999:999999999:' })).toMatchObject({ reset: true })
})

test('of a workflow with a long past is read on from what is new alone', async () => {
  const owner_id = randomUUID()
  const workflow_id = await workflowOf(owner_id)
  await play(workflow_id, 'item-1')
  await database.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`
      insert into public.script_runs (workflow_id, owner_id, script_id, trigger, status, version, result, started_at, ended_at)
      select s.workflow_id, s.owner_id, s.script_id, 'schedule', 'success', 2, 'completed', s.started_at, s.ended_at
      from public.script_runs s, generate_series(1, 20000) where s.workflow_id = ${workflow_id}`
    await sql`
      insert into public.status_events (machine, subject_id, owner_id, seq, from_status, to_status, source, created_at)
      select 'script_run', s.id, s.owner_id, n, case n when 2 then 'running' end,
        case n when 1 then 'running' else 'success' end, 'worker', s.started_at
      from public.script_runs s, generate_series(1, 2) n
      where s.workflow_id = ${workflow_id}
        and not exists (select from public.status_events e where e.subject_id = s.id)`
    await sql`analyze public.script_runs, public.status_events`
  })
  const { next } = await read(owner_id, { workflow_id, max_rows: 0 })
  await rpc(database.owner, 'archive_workflow', { workflow_id })
  const buffersOf = (after: string | null, max_rows: number) =>
    database.as('authenticated', { sub: owner_id }, async (sql) => {
      const query = 'explain (analyze, buffers, format json) select public.workflow_changes($1, $2, $3)'
      const [row] = await sql.unsafe(query, [workflow_id, after, max_rows])
      const plan = row?.['QUERY PLAN'][0].Plan
      return plan['Shared Hit Blocks'] + plan['Shared Read Blocks']
    })
  expect(await buffersOf(next, 100)).toBeLessThan(1000)
  expect((await read(owner_id, { workflow_id, after: next })).events).toMatchObject([
    { machine: 'workflow', to_status: 'archived' },
  ])
  expect((await read(owner_id, { workflow_id, max_rows: 500 })).events).toHaveLength(500)
  // Not a look-up for each session, of which there are 20,000.
  expect(await buffersOf(null, 500)).toBeLessThan(5000)
})
