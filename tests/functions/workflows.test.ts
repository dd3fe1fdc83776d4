import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { WholeWorkflowRun, WorkflowRunList } from '../../src/contract/workflow_runs.ts'
import {
  AddedMessage,
  SavedScript,
  Script,
  ScriptList,
  SecretNames,
  WorkflowMessageList,
} from '../../src/contract/workflow_texts.ts'
import { NewWorkflow, WholeWorkflow, Workflow, WorkflowList } from '../../src/contract/workflows.ts'
import { claimSession, playProducer, playUncertain, playUntilSent } from '../support/played_sessions.ts'
import { type CallInit, type Project, startProject, type User } from '../support/project.ts'
import { idle_script, sendingScript } from '../support/scripts.ts'

let project: Project
let user: User
let stranger: User

beforeAll(async () => {
  project = await startProject()
  // Nobody works: what a test needs of a worker it does itself.
  await project.wakes(null)
  user = await project.user()
  stranger = await project.user()
})
afterEach(async () => {
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
})
afterAll(() => project?.close())

const post = (path: string, body?: unknown, more: CallInit = {}) =>
  project.call(`/workflows${path}`, {
    method: 'POST',
    as: user,
    ...(body === undefined ? {} : { body }),
    ...more,
  })
const patch = (path: string, body: unknown, more: CallInit = {}) =>
  project.call(`/workflows${path}`, { method: 'PATCH', as: user, body, ...more })
const get = (path: string, more: CallInit = {}) => project.call(`/workflows${path}`, { as: user, ...more })
const created = async (more: CallInit = {}, code = idle_script): Promise<NewWorkflow> => {
  const reply = await post('', { title: 'Resting', code }, more)
  expect(reply.status, JSON.stringify(reply.body)).toBe(201)
  return NewWorkflow.parse(reply.body)
}

/** A workflow whose send may have happened: it stands still until somebody says what became of it. */
async function uncertain(): Promise<{ workflow_id: string; mutation_id: string; run_id: string }> {
  const { workflow_id } = await created({}, sendingScript('https://example.com/hook', { reconcile: true }))
  expect((await post(`/${workflow_id}/activate`)).status).toBe(200)
  const session = await claimSession(project.sql, workflow_id)
  await playProducer(project.sql, session, 'item-1')
  const { run_id, mutation_id } = await playUntilSent(project.sql, session, 'item-1')
  await playUncertain(project.sql, session, run_id)
  return { workflow_id, mutation_id, run_id }
}

