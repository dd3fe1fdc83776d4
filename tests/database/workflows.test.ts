import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'
import {
  activeWorkflow,
  beginRun,
  config,
  draftWorkflow,
  failLogic,
  type Json,
  messagesOf,
  readyWorkflow,
  uncertainRun,
  workflowOf,
} from '../support/workflow_steps.ts'

// A database for each test: a claim takes whatever is due, whoever's it is.
let database: TestDatabase
let clock: ClockedSession
beforeEach(async () => {
  database = await createTestDatabase()
  clock = await openClock(database)
})
afterEach(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

const call = (name: string, { workflow_id }: { workflow_id: string }, more = {}): Promise<Json> =>
  rpc(clock.sql, name, { workflow_id, ...more })
const history = async ({ workflow_id }: { workflow_id: string }) =>
  (
    await database.superuser`
      select to_status, source, reason, details from public.status_events
      where machine = 'workflow' and subject_id = ${workflow_id} order by seq`
  ).map((row) => [row.to_status, row.source, row.reason])
const pushes = (workflow_id: string) =>
  database.superuser`
    select payload from realtime.messages
    where topic = ${`workflow:${workflow_id}`} and event = 'state_changed' order by (payload ->> 'version')::int`
const schedules = ({ workflow_id }: { workflow_id: string }) =>
  database.owner`
    select producer, interval, cron, next_run_at, last_run_at from public.producer_schedules
    where workflow_id = ${workflow_id} order by producer`
const consumers = ({ workflow_id }: { workflow_id: string }) =>
  database.owner`
    select handler_name, dirty from public.handler_states
    where workflow_id = ${workflow_id} and handler_type = 'consumer' order by handler_name`
/** Commits the retry that a session is about, and finishes it. */
const endSession = async ({ session_id, lease_token, run }: Json) => {
  if (run !== null)
    await rpc(clock.sql, 'commit_consumer', { run_id: run.run_id, lease_token, state: {}, publications: [] })
  await rpc(clock.sql, 'finish_session', { session_id, lease_token })
}
const eventsOf = ({ workflow_id }: { workflow_id: string }) =>
  database.owner`
    select message_id, status, reserved_by_run_id, attempt_number from public.workflow_events
    where workflow_id = ${workflow_id} order by position`
/** Everything that a refused call must leave as it is. */
const everything = async ({ workflow_id }: { workflow_id: string }) => ({
  workflow: await database.owner`select * from public.workflows where id = ${workflow_id}`,
  messages:
    await database.owner`select * from public.workflow_messages where workflow_id = ${workflow_id} order by id`,
  notifications:
    await database.owner`select * from public.workflow_notifications where workflow_id = ${workflow_id} order by id`,
  tasks:
    await database.owner`select * from public.workflow_tasks where workflow_id = ${workflow_id} order by id`,
  scripts:
    await database.owner`select * from public.workflow_scripts where workflow_id = ${workflow_id} order by id`,
  schedules: await schedules({ workflow_id }),
  events: await eventsOf({ workflow_id }),
  runs: await database.owner`select * from public.handler_runs where workflow_id = ${workflow_id} order by id`,
  mutations: await database.owner`select * from public.workflow_mutations where workflow_id = ${workflow_id}`,
  history: await history({ workflow_id }),
})

describe('a new workflow', () => {
  test('from a message is a draft with a chat, the message and a task of the planner', async () => {
    const owner_id = randomUUID()
    const made = await rpc<Json>(clock.sql, 'create_workflow', {
      owner_id,
      message: '  Send me the weather\nevery morning.',
    })
    expect(made).toMatchObject({
      ...{
        ok: true,
        changed: true,
        result: 'created',
        owner_id,
        status: 'draft',
        state: 'draft',
        version: 1,
      },
      ...{ title: 'Send me the weather', time_zone: 'UTC', error: null, schedules: [], secret_names: [] },
      task: { id: made.task_id, type: 'planner', state: 'queued', error: null },
      ...{ topic: `workflow:${made.workflow_id}`, chat_id: expect.any(String), next_due_at: null },
    })
    expect(await messagesOf(clock.sql, made)).toMatchObject([
      { role: 'user', type: null, content: '  Send me the weather\nevery morning.' },
    ])
    expect(await history(made)).toEqual([['draft', 'user', null]])
  })

  test('from a script has version 1.0 and is ready', async () => {
    const workflow = await readyWorkflow(clock.sql, { time_zone: 'Europe/Berlin', summary: 'Orders things.' })
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ status: 'draft', state: 'ready', active_script_id: null, time_zone: 'Europe/Berlin', task: null },
      actions: ['activate', 'test', 'talk', 'archive'],
    })
    const { items } = await call('list_workflow_scripts', workflow)
    expect(items).toMatchObject([{ id: workflow.script_id, version: '1.0', summary: 'Orders things.' }])
  })

  test('is made once for one Idempotency-Key, by eight at once', async () => {
    const owner_id = randomUUID()
    const pool = database.connect('postgres', { max: 8 })
    const create = (message: string) =>
      rpc<Json>(pool, 'create_workflow', { owner_id, message, idempotency_key: 'k' })
    const made = await Promise.all(Array.from({ length: 8 }, () => create('Do it.')))
    expect(new Set(made.map(({ workflow_id }) => workflow_id)).size).toBe(1)
    expect(made.filter(({ changed }) => changed)).toHaveLength(1)
    expect(await refusal(create('Do something else.'))).toMatchObject({
      ...{ code: 'PT409', message: 'idempotency_key_reused' },
    })
  })

  test('that is nothing is refused, and leaves nothing', async () => {
    const owner_id = randomUUID()
    for (const [args, path] of [
      [{}, 'message'],
      [{ message: 'a', code: 'b', title: 'c', config }, 'message'],
      [{ message: ' \n' }, 'content'],
      [{ message: 'x'.repeat(32_769) }, 'content'],
      [{ code: 'x', config }, 'title'],
      [{ title: ' ', code: 'x', config }, 'title'],
      [{ title: 't', code: ' ', config }, 'code'],
      [{ title: 't', code: 'x'.repeat(262_145), config }, 'code'],
      [{ title: 't', code: 'x', config: [] }, 'config'],
      [{ title: 't', code: 'x', config: { producers: { a: { schedule: {} } } } }, 'config'],
      [{ title: 't', code: 'x', config: { topics: [1] } }, 'config'],
      [{ title: 't', code: 'x', config: { consumers: { a: {} } } }, 'config'],
      [{ message: 'a', time_zone: 'Mars/Olympus' }, 'time_zone'],
      [{ message: 'a', time_zone: '+02:00' }, 'time_zone'],
      [{ message: 'a', owner_id: null }, 'owner_id'],
    ] as const) {
      const refused = await refusal(rpc(clock.sql, 'create_workflow', { owner_id, ...args }))
      expect(refused, JSON.stringify(args).slice(0, 80)).toMatchObject({
        code: 'PT422',
        message: 'invalid_request',
      })
      expect(JSON.parse(refused.detail ?? '').issues[0].path).toBe(path)
    }
    expect(await database.owner`select id from public.workflows`).toEqual([])
  })
})

