import { randomUUID } from 'node:crypto'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { createRollcall, type Rollcall, type WorkflowChange } from '../../src/index.ts'
import {
  claimSession,
  playProducer,
  playToEnd,
  playUncertain,
  playUntilSent,
} from '../support/played_sessions.ts'
import { type Project, startProject, type User } from '../support/project.ts'
import { idle_script, sendingScript } from '../support/scripts.ts'

let project: Project
let user: User
let client: SupabaseClient
let rollcall: Rollcall
/** What a test watches ends with it. */
let over: AbortController

beforeAll(async () => {
  project = await startProject()
  // Nobody works: the test plays the worker.
  await project.wakes(null)
  user = await project.user()
  client = clientOf(user)
  rollcall = createRollcall(client)
})

beforeEach(() => {
  over = new AbortController()
})

afterEach(async () => {
  over.abort()
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
})

afterAll(async () => {
  await client?.realtime.disconnect()
  await project?.close()
})

function clientOf({ token }: User): SupabaseClient {
  return createClient(project.stack.api_url, project.stack.publishable_key, {
    accessToken: async () => token,
  })
}

/** What a watch yields, while it goes on and when it has ended. */
function collect(changes: AsyncIterable<WorkflowChange>): {
  seen: WorkflowChange[]
  ended: Promise<WorkflowChange[]>
} {
  const seen: WorkflowChange[] = []
  const ended = (async () => {
    for await (const change of changes) seen.push(change)
    return seen
  })()
  ended.catch(() => {})
  return { seen, ended }
}

const transitions = (changes: readonly WorkflowChange[]) =>
  changes.flatMap((change) => (change.machine === 'state' ? [] : [change]))
const words = (changes: readonly WorkflowChange[]) =>
  changes.map(({ machine, from, to }) => `${machine} ${from ?? ''}>${to}`)
const states = (changes: readonly WorkflowChange[]) =>
  changes.flatMap((change) => (change.machine === 'state' ? [change.to] : []))

/** What the history has of a workflow and everything under it. */
async function truth(workflow_id: string): Promise<number[]> {
  const rows = await project.sql<{ id: string }[]>`
    select e.id from public.status_events e
    where e.subject_id in (
      select ${workflow_id}::uuid
      union all select s.id from public.script_runs s where s.workflow_id = ${workflow_id}
      union all select r.id from public.handler_runs r where r.workflow_id = ${workflow_id}
      union all select m.id from public.workflow_mutations m where m.workflow_id = ${workflow_id})
    order by e.id`
  return rows.map(({ id }) => Number(id))
}

async function sending(): Promise<string> {
  const code = sendingScript('https://example.com/hook')
  const { workflow_id } = await rollcall.workflows.create({ title: 'Sending', code })
  return workflow_id
}

/** One session: an item is published, sent and done with. */
async function playWhole(workflow_id: string, item: string): Promise<void> {
  await rollcall.workflows.run(workflow_id)
  const session = await claimSession(project.sql, workflow_id)
  await playProducer(project.sql, session, item)
  await playToEnd(project.sql, session, await playUntilSent(project.sql, session, item))
}

const one_session = [
  'script_run >running',
  'handler_run >active',
  'handler_run active>committed',
  'handler_run >active',
  'mutation >in_flight',
  'mutation in_flight>applied',
  'handler_run active>committed',
  'script_run running>success',
]