describe('a workflow', () => {
  test('is made from a script, read and listed by its owner', async () => {
    const owner = await project.user()
    const body = { title: 'Resting', code: idle_script, time_zone: 'Europe/Berlin' }
    const reply = await post('', body, { as: owner })
    expect(reply.status).toBe(201)
    const workflow = NewWorkflow.parse(reply.body)
    expect(workflow).toMatchObject({
      title: 'Resting',
      status: 'draft',
      state: 'ready',
      owner_id: owner.id,
      time_zone: 'Europe/Berlin',
      topic: `workflow:${workflow.workflow_id}`,
      error: null,
      secret_names: [],
    })
    expect(workflow.actions).toContain('activate')
    const read = WholeWorkflow.parse((await get(`/${workflow.id}`, { as: owner })).body)
    expect(read).toMatchObject({ id: workflow.id, state: 'ready', scripts: [{ version: '1.0' }] })
    const second = await created({ as: owner })
    const first_page = WorkflowList.parse((await get('?limit=1', { as: owner })).body)
    expect(first_page.items).toMatchObject([{ id: second.id, state: 'ready' }])
    const rest = await get(`?limit=1&cursor=${encodeURIComponent(first_page.next_cursor ?? '')}`, {
      as: owner,
    })
    expect(rest.body).toMatchObject({ items: [{ id: workflow.id }], next_cursor: null })
    expect((await get('?state=active', { as: owner })).body.items).toEqual([])
    expect((await get('?state=ready', { as: owner })).body.items).toHaveLength(2)
  })

  test('is made from words, for an agent to write its script, and talked about', async () => {
    const reply = await post('', { message: 'Send me the weather every morning.' })
    expect(reply.status).toBe(201)
    const { id } = NewWorkflow.parse(reply.body)
    expect(reply.body).toMatchObject({ state: 'draft', task_id: expect.any(String) })
    const added = await post(`/${id}/messages`, { content: 'In Berlin.' })
    expect(added.status).toBe(201)
    AddedMessage.parse(added.body)
    const page = WorkflowMessageList.parse((await get(`/${id}/messages?limit=1`)).body)
    expect(page.items).toMatchObject([{ role: 'user', content: 'In Berlin.' }])
    const rest = await get(`/${id}/messages?limit=1&cursor=${encodeURIComponent(page.next_cursor ?? '')}`)
    expect(rest.body.items).toMatchObject([{ role: 'user', content: 'Send me the weather every morning.' }])
  })

  test('is activated, paused, resumed, archived and unarchived', async () => {
    const { id } = await created()
    for (const [action, state] of [
      ['activate', 'active'],
      ['pause', 'paused'],
      ['resume', 'active'],
      ['pause', 'paused'],
      ['archive', 'archived'],
    ] as const) {
      const reply = await post(`/${id}/${action}`)
      expect(reply, action).toMatchObject({ status: 200, body: { id, state } })
      Workflow.parse(reply.body)
    }
    const refused = await post(`/${id}/activate`)
    expect(refused.status).toBe(409)
    expect(await post(`/${id}/unarchive`)).toMatchObject({ status: 200, body: { status: 'disabled' } })
    expect((await post(`/${id}/explode`)).status).toBe(404)
  })

  test('gets another title and time zone, and its schedule follows', async () => {
    const { id } = await created({}, idle_script.replace("interval: '1d'", "cron: '0 9 * * *'"))
    expect((await post(`/${id}/activate`)).status).toBe(200)
    const tomorrow = new Date(Date.now() + 86_400_000)
    await project.sql`update public.producer_schedules set next_run_at = ${tomorrow} where workflow_id = ${id}`
    const reply = await patch(`/${id}`, { title: 'Busy', time_zone: 'Asia/Tokyo' })
    expect(reply.status).toBe(200)
    const workflow = Workflow.parse(reply.body)
    expect(workflow).toMatchObject({ title: 'Busy', time_zone: 'Asia/Tokyo', state: 'active' })
    const next_run_at = workflow.schedules[0]?.next_run_at ?? ''
    expect(new Date(next_run_at).toISOString()).toMatch(/T00:00:00\.000Z$/)
    expect(Date.parse(next_run_at)).toBeGreaterThan(Date.now())
    expect(Date.parse(next_run_at)).toBeLessThanOrEqual(Date.now() + 86_400_000)
    expect((await patch(`/${id}`, { title: 'Busier' })).body).toMatchObject({
      ...{ title: 'Busier', time_zone: 'Asia/Tokyo' },
    })
  })

  test('gets new versions of its script, which activate nothing', async () => {
    const { id, script_id } = await created()
    await post(`/${id}/activate`)
    const saved = await post(`/${id}/script`, { code: `${idle_script}\n// better`, comment: 'better' })
    expect(saved).toMatchObject({ status: 201, body: { version: '2.0' } })
    const second = SavedScript.parse(saved.body)
    expect((await get(`/${id}`)).body.active_script_id).toBe(script_id)
    const { items } = ScriptList.parse((await get(`/${id}/scripts`)).body)
    expect(items).toMatchObject([{ version: '2.0', comment: 'better' }, { version: '1.0' }])
    const whole = await get(`/${id}/scripts/${second.script_id}`)
    expect(Script.parse(whole.body)).toMatchObject({ version: '2.0', config: { topics: [] } })
    expect(whole.body.code).toContain('// better')
    const active = await post(`/${id}/activate`, { script_id: second.script_id })
    expect(active.body).toMatchObject({ active_script_id: second.script_id, state: 'active' })
    await post(`/${id}/pause`)
    const other = await created()
    expect(await post(`/${id}/activate`, { script_id: other.script_id })).toMatchObject({ status: 404 })
    expect(await get(`/${id}/scripts/${other.script_id}`)).toMatchObject({
      status: 404,
      body: { code: 'script_not_found' },
    })
  })

  test('keeps secrets that nobody reads again', async () => {
    const { id } = await created()
    const value = `s-${randomUUID()}`
    const set = await post(`/${id}/secrets`, { name: 'API_TOKEN', value })
    expect(set).toMatchObject({ status: 200, body: { secret_names: ['API_TOKEN'] } })
    SecretNames.parse(set.body)
    for (const reply of [set, await get(`/${id}`), await get(''), await get(`/${id}/messages`)]) {
      expect(JSON.stringify(reply.body)).not.toContain(value)
    }
    expect((await get(`/${id}`)).body.secret_names).toEqual(['API_TOKEN'])
    expect((await post(`/${id}/secrets`, { name: 'API_TOKEN', value: null })).body.secret_names).toEqual([])
  })

  test('is made once, and run once, for an Idempotency-Key', async () => {
    const headers = { 'idempotency-key': randomUUID() }
    const replies = await Promise.all([1, 2, 3].map(() => created({ headers })))
    expect(new Set(replies.map(({ id }) => id)).size).toBe(1)
    expect(await post('', { title: 'Other', code: idle_script }, { headers })).toMatchObject({
      status: 409,
      body: { code: 'idempotency_key_reused' },
    })
    const id = replies[0]?.id
    const once = { headers: { 'idempotency-key': randomUUID() } }
    const first = await post(`/${id}/run`, undefined, once)
    expect(first).toMatchObject({
      status: 202,
      body: { run_requested_at: expect.any(String), note: expect.stringContaining('really sent') },
    })
    expect((await post(`/${id}/run`, undefined, once)).body.run_requested_at).toBe(
      first.body.run_requested_at,
    )
    expect((await post(`/${id}/run`, undefined, { headers: { 'idempotency-key': '' } })).status).toBe(422)
    await post(`/${id}/archive`)
  })
})