describe('saving a script', () => {
  test('raises major and activates nothing; the same code again is unchanged', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const save = (code: string) =>
      rpc<Json>(clock.sql, 'save_script', {
        ...ids(workflow),
        code,
        config,
        comment: ' better ',
        summary: '',
      })
    const second = await save('workflow = {} // 2')
    expect(second).toMatchObject({
      ok: true,
      changed: true,
      result: 'created',
      major: 2,
      minor: 0,
      version: '2.0',
    })
    expect(await save('workflow = {} // 2')).toMatchObject({
      ...{ changed: false, result: 'unchanged', script_id: second.script_id },
    })
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ active_script_id: workflow.script_id, active_script: { version: '1.0' }, state: 'active' },
    })
    expect(await rpc(clock.sql, 'get_workflow_script', { script_id: second.script_id })).toMatchObject({
      ...{
        code: 'workflow = {} // 2',
        config,
        comment: 'better',
        summary: null,
        workflow_id: workflow.workflow_id,
      },
    })
  })

  test('makes a draft ready, and says so on its topic', async () => {
    const workflow = await draftWorkflow(clock.sql)
    await rpc(clock.sql, 'save_script', { ...ids(workflow), code: 'workflow = {}', config })
    expect((await pushes(workflow.workflow_id)).at(-1)?.payload).toMatchObject({ state: 'ready', version: 2 })
  })

  test('at eight connections gives eight versions without a gap', async () => {
    const workflow = await readyWorkflow(clock.sql)
    const pool = database.connect('postgres', { max: 8 })
    const saved = await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        rpc<Json>(pool, 'save_script', { ...ids(workflow), code: `workflow = ${i}`, config }),
      ),
    )
    expect(saved.map(({ major }) => major).sort()).toEqual([2, 3, 4, 5, 6, 7, 8, 9])
  })
})

const ids = ({ workflow_id, owner_id }: { workflow_id: string; owner_id: string }) => ({
  workflow_id,
  owner_id,
})

describe('activating', () => {
  test('runs the newest script, or the one named: everything is due now', async () => {
    const workflow = await readyWorkflow(clock.sql)
    const active = await call('activate_workflow', workflow)
    expect(active).toMatchObject({
      ...{ ok: true, changed: true, result: 'processed', status: 'active', state: 'active' },
      ...{ active_script_id: workflow.script_id, next_due_at: '2026-03-01T12:00:00+00:00' },
      schedules: [{ producer: 'feed', interval: '5m', cron: null, next_run_at: '2026-03-01T12:00:00+00:00' }],
      actions: ['pause', 'test', 'talk'],
    })
    expect(await consumers(workflow)).toEqual([{ handler_name: 'send', dirty: true }])
    expect(await call('activate_workflow', workflow)).toMatchObject({
      ...{ changed: false, result: 'unchanged', version: active.version },
    })
    expect(await history(workflow)).toEqual([
      ['draft', 'user', null],
      ['active', 'user', 'activated 1.0'],
    ])
  })

  test('syncs schedules and consumers by name: what is gone is dropped, what stays keeps its state', async () => {
    const workflow = await activeWorkflow(clock.sql)
    await database.owner`
      update public.handler_states set state = '{"n": 1}', wake_at = now() where workflow_id = ${workflow.workflow_id}`
    await database.owner`
      update public.producer_schedules set last_run_at = '2026-01-01' where workflow_id = ${workflow.workflow_id}`
    await clock.advance(60)
    await rpc(clock.sql, 'save_script', {
      ...{ ...ids(workflow), code: 'workflow = 2' },
      config: {
        topics: ['items', 'more'],
        producers: {
          feed: { schedule: { cron: '0 * * * *' }, publishes: ['items'] },
          other: { schedule: { interval: '1h' }, publishes: ['more'] },
        },
        consumers: { keep: { subscribe: ['items', 'more'], publishes: [] } },
      },
    })
    await call('activate_workflow', workflow)
    const now = clock.now()
    expect(await schedules(workflow)).toEqual([
      {
        producer: 'feed',
        interval: null,
        cron: '0 * * * *',
        next_run_at: now,
        last_run_at: new Date('2026-01-01'),
      },
      { producer: 'other', interval: '1h', cron: null, next_run_at: now, last_run_at: null },
    ])
    expect(await consumers(workflow)).toEqual([
      { handler_name: 'keep', dirty: true },
      { handler_name: 'send', dirty: false },
    ])
    await call('activate_workflow', workflow, { script_id: workflow.script_id })
    expect(await schedules(workflow)).toMatchObject([{ producer: 'feed', interval: '5m', cron: null }])
    const [state] = await database.owner`
      select state from public.handler_states where workflow_id = ${workflow.workflow_id} and handler_name = 'send'`
    expect(state?.state).toEqual({ n: 1 })
  })

  test("takes only the workflow's own scripts", async () => {
    const workflow = await readyWorkflow(clock.sql)
    const other = await readyWorkflow(clock.sql)
    const draft = await draftWorkflow(clock.sql)
    for (const [which, script_id] of [
      [workflow, other.script_id],
      [workflow, randomUUID()],
      [draft, null],
    ] as const) {
      expect(await refusal(call('activate_workflow', which, { script_id }))).toMatchObject({
        ...{ code: 'PT404', message: 'script_not_found' },
      })
    }
    expect((await workflowOf(clock.sql, workflow)).state).toBe('ready')
  })

  test('ends maintenance, sets the count of fixes to 0 and clears the error and the back-off', async () => {
    const workflow = await activeWorkflow(clock.sql)
    await failLogic(clock.sql, workflow)
    const task = await rpc<Json>(clock.sql, 'claim_task', { worker: 'w', has_agent: true })
    await database.owner`
      update public.workflows set transient_failures = 3, backoff_until = now() + interval '1 h',
        error = 'no', error_code = 'NETWORK', error_at = now() where id = ${workflow.workflow_id}`
    expect(await call('activate_workflow', workflow)).toMatchObject({
      ...{ changed: true, maintenance: false, maintenance_fix_count: 0, error: null, state: 'active' },
      ...{ transient_failures: 0, backoff_until: null, notifications: [], task: { state: 'finished' } },
    })
    // Whoever was repairing it is refused from now on.
    const { task_id, lease_token } = task
    expect(
      await refusal(
        rpc(clock.sql, 'apply_fix', { task_id, lease_token, code: 'late', config, comment: 'late' }),
      ),
    ).toMatchObject({ code: 'PT409', message: 'stale_lease' })
  })

  test('keeps the error of an unresolved side effect, and the pointer', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { run_id, mutation_id } = await uncertainRun(clock.sql, workflow)
    const saved = await rpc<Json>(clock.sql, 'save_script', {
      ...ids(workflow),
      code: 'workflow = 2',
      config,
    })
    expect(await call('activate_workflow', workflow)).toMatchObject({
      ...{ changed: true, state: 'error', active_script_id: saved.script_id, pending_retry_run_id: run_id },
      ...{
        error: { code: 'MUTATION_UNCERTAIN', run_id },
        unresolved_mutation: { id: mutation_id },
        next_due_at: null,
      },
    })
  })

  test('never sets a retry', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { mutation_id } = await uncertainRun(clock.sql, workflow)
    await rpc(clock.sql, 'resolve_mutation', { mutation_id, how: 'failed' })
    await call('pause_workflow', workflow)
    expect(await call('activate_workflow', workflow)).toMatchObject({ pending_retry_run_id: null })
  })

  test('of what is put away is refused', async () => {
    const workflow = await readyWorkflow(clock.sql)
    await call('archive_workflow', workflow)
    const before = await everything(workflow)
    const refused = await refusal(call('activate_workflow', workflow))
    expect(refused).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
    expect(JSON.parse(refused.detail ?? '')).toMatchObject({
      ...{ machine: 'workflow', from: 'archived', to: 'active', allowed: ['draft', 'disabled'] },
    })
    expect(await everything(workflow)).toEqual(before)
  })
})