describe('watch', () => {
  test('yields every transition of the workflow and of what it did, once and in order, and what is shown', async () => {
    const workflow_id = await sending()
    const watched = collect(rollcall.workflows.watch(workflow_id, { signal: over.signal }))
    await vi.waitFor(() => expect(states(watched.seen)).toEqual(['ready']))
    await rollcall.workflows.activate(workflow_id)
    await vi.waitFor(() => expect(states(watched.seen)).toEqual(['ready', 'active']), 5000)
    await playWhole(workflow_id, 'item-1')
    await rollcall.workflows.pause(workflow_id)
    await vi.waitFor(() => expect(states(watched.seen).at(-1)).toBe('paused'), 5000)
    expect(words(transitions(watched.seen))).toEqual([
      'workflow >draft',
      'workflow draft>active',
      ...one_session,
      'workflow active>disabled',
    ])
    expect(transitions(watched.seen).map(({ id }) => id)).toEqual(await truth(workflow_id))
    over.abort(new Error('enough'))
    await expect(watched.ended).rejects.toThrow('enough')
  })

  test('misses and doubles nothing while many sessions go by, and over two watches of it', async () => {
    const workflow_id = await sending()
    const watches = [1, 2].map(() => collect(rollcall.workflows.watch(workflow_id, { signal: over.signal })))
    await vi.waitFor(() => expect(watches.map(({ seen }) => states(seen))).toEqual([['ready'], ['ready']]))
    for (let i = 0; i < 20; i++) await playWhole(workflow_id, `item-${i}`)
    const ids = await truth(workflow_id)
    expect(ids).toHaveLength(1 + 20 * one_session.length)
    for (const { seen } of watches) {
      await vi.waitFor(() => expect(transitions(seen).map(({ id }) => id)).toEqual(ids), 10_000)
    }
  })

  test('of two workflows sees of each its own, over one channel', async () => {
    const ids = [await sending(), await sending()]
    const watches = ids.map((id) => collect(rollcall.workflows.watch(id, { signal: over.signal })))
    await vi.waitFor(
      () => expect(watches.map(({ seen }) => states(seen))).toEqual([['ready'], ['ready']]),
      5000,
    )
    for (let i = 0; i < 3; i++) for (const id of ids) await playWhole(id, `item-${i}`)
    for (const [i, id] of ids.entries()) {
      const wanted = await truth(id)
      await vi.waitFor(
        () => expect(transitions(watches[i]?.seen ?? []).map((change) => change.id)).toEqual(wanted),
        10_000,
      )
    }
    expect(client.getChannels().map(({ topic }) => topic)).toEqual([`realtime:owner:${user.id}`])
  })

  test('goes on behind a change that was handled, and from now on', async () => {
    const workflow_id = await sending()
    await playWhole(workflow_id, 'item-1')
    const watchFor = async (count: number, after?: string) => {
      const until = new AbortController()
      const watched = collect(rollcall.workflows.watch(workflow_id, { after, signal: until.signal }))
      await vi.waitFor(() => expect(watched.seen.length).toBeGreaterThanOrEqual(count), 5000)
      until.abort()
      await watched.ended.catch(() => {})
      return watched.seen
    }
    const all = await watchFor(2 + one_session.length)
    expect(words(transitions(all))).toEqual(['workflow >draft', ...one_session])
    const rest = await watchFor(4, transitions(all)[5]?.cursor)
    expect(transitions(rest).map(({ id }) => id)).toEqual(
      transitions(all)
        .slice(6)
        .map(({ id }) => id),
    )
    expect(words(await watchFor(1, 'now'))).toEqual(['state >ready'])
  })

  test('shows an error and its end', async () => {
    const workflow_id = await sending()
    const watched = collect(rollcall.workflows.watch(workflow_id, { after: 'now', signal: over.signal }))
    await vi.waitFor(() => expect(states(watched.seen)).toEqual(['ready']))
    await rollcall.workflows.run(workflow_id)
    const session = await claimSession(project.sql, workflow_id)
    await playProducer(project.sql, session, 'item-1')
    const { run_id, mutation_id } = await playUntilSent(project.sql, session, 'item-1')
    await playUncertain(project.sql, session, run_id)
    const stopped = await rollcall.workflows.wait(workflow_id, 'error', { timeout_ms: 10_000 })
    expect(stopped).toMatchObject({ unresolved_mutation: { id: mutation_id } })
    await rollcall.workflows.resolve(workflow_id, mutation_id, 'skipped')
    await vi.waitFor(() => expect(states(watched.seen)).toEqual(['ready', 'error', 'ready']), 5000)
    expect(words(watched.seen)).toContain('mutation indeterminate>failed')
    await rollcall.workflows.archive(workflow_id)
  })

  test('leaving the loop, and the signal, free the channel', async () => {
    const workflow_id = await sending()
    for await (const _ of rollcall.workflows.watch(workflow_id)) break
    await expect.poll(() => client.getChannels()).toEqual([])
    const watched = collect(rollcall.workflows.watch(workflow_id, { signal: over.signal }))
    await vi.waitFor(() =>
      expect(client.getChannels().map(({ topic }) => topic)).toEqual([`realtime:workflow:${workflow_id}`]),
    )
    over.abort()
    await expect(watched.ended).rejects.toThrow()
    await expect.poll(() => client.getChannels()).toEqual([])
  })

  test("of what does not exist, or is somebody else's, ends alone", async () => {
    const workflow_id = await sending()
    const mine = collect(rollcall.workflows.watch(workflow_id, { signal: over.signal }))
    await expect(collect(rollcall.workflows.watch('nonsense')).ended).rejects.toMatchObject({
      status: 422,
      code: 'invalid_request',
    })
    await expect(collect(rollcall.workflows.watch(randomUUID())).ended).rejects.toMatchObject({
      status: 404,
      code: 'workflow_not_found',
    })
    await expect(collect(rollcall.workflows.watch(workflow_id, { after: 'x' })).ended).rejects.toMatchObject({
      status: 422,
    })
    const stranger = clientOf(await project.user())
    await expect(collect(createRollcall(stranger).workflows.watch(workflow_id)).ended).rejects.toMatchObject({
      status: 404,
      code: 'workflow_not_found',
    })
    await stranger.realtime.disconnect()
    await rollcall.workflows.activate(workflow_id)
    await vi.waitFor(() => expect(states(mine.seen).at(-1)).toBe('active'), 5000)
    await rollcall.workflows.pause(workflow_id)
  })

  test('with a secret key follows the workflow of the owner it names', async () => {
    const workflow_id = await sending()
    const admin = createClient(project.stack.api_url, project.stack.secret_key, {
      auth: { persistSession: false, autoRefreshToken: false },
    })
    const backend = createRollcall(admin, { owner_id: user.id })
    const watched = collect(backend.workflows.watch(workflow_id, { signal: over.signal }))
    await vi.waitFor(() => expect(words(watched.seen)).toEqual(['workflow >draft', 'state >ready']), 5000)
    await backend.workflows.archive(workflow_id)
    await vi.waitFor(() => expect(states(watched.seen).at(-1)).toBe('archived'), 5000)
    await admin.realtime.disconnect()
  })
})