describe('a run', () => {
  test('is listed with its handlers, and read with what they did', async () => {
    const { workflow_id, run_id, mutation_id } = await uncertain()
    const page = WorkflowRunList.parse((await get(`/${workflow_id}/runs`)).body)
    expect(page.items).toMatchObject([
      {
        status: 'failed',
        result: 'suspended',
        handler_runs: [
          { handler_name: 'make', status: 'committed' },
          { id: run_id, handler_name: 'send', status: 'paused:reconciliation', phase: 'mutating' },
        ],
      },
    ])
    const session_id = page.items[0]?.id
    const whole = WholeWorkflowRun.parse((await get(`/${workflow_id}/runs/${session_id}`)).body)
    expect(whole.handler_runs[1]).toMatchObject({
      id: run_id,
      mutation: { id: mutation_id, status: 'indeterminate', tool: 'Http.send' },
      events: [{ topic: 'items', message_id: 'item-1', status: 'reserved' }],
    })
    expect(await get(`/${workflow_id}/runs/${randomUUID()}`)).toMatchObject({
      status: 404,
      body: { code: 'workflow_run_not_found' },
    })
    const other = await created()
    expect((await get(`/${other.id}/runs/${session_id}`)).status).toBe(404)
    await post(`/${workflow_id}/mutations/${mutation_id}/resolve`, { how: 'skipped' })
    await post(`/${workflow_id}/pause`)
  })

  test('that nobody can tell of is resolved by its owner', async () => {
    const { workflow_id, mutation_id } = await uncertain()
    const stopped = await get(`/${workflow_id}`)
    expect(stopped.body).toMatchObject({
      state: 'error',
      error: { code: 'MUTATION_UNCERTAIN', stage: 'mutate', attribution: 'system' },
      unresolved_mutation: { id: mutation_id, tool: 'Http.send' },
    })
    for (const action of ['resume', 'retry']) {
      expect(await post(`/${workflow_id}/${action}`), action).toMatchObject({
        status: 409,
        body: { code: 'unresolved_mutation', hint: expect.stringContaining('resolve the mutation') },
      })
    }
    const path = `/${workflow_id}/mutations/${mutation_id}/resolve`
    const resolved = await post(path, { how: 'applied', result: { status: 201 } })
    expect(resolved).toMatchObject({ status: 200, body: { unresolved_mutation: null } })
    Workflow.parse(resolved.body)
    expect((await post(path, { how: 'failed' })).status).toBe(409)
    await post(`/${workflow_id}/pause`)
  })

  test('that failed leaves an event that can be acknowledged', async () => {
    const { workflow_id, mutation_id } = await uncertain()
    const { items } = WorkflowMessageList.parse((await get(`/${workflow_id}/messages`)).body)
    const event = items.find(({ type }) => type === 'error')
    expect(event).toMatchObject({ role: 'event', acknowledged_at: null })
    const seen = await post(`/${workflow_id}/errors/${event?.id}/acknowledge`)
    expect(seen.status).toBe(200)
    // Acknowledging hides the event, but what is wrong is still wrong.
    expect(seen.body.state).toBe('error')
    expect((await get(`/${workflow_id}/messages`)).body.items).toContainEqual(
      expect.objectContaining({ id: event?.id, acknowledged_at: expect.any(String) }),
    )
    expect(await post(`/${workflow_id}/errors/${randomUUID()}/acknowledge`)).toMatchObject({ status: 404 })
    await post(`/${workflow_id}/mutations/${mutation_id}/resolve`, { how: 'skipped' })
    await post(`/${workflow_id}/pause`)
  })
})