describe('pausing, resuming and putting away', () => {
  test('go the ways of the machine; each again is unchanged', async () => {
    const workflow = await activeWorkflow(clock.sql)
    for (const [action, status, state] of [
      ['pause', 'disabled', 'paused'],
      ['resume', 'active', 'active'],
      ['pause', 'disabled', 'paused'],
      ['archive', 'archived', 'archived'],
      ['unarchive', 'disabled', 'paused'],
    ] as const) {
      const done = await call(`${action}_workflow`, workflow)
      expect(done, action).toMatchObject({ ok: true, changed: true, result: 'processed', status, state })
      const before = await everything(workflow)
      expect(await call(`${action}_workflow`, workflow), action).toMatchObject({
        ...{ ok: true, changed: false, result: 'unchanged', status, state, version: done.version },
      })
      expect(await everything(workflow)).toEqual(before)
    }
    expect((await history(workflow)).map(([to]) => to)).toEqual([
      ...['draft', 'active', 'disabled', 'active', 'disabled', 'archived', 'disabled'],
    ])
  })

  test('a draft is put away and comes back as a draft', async () => {
    const workflow = await readyWorkflow(clock.sql)
    await call('archive_workflow', workflow)
    expect(await call('unarchive_workflow', workflow)).toMatchObject({ status: 'draft', state: 'ready' })
  })

  test('is refused where the machine has no such move, and changes nothing', async () => {
    const draft = await readyWorkflow(clock.sql)
    const active = await activeWorkflow(clock.sql)
    const archived = await readyWorkflow(clock.sql)
    await call('archive_workflow', archived)
    for (const [workflow, action, from, allowed] of [
      [draft, 'pause', 'draft', ['active', 'archived']],
      [draft, 'resume', 'draft', ['archived']],
      [active, 'archive', 'active', ['disabled']],
      [archived, 'pause', 'archived', ['draft']],
      [archived, 'resume', 'archived', ['draft', 'disabled']],
    ] as const) {
      const before = await everything(workflow)
      const refused = await refusal(call(`${action}_workflow`, workflow))
      expect(refused, `${action} ${from}`).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
      expect(refused.hint).toBeTruthy()
      expect(JSON.parse(refused.detail ?? ''), `${action} ${from}`).toMatchObject({
        machine: 'workflow',
        from,
        allowed,
      })
      expect(await everything(workflow)).toEqual(before)
    }
  })

  test('pausing fails nothing: the run that is under way ends as it would', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { run_id, lease_token, session_id } = await beginRun(clock.sql, workflow)
    await call('pause_workflow', workflow)
    await rpc(clock.sql, 'advance_handler_run', { run_id, phase: 'executing', lease_token })
    await rpc(clock.sql, 'commit_producer', {
      ...{ run_id, lease_token, state: {}, publications: [], next_run_at: '2026-03-01T12:05:00Z' },
    })
    expect(await refusal(rpc(clock.sql, 'create_handler_run', { session_id, lease_token }))).toMatchObject({
      ...{ code: 'PT409', message: 'not_runnable' },
    })
    await rpc(clock.sql, 'finish_session', { session_id, lease_token })
    expect(await rpc(clock.sql, 'claim_workflow_session', { worker: 'w' })).toBeNull()
    const { items } = await call('list_workflow_runs', workflow)
    expect(items).toMatchObject([{ status: 'success', handler_runs: [{ status: 'committed' }] }])
  })

  test('resuming clears the error and gives consumers work', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { run_id, lease_token } = await beginRun(clock.sql, workflow)
    await rpc(clock.sql, 'advance_handler_run', { run_id, phase: 'executing', lease_token })
    await rpc(clock.sql, 'update_handler_run_status', {
      ...{ run_id, lease_token, status: 'paused:approval', error_type: 'auth' },
    })
    await database.owner`update public.handler_states set dirty = false`
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ status: 'active', state: 'error', next_due_at: null },
      error: {
        ...{ code: 'AUTH_REQUIRED', stage: 'producer', run_id, attribution: 'user', retryable: false },
        ...{ next_step: 'Set the secret anew, then resume the workflow.', at: '2026-03-01T12:00:00+00:00' },
      },
      notifications: [{ type: 'error', payload: { code: 'AUTH_REQUIRED' } }],
    })
    expect(await call('resume_workflow', workflow)).toMatchObject({
      ...{
        changed: true,
        state: 'active',
        error: null,
        notifications: [],
        next_due_at: '2026-03-01T12:00:00+00:00',
      },
    })
    expect(await consumers(workflow)).toEqual([{ handler_name: 'send', dirty: true }])
    expect(await messagesOf(clock.sql, workflow)).toMatchObject([
      { type: 'error', resolved_at: '2026-03-01T12:00:00+00:00' },
    ])
  })

  test('resuming and retrying are refused while a side effect is unresolved', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { mutation_id } = await uncertainRun(clock.sql, workflow)
    for (const action of ['resume_workflow', 'retry_workflow', 'request_run']) {
      const before = await everything(workflow)
      const refused = await refusal(call(action, workflow))
      expect(refused, action).toMatchObject({ code: 'PT409', message: 'unresolved_mutation' })
      expect(JSON.parse(refused.detail ?? '')).toMatchObject({ mutation: { id: mutation_id } })
      expect(await everything(workflow)).toEqual(before)
    }
    await call('pause_workflow', workflow)
    expect((await refusal(call('resume_workflow', workflow))).message).toBe('unresolved_mutation')
  })

  test('a side effect that is just under way hinders nobody', async () => {
    const workflow = await activeWorkflow(clock.sql)
    await database.owner`update public.producer_schedules set next_run_at = '2027-01-01'`
    const { run_id, lease_token, session_id } = await beginRun(clock.sql, workflow)
    const advance = (phase: string, payload = {}) =>
      rpc(clock.sql, 'advance_handler_run', { run_id, phase, payload, lease_token })
    await database.owner`
      insert into public.workflow_events (workflow_id, owner_id, topic_id, message_id, payload, created_at, updated_at)
      select workflow_id, owner_id, id, 'a', '{}', now(), now() from public.workflow_topics`
    await advance('preparing')
    await advance('prepared', { result: {}, reservations: [{ topic: 'items', ids: ['a'] }], wake_at: null })
    await advance('mutating')
    const { mutation_id } = await rpc<Json>(clock.sql, 'begin_mutation', {
      ...{ run_id, lease_token, tool: 'Http.send', params: {} },
    })
    await call('pause_workflow', workflow)
    expect(await call('resume_workflow', workflow)).toMatchObject({
      changed: true,
      unresolved_mutation: null,
    })
    expect(await refusal(rpc(clock.sql, 'resolve_mutation', { mutation_id, how: 'failed' }))).toMatchObject({
      ...{ code: 'PT409', message: 'not_indeterminate' },
    })
    await rpc(clock.sql, 'apply_mutation', { mutation_id, result: {}, lease_token })
    await advance('emitting')
    await rpc(clock.sql, 'commit_consumer', { run_id, lease_token, state: {}, publications: [] })
    await rpc(clock.sql, 'finish_session', { session_id, lease_token })
  })
})