test('every call of a workflow does what it says', async () => {
  const { workflows } = rollcall
  const made = await workflows.create(
    { title: 'Resting', code: idle_script, time_zone: 'Europe/Berlin' },
    { idempotency_key: 'once' },
  )
  const { workflow_id } = made
  const again = await workflows.create(
    { title: 'Resting', code: idle_script, time_zone: 'Europe/Berlin' },
    { idempotency_key: 'once' },
  )
  expect(again.workflow_id).toBe(workflow_id)
  expect(await workflows.get(workflow_id)).toMatchObject({
    state: 'ready',
    time_zone: 'Europe/Berlin',
    scripts: [{ version: '1.0' }],
  })
  const { items } = await workflows.list({ state: 'ready', limit: 1 })
  expect(items).toMatchObject([{ workflow_id }])
  const saved = await workflows.save_script(workflow_id, { code: `${idle_script};`, comment: 'a semicolon' })
  expect((await workflows.scripts(workflow_id)).items.map(({ version }) => version)).toEqual(['2.0', '1.0'])
  expect(await workflows.get_script(workflow_id, saved.script_id)).toMatchObject({ code: `${idle_script};` })
  await expect(workflows.save_script(workflow_id, { code: 'workflow = 1' })).rejects.toMatchObject({
    status: 422,
    details: { issues: [{ path: expect.stringMatching(/^code/) }] },
  })
  expect(await workflows.set_secret(workflow_id, 'TOKEN', 'x')).toMatchObject({ secret_names: ['TOKEN'] })
  expect(await workflows.set_secret(workflow_id, 'TOKEN', null)).toMatchObject({ secret_names: [] })
  expect(await workflows.activate(workflow_id, { script_id: saved.script_id })).toMatchObject({
    state: 'active',
    active_script_id: saved.script_id,
  })
  expect(await workflows.update(workflow_id, { title: 'At rest', time_zone: 'Asia/Tokyo' })).toMatchObject({
    title: 'At rest',
    time_zone: 'Asia/Tokyo',
  })
  expect(await workflows.pause(workflow_id)).toMatchObject({ state: 'paused' })
  expect(await workflows.resume(workflow_id)).toMatchObject({ state: 'active' })
  expect(await workflows.retry(workflow_id)).toMatchObject({ state: 'active' })
  await workflows.pause(workflow_id)
  expect(await workflows.archive(workflow_id)).toMatchObject({ state: 'archived' })
  expect(await workflows.unarchive(workflow_id)).toMatchObject({ state: 'paused' })
  expect(await workflows.talk(workflow_id, 'Do it twice a day.')).toMatchObject({
    task_id: expect.any(String),
  })
  expect((await workflows.messages(workflow_id)).items).toContainEqual(
    expect.objectContaining({ content: 'Do it twice a day.' }),
  )
  expect(await workflows.runs(workflow_id)).toEqual({ items: [], next_cursor: null })
  await expect(workflows.get_run(workflow_id, randomUUID())).rejects.toMatchObject({ status: 404 })
  await expect(workflows.acknowledge(workflow_id, randomUUID())).rejects.toMatchObject({ status: 404 })
  await expect(workflows.acknowledge_notification(workflow_id, randomUUID())).rejects.toMatchObject({
    code: 'notification_not_found',
  })
  await expect(workflows.wait(workflow_id, 'active', { timeout_ms: 50 })).rejects.toMatchObject({
    status: 408,
    code: 'timeout',
  })
  await expect(workflows.get('nonsense')).rejects.toMatchObject({ status: 404, code: 'workflow_not_found' })
})