test('a message of a script is acknowledged by its owner', async () => {
  const { id } = await created()
  await project.sql`select private.notify_workflow(${id}, 'script_message', '{"message": "Hello."}')`
  const { notifications } = WholeWorkflow.parse((await get(`/${id}`)).body)
  expect(notifications).toMatchObject([{ type: 'script_message', payload: { message: 'Hello.' } }])
  const path = `/${id}/notifications/${notifications[0]?.id}/acknowledge`
  expect(await post(path)).toMatchObject({ status: 200, body: { notifications: [] } })
  expect(await post(`/${id}/notifications/${randomUUID()}/acknowledge`)).toMatchObject({
    ...{ status: 404, body: { code: 'notification_not_found' } },
  })
})

describe('a request', () => {
  test('that is not well formed is refused, and says where', async () => {
    const { id } = await created()
    const bad: [string, unknown, string][] = [
      ['', {}, ''],
      ['', { message: ' ' }, 'message'],
      ['', { message: 'x'.repeat(33 * 1024) }, 'message'],
      ['', { message: 'a', code: idle_script, title: 'b' }, 'message'],
      ['', { code: idle_script }, 'title'],
      ['', { title: '', code: idle_script }, 'title'],
      ['', { title: 'x'.repeat(256), code: idle_script }, 'title'],
      ['', { title: 'a', code: '' }, 'code'],
      ['', { title: 'a', code: ';' }, 'code'],
      ['', { title: 'a', code: 'workflow = {' }, 'code'],
      ['', { title: 'a', code: 'throw new Error("no")' }, 'code'],
      ['', { title: 'a', code: 'x'.repeat(257 * 1024) }, 'code'],
      ['', { title: 'a', code: idle_script, time_zone: 'Mars/Olympus' }, 'time_zone'],
      ['', { title: 'a', code: idle_script, time_zone: '+02:00' }, 'time_zone'],
      ['', { title: 'a\0', code: idle_script }, 'title'],
      ['', { title: 'a', code: idle_script, owner_id: 'me' }, 'owner_id'],
      ['', [], ''],
      [`/${id}/messages`, {}, 'content'],
      [`/${id}/messages`, { content: '' }, 'content'],
      [`/${id}/script`, {}, 'code'],
      [`/${id}/script`, { code: idle_script.replace("'1d'", "'soon'") }, 'code'],
      [`/${id}/script`, { code: idle_script, comment: 1 }, 'comment'],
      [`/${id}/activate`, { script_id: 'x' }, 'script_id'],
      [`/${id}/pause`, { owner_id: 'x' }, 'owner_id'],
      [`/${id}/secrets`, { name: 'A' }, 'value'],
      [`/${id}/secrets`, { name: '1A', value: 'x' }, 'name'],
      [`/${id}/secrets`, { name: 'A-B', value: 'x' }, 'name'],
      [`/${id}/secrets`, { name: 'A', value: '' }, 'value'],
      [`/${id}/mutations/${randomUUID()}/resolve`, {}, 'how'],
      [`/${id}/mutations/${randomUUID()}/resolve`, { how: 'maybe' }, 'how'],
      [`/${id}/mutations/${randomUUID()}/resolve`, { how: 'failed', result: 1 }, 'result'],
    ]
    for (const [path, body, where] of bad) {
      const reply = await post(path, body)
      const what = `${path} ${JSON.stringify(body).slice(0, 80)}`
      expect(reply, what).toMatchObject({ status: 422, body: { code: 'invalid_request' } })
      expect(reply.body.details.issues[0].path, what).toMatch(new RegExp(`^${where}`))
    }
    for (const body of [
      {},
      { title: ' ' },
      { title: 1 },
      { time_zone: 'Mars/Olympus' },
      { time_zone: null },
      [],
    ]) {
      expect(await patch(`/${id}`, body), JSON.stringify(body)).toMatchObject({
        ...{ status: 422, body: { code: 'invalid_request' } },
      })
    }
    for (const list of ['', `/${id}/runs`, `/${id}/messages`]) {
      for (const query of [
        'limit=0',
        'limit=201',
        'limit=x',
        'cursor=',
        'cursor=x',
        'owner_id=x',
        'limit=1&limit=2',
      ]) {
        expect((await get(`${list}?${query}`)).status, `${list}?${query}`).toBe(422)
      }
    }
    expect((await get('?state=happy')).status).toBe(422)
  })

  test("is refused for what is somebody else's, and open to operators and secret keys", async () => {
    const { id, script_id } = await created()
    const paths: [string, string, unknown?][] = [
      ['GET', `/${id}`],
      ['GET', `/${id}/messages`],
      ['GET', `/${id}/runs`],
      ['GET', `/${id}/runs/${randomUUID()}`],
      ['GET', `/${id}/scripts`],
      ['GET', `/${id}/scripts/${script_id}`],
      ['PATCH', `/${id}`, { title: 'Mine' }],
      ['PATCH', `/${id}`, { time_zone: 'Asia/Tokyo' }],
      ['POST', `/${id}/notifications/${randomUUID()}/acknowledge`],
      ['POST', `/${id}/messages`, { content: 'mine' }],
      ['POST', `/${id}/script`, { code: idle_script }],
      ['POST', `/${id}/secrets`, { name: 'A', value: 'x' }],
      ['POST', `/${id}/errors/${randomUUID()}/acknowledge`],
      ['POST', `/${id}/mutations/${randomUUID()}/resolve`, { how: 'failed' }],
      ...['activate', 'pause', 'resume', 'archive', 'unarchive', 'retry', 'run'].map(
        (action): [string, string] => ['POST', `/${id}/${action}`],
      ),
    ]
    const call = (method: string, path: string, body: unknown, as: CallInit['as']) =>
      project.call(`/workflows${path}`, {
        method,
        as: as ?? null,
        ...(body === undefined ? {} : { body }),
      })
    for (const [method, path, body] of paths) {
      const foreign = await call(method, path, body, stranger)
      expect(foreign, `${method} ${path}`).toMatchObject({ status: 404 })
      expect(foreign.body.code, path).toMatch(/_not_found$/)
      expect((await call(method, path, body, null)).status, path).toBe(401)
      for (const wrong of [randomUUID(), 'x', '%20', `${id}0`]) {
        const other = path.replace(id, wrong)
        expect((await call(method, other, body, user)).status, other).toBe(404)
      }
    }
    expect(Workflow.parse((await get(`/${id}`)).body)).toMatchObject({ state: 'ready', secret_names: [] })
    expect((await get(`?owner_id=${user.id}`, { as: stranger })).status).toBe(403)

    const operator = await project.operator()
    for (const as of [operator, 'secret'] as const) {
      for (const path of [
        `/${id}`,
        `/${id}/messages`,
        `/${id}/runs`,
        `/${id}/scripts`,
        `/${id}/scripts/${script_id}`,
      ]) {
        expect((await get(path, { as })).status, path).toBe(200)
        expect((await get(`${path}?owner_id=${stranger.id}`, { as })).status, path).toBe(404)
      }
      expect((await get(`?owner_id=${user.id}`, { as })).body.items).toContainEqual(
        expect.objectContaining({ id }),
      )
      expect((await post(`/${id}/activate`, {}, { as })).status).toBe(200)
      expect((await post(`/${id}/pause`, { owner_id: user.id }, { as })).status).toBe(200)
      expect((await post(`/${id}/resume`, { owner_id: stranger.id }, { as })).status).toBe(404)
    }
    expect((await post('', { title: 'x', code: idle_script }, { as: 'secret' })).status).toBe(422)
    const given = { title: 'x', code: idle_script, owner_id: stranger.id }
    expect(await post('', given, { as: 'secret' })).toMatchObject({
      status: 201,
      body: { owner_id: stranger.id },
    })
    expect((await post('', given)).status).toBe(403)
    const [event] = await project.sql`
      select source, details from public.status_events
      where subject_id = ${id} and to_status = 'active' order by id limit 1`
    expect(event).toMatchObject({ source: 'user', details: { actor: operator.id } })
  })

  test('by an operator for an owner names both', async () => {
    const operator = await project.operator()
    const as = operator
    const owner_id = user.id
    const made = await post('', { title: 'x', code: idle_script, owner_id }, { as })
    const { id } = NewWorkflow.parse(made.body)
    expect((await post(`/${id}/script`, { code: `${idle_script};` }, { as })).status).toBe(201)
    expect((await post(`/${id}/messages`, { content: 'Twice a day.' }, { as })).status).toBe(201)
    expect((await post(`/${id}/secrets`, { name: 'A', value: 'x' }, { as })).status).toBe(200)
    expect((await patch(`/${id}`, { title: 'y', time_zone: 'Asia/Tokyo' }, { as })).status).toBe(200)
    const actor = operator.id
    const [event] = await project.sql`
      select details from public.status_events where subject_id = ${id} and seq = 1`
    expect(event).toEqual({ details: { actor } })
    expect(ScriptList.parse((await get(`/${id}/scripts`)).body).items).toMatchObject([{ actor }, { actor }])
    expect((await get(`/${id}/messages`)).body.items).toMatchObject([{ payload: { actor } }])
    const [secret] = await project.sql`select actor from private.workflow_secrets where workflow_id = ${id}`
    expect(secret).toEqual({ actor })
  })

  test('to a path or by a method that does not exist is 404 and 405', async () => {
    const { id } = await created()
    expect((await project.call('/workflows', { method: 'PUT', as: user, body: {} })).status).toBe(405)
    expect((await project.call(`/workflows/${id}`, { method: 'DELETE', as: user })).status).toBe(405)
    expect((await get(`/${id}/activate`)).status).toBe(405)
    expect((await get(`/${id}/nothing`)).status).toBe(404)
    expect((await post(`/${id}/errors/x/y/z`)).status).toBe(404)
  })
})