describe('retrying', () => {
  test('clears error, back-off and the count of failures; producers are due and consumers have work', async () => {
    const workflow = await activeWorkflow(clock.sql)
    for (let i = 0; i < 6; i++) {
      const { run_id, lease_token } = await beginRun(clock.sql, workflow)
      await rpc(clock.sql, 'advance_handler_run', { run_id, phase: 'executing', lease_token })
      await rpc(clock.sql, 'update_handler_run_status', {
        ...{ run_id, lease_token, status: 'paused:transient', error: 'timed out', error_type: 'network' },
      })
      await clock.advance(601)
    }
    await database.owner`update public.producer_schedules set next_run_at = '2027-01-01'`
    await database.owner`update public.handler_states set dirty = false`
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'error', error: { code: 'TRANSIENT_EXHAUSTED' }, transient_failures: 6 },
    })
    const now = clock.now()
    expect(await call('retry_workflow', workflow)).toMatchObject({
      ...{ changed: true, state: 'active', error: null, transient_failures: 0, backoff_until: null },
      next_due_at: expect.any(String),
    })
    expect(await schedules(workflow)).toMatchObject([{ next_run_at: now }])
    expect(await consumers(workflow)).toEqual([{ handler_name: 'send', dirty: true }])
    expect(await call('retry_workflow', workflow)).toMatchObject({ changed: false, result: 'unchanged' })
  })

  test('of what is put away is refused', async () => {
    const workflow = await readyWorkflow(clock.sql)
    await call('archive_workflow', workflow)
    for (const action of ['retry_workflow', 'request_run'])
      expect((await refusal(call(action, workflow))).message, action).toBe('workflow_archived')
    expect((await refusal(call('add_workflow_message', workflow, { content: 'x' }))).message).toBe(
      'workflow_archived',
    )
  })
})

describe('a requested run', () => {
  test('is manual, of the newest script of a draft, and says that it is real', async () => {
    const workflow = await readyWorkflow(clock.sql)
    const saved = await rpc<Json>(clock.sql, 'save_script', {
      ...ids(workflow),
      code: 'workflow = 2',
      config,
    })
    expect(await call('request_run', workflow)).toMatchObject({
      ...{ changed: true, result: 'processed', state: 'ready', note: expect.stringMatching(/really sent/) },
      ...{ run_requested_at: '2026-03-01T12:00:00+00:00', next_due_at: '2026-03-01T12:00:00+00:00' },
    })
    expect(await call('request_run', workflow)).toMatchObject({
      changed: false,
      result: 'unchanged',
      note: expect.any(String),
    })
    const session = await rpc<Json>(clock.sql, 'claim_workflow_session', { worker: 'w' })
    expect(session).toMatchObject({ trigger: 'manual', script: { id: saved.script_id, major: 2 } })
    const { session_id, lease_token } = session
    await rpc(clock.sql, 'finish_session', { session_id, lease_token })
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      run_requested_at: null,
      next_due_at: null,
      status: 'draft',
    })
  })

  test('of an active workflow is of its active script, and waits for no back-off', async () => {
    const workflow = await activeWorkflow(clock.sql)
    await rpc(clock.sql, 'save_script', { ...ids(workflow), code: 'workflow = 2', config })
    await database.owner`update public.workflows set backoff_until = '2027-01-01', transient_failures = 2`
    await call('request_run', workflow)
    const session = await rpc<Json>(clock.sql, 'claim_workflow_session', { worker: 'w' })
    expect(session).toMatchObject({ trigger: 'manual', script: { id: workflow.script_id } })
    const [row] = await database.owner`select transient_failures from public.workflows`
    expect(row?.transient_failures).toBe(2)
    await endSession(session)
  })

  test('is refused without a script, in maintenance and with an error', async () => {
    const draft = await draftWorkflow(clock.sql)
    expect(await refusal(call('request_run', draft))).toMatchObject({
      code: 'PT404',
      message: 'script_not_found',
    })
    const workflow = await activeWorkflow(clock.sql)
    await failLogic(clock.sql, workflow)
    expect((await refusal(call('request_run', workflow))).message).toBe('not_runnable')
    await rpc(clock.sql, 'claim_task', { worker: 'w', has_agent: false })
    expect((await refusal(call('request_run', workflow))).message).toBe('not_runnable')
  })

  test('is requested once for one Idempotency-Key, also after it ran', async () => {
    const workflow = await readyWorkflow(clock.sql)
    const first = await call('request_run', workflow, { idempotency_key: 'k' })
    const { session_id, lease_token } = await rpc<Json>(clock.sql, 'claim_workflow_session', { worker: 'w' })
    await rpc(clock.sql, 'finish_session', { session_id, lease_token })
    expect(await call('request_run', workflow, { idempotency_key: 'k' })).toMatchObject({
      ...{ changed: false, result: 'replayed', run_requested_at: first.run_requested_at },
    })
    expect((await workflowOf(clock.sql, workflow)).run_requested_at).toBeNull()
  })
})

describe('an error event', () => {
  test('that is acknowledged is hidden; while the error is there the state stays error', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { mutation_id } = await uncertainRun(clock.sql, workflow)
    const [event] = (await messagesOf(clock.sql, workflow)).filter(({ type }) => type === 'error')
    const acknowledge = () => call('acknowledge_error', workflow, { event_id: event.id })
    expect(await acknowledge()).toMatchObject({ changed: true, state: 'error', notifications: [] })
    expect(await acknowledge()).toMatchObject({ changed: false, result: 'unchanged' })
    expect((await messagesOf(clock.sql, workflow)).find(({ id }) => id === event.id)).toMatchObject({
      ...{ acknowledged_at: '2026-03-01T12:00:00+00:00', resolved_at: null },
    })
    await rpc(clock.sql, 'resolve_mutation', { mutation_id, how: 'skipped' })
    expect((await workflowOf(clock.sql, workflow)).state).toBe('active')
  })

  test('without an error makes the state error until somebody has seen it, which is pushed', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const other = await activeWorkflow(clock.sql)
    await database.owner`
      select private.notify_workflow(${workflow.workflow_id}, 'error', '{"code": "RETRY_INVALID", "message": "No."}')`
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({ state: 'error', error: null })
    const [event] = await messagesOf(clock.sql, workflow)
    for (const [which, event_id] of [
      [other, event.id],
      [workflow, randomUUID()],
    ])
      expect(await refusal(call('acknowledge_error', which, { event_id }))).toMatchObject({
        ...{ code: 'PT404', message: 'error_not_found' },
      })
    expect(await call('acknowledge_error', workflow, { event_id: event.id })).toMatchObject({
      state: 'active',
    })
    expect((await pushes(workflow.workflow_id)).at(-1)?.payload).toMatchObject({ state: 'active' })
  })
})

describe('resolving a side effect', () => {
  const prepared = async (more = {}) => {
    const workflow = await activeWorkflow(clock.sql)
    const uncertain = await uncertainRun(clock.sql, workflow, { items: ['a', 'b'], ...more })
    await database.owner`update public.handler_states set dirty = false`
    return { workflow, ...uncertain }
  }
  const resolve = (mutation_id: string, how: string, more = {}) =>
    rpc<Json>(clock.sql, 'resolve_mutation', { mutation_id, how, ...more })
  const runOf = async (run_id: string) => {
    const [run] = await database.owner`
      select status, phase, mutation_outcome from public.handler_runs where id = ${run_id}`
    return run
  }
  const mutationOf = async (id: string) => {
    const [mutation] = await database.owner`
      select status, result, resolved_by, resolved_at, reconcile_attempts, next_reconcile_at
      from public.workflow_mutations where id = ${id}`
    return mutation
  }

  test('as failed gives its events back: they are worked on again', async () => {
    const { workflow, run_id, mutation_id } = await prepared()
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'error', pending_retry_run_id: run_id },
      unresolved_mutation: {
        ...{ id: mutation_id, run_id, tool: 'Http.send', status: 'indeterminate' },
        actions: ['failed', 'skipped', 'applied'],
      },
    })
    expect(await resolve(mutation_id, 'failed')).toMatchObject({
      ...{ ok: true, changed: true, state: 'active', error: null, pending_retry_run_id: null },
      ...{ unresolved_mutation: null, notifications: [], next_due_at: expect.any(String) },
    })
    expect(await eventsOf(workflow)).toEqual(
      ['a', 'b'].map((message_id) => ({
        message_id,
        status: 'pending',
        reserved_by_run_id: null,
        attempt_number: 2,
      })),
    )
    expect(await runOf(run_id)).toEqual({
      ...{ status: 'paused:reconciliation', phase: 'mutated', mutation_outcome: 'failure' },
    })
    expect(await mutationOf(mutation_id)).toMatchObject({
      status: 'failed',
      resolved_by: 'user',
      resolved_at: clock.now(),
    })
    expect(await consumers(workflow)).toEqual([{ handler_name: 'send', dirty: true }])
  })

  test('as skipped gives its events up and goes on with next()', async () => {
    const { workflow, run_id, mutation_id } = await prepared()
    expect(await resolve(mutation_id, 'skipped')).toMatchObject({
      ...{ state: 'active', error: null, pending_retry_run_id: run_id },
    })
    expect(await eventsOf(workflow)).toEqual(
      ['a', 'b'].map((message_id) => ({
        ...{ message_id, status: 'skipped', reserved_by_run_id: run_id, attempt_number: 1 },
      })),
    )
    expect(await runOf(run_id)).toMatchObject({ phase: 'mutated', mutation_outcome: 'skipped' })
    expect(await mutationOf(mutation_id)).toMatchObject({ status: 'failed', resolved_by: 'user_skip' })
    const session = await rpc<Json>(clock.sql, 'claim_workflow_session', { worker: 'w' })
    expect(session).toMatchObject({
      ...{ trigger: 'retry', run: { retry_of: run_id, phase: 'emitting', result: { status: 'skipped' } } },
    })
    await endSession(session)
  })

  test('as applied keeps its events and gives next() the result', async () => {
    const { workflow, run_id, mutation_id } = await prepared({ status: 'paused:transient' })
    expect(await resolve(mutation_id, 'applied', { result: { order: 7 } })).toMatchObject({
      ...{ state: 'active', error: null, pending_retry_run_id: run_id },
    })
    expect(await eventsOf(workflow)).toMatchObject([
      { status: 'reserved', reserved_by_run_id: run_id },
      { status: 'reserved', reserved_by_run_id: run_id },
    ])
    expect(await runOf(run_id)).toEqual({
      ...{ status: 'paused:transient', phase: 'mutated', mutation_outcome: 'success' },
    })
    expect(await mutationOf(mutation_id)).toMatchObject({
      status: 'applied',
      resolved_by: 'user',
      result: { order: 7 },
    })
    await clock.advance(60)
    const session = await rpc<Json>(clock.sql, 'claim_workflow_session', { worker: 'w' })
    expect(session).toMatchObject({
      ...{ trigger: 'retry', run: { result: { status: 'applied', result: { order: 7 } } } },
    })
    await endSession(session)
    expect(await eventsOf(workflow)).toMatchObject([{ status: 'consumed' }, { status: 'consumed' }])
  })

  test('by asking again starts the questions anew; the error stays until there is an answer', async () => {
    const { workflow, mutation_id } = await prepared({ reconcile: { url: 'https://x.test/asked' } })
    expect((await workflowOf(clock.sql, workflow)).unresolved_mutation.actions).toContain('ask_again')
    await database.owner`update public.workflow_mutations set reconcile_attempts = 5`
    expect(await resolve(mutation_id, 'ask_again')).toMatchObject({
      ...{ changed: true, state: 'error', error: { code: 'MUTATION_UNCERTAIN' } },
      unresolved_mutation: { status: 'needs_reconcile', actions: [] },
    })
    expect(await mutationOf(mutation_id)).toMatchObject({
      ...{
        status: 'needs_reconcile',
        reconcile_attempts: 0,
        next_reconcile_at: clock.now(),
        resolved_by: null,
      },
    })
    expect(await resolve(mutation_id, 'ask_again')).toMatchObject({ changed: false, result: 'unchanged' })
    expect((await refusal(resolve(mutation_id, 'failed'))).message).toBe('not_indeterminate')
    expect(await rpc(clock.sql, 'claim_reconcile', { worker: 'w' })).toMatchObject({
      mutation_id,
      attempt: 1,
    })
  })

  test('by asking again is refused where nobody can be asked', async () => {
    const { mutation_id } = await prepared()
    expect(await refusal(resolve(mutation_id, 'ask_again'))).toMatchObject({
      code: 'PT409',
      message: 'cannot_be_asked',
    })
  })

  test('twice alike is unchanged, and otherwise refused', async () => {
    for (const how of ['failed', 'skipped', 'applied']) {
      const { workflow, mutation_id } = await prepared()
      await resolve(mutation_id, how)
      const before = await everything(workflow)
      expect(await resolve(mutation_id, how), how).toMatchObject({
        ok: true,
        changed: false,
        result: 'unchanged',
      })
      for (const other of ['failed', 'skipped', 'applied', 'ask_again'].filter((word) => word !== how)) {
        const refused = await refusal(resolve(mutation_id, other))
        expect(refused, `${how}, then ${other}`).toMatchObject({
          code: 'PT409',
          message: 'illegal_transition',
        })
      }
      if (how === 'applied')
        expect((await refusal(resolve(mutation_id, how, { result: { order: 8 } }))).message).toBe(
          'illegal_transition',
        )
      expect(await everything(workflow)).toEqual(before)
      // Out of the way of the next.
      await call('pause_workflow', workflow)
    }
  })

  test('is decided once, by whoever of eight is first', async () => {
    const { workflow, mutation_id, run_id } = await prepared()
    const pool = database.connect('postgres', { max: 8 })
    const ways = Array.from({ length: 8 }, (_, i) => (['failed', 'skipped', 'applied'] as const)[i % 3])
    const answers = await Promise.allSettled(
      ways.map((how) => rpc<Json>(pool, 'resolve_mutation', { mutation_id, how })),
    )
    const changed = answers.flatMap((answer, i) =>
      answer.status === 'fulfilled' && answer.value.changed ? [ways[i]] : [],
    )
    expect(changed).toHaveLength(1)
    const [how] = changed
    answers.forEach((answer, i) => {
      expect(answer.status, `${how}, ${ways[i]}`).toBe(ways[i] === how ? 'fulfilled' : 'rejected')
    })
    const outcomes = { failed: 'failure', skipped: 'skipped', applied: 'success' }
    expect(await runOf(run_id)).toMatchObject({ mutation_outcome: outcomes[how as 'failed'] })
    const [events] = await database.superuser`
      select count(*)::int as n from public.status_events where machine = 'mutation' and subject_id = ${mutation_id}`
    expect(events?.n).toBe(3)
    await call('pause_workflow', workflow)
  })

  test('of nobody, of somebody else or with a wrong word is refused', async () => {
    const { workflow, mutation_id } = await prepared()
    const other = await readyWorkflow(clock.sql)
    const before = await everything(workflow)
    for (const args of [
      { mutation_id: randomUUID() },
      { mutation_id, owner_id: other.owner_id },
      { mutation_id, workflow_id: other.workflow_id },
    ])
      expect(await refusal(rpc(clock.sql, 'resolve_mutation', { how: 'failed', ...args }))).toMatchObject({
        ...{ code: 'PT404', message: 'mutation_not_found' },
      })
    for (const [how, result] of [
      ['maybe', null],
      ['failed', {}],
      ['skipped', {}],
      ['applied', { text: 'x'.repeat(65_536) }],
    ] as const)
      expect(await refusal(resolve(mutation_id, how, { result }))).toMatchObject({ code: 'PT422' })
    expect(await everything(workflow)).toEqual(before)
  })
})

describe('whoever asks', () => {
  test("changes only what is its owner's; null acts for anybody", async () => {
    const workflow = await activeWorkflow(clock.sql)
    const stranger = randomUUID()
    const before = await everything(workflow)
    for (const [name, more] of [
      ['save_script', { code: 'x', config }],
      ['activate_workflow', {}],
      ['update_workflow', { title: 'Mine' }],
      ['pause_workflow', {}],
      ['resume_workflow', {}],
      ['archive_workflow', {}],
      ['unarchive_workflow', {}],
      ['retry_workflow', {}],
      ['request_run', {}],
      ['acknowledge_error', { event_id: randomUUID() }],
      ['acknowledge_notification', { notification_id: randomUUID() }],
      ['add_workflow_message', { content: 'x' }],
      ['set_workflow_secret', { name: 'A', value: 'x' }],
    ] as const) {
      for (const which of [
        { workflow_id: workflow.workflow_id, owner_id: stranger },
        { workflow_id: randomUUID(), owner_id: null },
      ])
        expect(await refusal(rpc(clock.sql, name, { ...which, ...more })), name).toMatchObject({
          ...{ code: 'PT404', message: 'workflow_not_found' },
        })
    }
    expect(await everything(workflow)).toEqual(before)
    expect(await call('pause_workflow', workflow, { owner_id: null })).toMatchObject({ changed: true })
  })

  test('as an operator for somebody else stands in the history', async () => {
    const workflow = await readyWorkflow(clock.sql)
    const actor = randomUUID()
    await call('activate_workflow', workflow, { actor })
    await call('pause_workflow', workflow, { actor })
    await call('resume_workflow', workflow)
    const rows = await database.superuser`
      select details from public.status_events where subject_id = ${workflow.workflow_id} order by seq`
    expect(rows.map(({ details }) => details)).toEqual([null, { actor }, { actor }, null])
  })

  test('as an operator for somebody else stands with what was made or said', async () => {
    const actor = randomUUID()
    const made = await readyWorkflow(clock.sql, { actor })
    const talked = await draftWorkflow(clock.sql)
    await rpc(clock.sql, 'save_script', { ...ids(made), code: 'workflow = 2', config, actor })
    await clock.advance(1)
    await call('add_workflow_message', talked, { content: 'Once more.', actor })
    await call('set_workflow_secret', made, { name: 'A', value: 'x', actor })
    await call('set_workflow_secret', made, { name: 'B', value: 'x', actor })
    await call('set_workflow_secret', made, { name: 'B', value: 'y' })

    const [event] = await database.superuser`
      select source, details from public.status_events where subject_id = ${made.workflow_id} and seq = 1`
    expect(event).toEqual({ source: 'user', details: { actor } })
    const { items } = await call('list_workflow_scripts', made)
    expect(items).toMatchObject([
      { version: '2.0', actor },
      { version: '1.0', actor },
    ])
    expect((await messagesOf(clock.sql, talked)).map(({ payload }) => payload)).toEqual([
      { task_id: talked.task_id },
      { task_id: expect.any(String), actor },
    ])
    const secrets = await database.superuser`
      select name, actor from private.workflow_secrets where workflow_id = ${made.workflow_id} order by name`
    expect(secrets).toEqual([
      { name: 'A', actor },
      { name: 'B', actor: null },
    ])
  })
})

describe('a change of title or time zone', () => {
  const planned = {
    ...config,
    producers: { ...config.producers, daily: { schedule: { cron: '0 9 * * *' }, publishes: [] } },
  }
  const next = '2026-03-02T08:00:00Z'
  /** Active, and both of its producers have run. */
  async function plannedWorkflow() {
    const workflow = await activeWorkflow(clock.sql, { config: planned })
    await database.owner`
      update public.producer_schedules set next_run_at = '2026-03-02T09:00:00Z' where workflow_id = ${workflow.workflow_id}`
    await database.owner`
      update public.handler_states set dirty = false where workflow_id = ${workflow.workflow_id}`
    return workflow
  }

  test('is told, changes no status, and the same again is unchanged', async () => {
    const workflow = await plannedWorkflow()
    const before = await history(workflow)
    const { version } = await workflowOf(clock.sql, workflow)
    const changed = await call('update_workflow', workflow, { title: 'New orders' })
    expect(changed).toMatchObject({
      ...{ ok: true, changed: true, result: 'processed', title: 'New orders', time_zone: 'UTC' },
      ...{ status: 'active', version: version + 1 },
    })
    expect((await pushes(workflow.workflow_id)).at(-1)?.payload).toMatchObject({ version: version + 1 })
    for (const same of [{ title: 'New orders' }, { time_zone: 'UTC' }, {}])
      expect(await call('update_workflow', workflow, same)).toMatchObject({
        result: 'unchanged',
        version: version + 1,
      })
    expect(await history(workflow)).toEqual(before)
  })

  test('plans every cron anew, and no interval', async () => {
    const workflow = await plannedWorkflow()
    expect(
      await call('update_workflow', workflow, {
        time_zone: 'Europe/Berlin',
        next_runs: { '0 9 * * *': next },
      }),
    ).toMatchObject({ time_zone: 'Europe/Berlin', title: 'Orders', next_due_at: '2026-03-02T08:00:00+00:00' })
    expect(await schedules(workflow)).toMatchObject([
      { producer: 'daily', next_run_at: new Date(next) },
      { producer: 'feed', next_run_at: new Date('2026-03-02T09:00:00Z') },
    ])
  })

  test('leaves due what is due, and makes due what nobody planned', async () => {
    const workflow = await activeWorkflow(clock.sql, { config: planned })
    await call('update_workflow', workflow, { time_zone: 'Europe/Berlin', next_runs: { '0 9 * * *': next } })
    expect(await schedules(workflow)).toMatchObject([
      { next_run_at: clock.now() },
      { next_run_at: clock.now() },
    ])

    const other = await plannedWorkflow()
    await call('update_workflow', other, { time_zone: 'Asia/Tokyo', next_runs: { '0 8 * * *': next } })
    expect(await schedules(other)).toMatchObject([
      { producer: 'daily', next_run_at: clock.now() },
      { producer: 'feed', next_run_at: new Date('2026-03-02T09:00:00Z') },
    ])
  })

  test('that is none is refused', async () => {
    const workflow = await plannedWorkflow()
    const before = await everything(workflow)
    for (const bad of [
      { title: ' ' },
      { title: 'x'.repeat(256) },
      { time_zone: 'Mars/Olympus' },
      { time_zone: '+02:00' },
      { time_zone: 'Asia/Tokyo', next_runs: [] },
      { time_zone: 'Asia/Tokyo', next_runs: { '0 9 * * *': 'soon' } },
    ])
      expect(await refusal(call('update_workflow', workflow, bad)), JSON.stringify(bad)).toMatchObject({
        code: 'PT422',
      })
    expect(await everything(workflow)).toEqual(before)
  })
})

describe('a notification', () => {
  test('of a script is acknowledged by itself, once', async () => {
    const workflow = await activeWorkflow(clock.sql)
    await database.owner`
      select private.notify_workflow(${workflow.workflow_id}, 'script_message', '{"message": "Hello."}')`
    const { notifications, version } = await workflowOf(clock.sql, workflow)
    const acknowledge = () =>
      call('acknowledge_notification', workflow, { notification_id: notifications[0].id })
    expect(await acknowledge()).toMatchObject({ changed: true, notifications: [], version: version + 1 })
    expect(await acknowledge()).toMatchObject({ changed: false, result: 'unchanged', version: version + 1 })
    expect(
      await refusal(call('acknowledge_notification', workflow, { notification_id: randomUUID() })),
    ).toMatchObject({ code: 'PT404', message: 'notification_not_found' })
  })

  test('of an error takes its event with it', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { run_id, lease_token } = await beginRun(clock.sql, workflow)
    await rpc(clock.sql, 'update_handler_run_status', { run_id, lease_token, status: 'failed:internal' })
    const [{ id: notification_id }] = (await workflowOf(clock.sql, workflow)).notifications
    expect(await call('acknowledge_notification', workflow, { notification_id })).toMatchObject({
      ...{ state: 'error', notifications: [] },
    })
    const events = (await messagesOf(clock.sql, workflow)).filter(({ type }) => type === 'error')
    expect(events).toMatchObject([{ acknowledged_at: expect.any(String) }])
  })
})

test('one of eight who pause at once does, one of eight who resume does, and the history folds', async () => {
  const workflow = await activeWorkflow(clock.sql)
  const pool = database.connect('postgres', { max: 8 })
  for (const name of ['pause_workflow', 'resume_workflow', 'pause_workflow', 'activate_workflow']) {
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => rpc<Json>(pool, name, { workflow_id: workflow.workflow_id })),
    )
    expect(
      answers.filter(({ changed }) => changed),
      name,
    ).toHaveLength(1)
  }
  // All at once: each is done or refused, and none is half done.
  await Promise.allSettled(
    ['pause', 'resume', 'archive', 'unarchive', 'activate', 'retry', 'pause', 'activate'].map((verb) =>
      rpc(pool, `${verb}_workflow`, { workflow_id: workflow.workflow_id }),
    ),
  )
  const rows = await history(workflow)
  expect(rows.at(-1)?.[0]).toBe((await workflowOf(clock.sql, workflow)).status)
})

test('what breaks off before its commit leaves everything as it was', async () => {
  const workflow = await activeWorkflow(clock.sql)
  const { mutation_id } = await uncertainRun(clock.sql, workflow)
  const before = await everything(workflow)
  for (const [name, args] of [
    ['resolve_mutation', { mutation_id, how: 'failed' }],
    ['resolve_mutation', { mutation_id, how: 'skipped' }],
    ['resolve_mutation', { mutation_id, how: 'applied', result: {} }],
    ['pause_workflow', { workflow_id: workflow.workflow_id }],
    ['activate_workflow', { workflow_id: workflow.workflow_id }],
    ['save_script', { ...ids(workflow), code: 'workflow = 2', config }],
    ['add_workflow_message', { workflow_id: workflow.workflow_id, content: 'x' }],
  ] as const) {
    await expect(
      database.owner.begin(async (sql) => {
        await rpc(sql, name, args)
        await sql`select 1 / 0`
      }),
    ).rejects.toThrow(/division by zero/)
    expect(await everything(workflow), name).toEqual(before)
  }
})
