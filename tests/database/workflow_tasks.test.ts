import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'
import {
  activeWorkflow,
  claimTask,
  config,
  draftWorkflow,
  failLogic,
  type Json,
  messagesOf,
  readyWorkflow,
  type Workflow,
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

const call = (name: string, args: Record<string, unknown>): Promise<Json> => rpc(clock.sql, name, args)
/** Calls a function as the worker that has the task. */
const hold = ({ task_id, lease_token }: Json, name: string, more = {}): Promise<Json> =>
  call(name, { task_id, lease_token, ...more })
const talk = ({ workflow_id }: { workflow_id: string }, content: string) =>
  call('add_workflow_message', { workflow_id, content })
const tasksOf = ({ workflow_id }: { workflow_id: string }): Promise<Json[]> =>
  database.owner`select * from public.workflow_tasks where workflow_id = ${workflow_id} order by created_at, id`
const fix = (task: Json, code = 'workflow = {} // fixed', comment = 'x is a function now.') =>
  hold(task, 'apply_fix', { code, config, comment })
const lane = async (name: string) => {
  const [load] = await clock.sql`select due, leases from lifecycle.lane_load(${name})`
  return load
}
const stale = { code: 'PT409', message: 'stale_lease' }

/** Fails a second later than whatever was before. */
const failNext = async (workflow: { workflow_id: string }) => {
  await clock.advance(1)
  return failLogic(clock.sql, workflow)
}

/** A workflow whose script has failed, with its maintainer's task claimed. */
const failing = async (): Promise<{ workflow: Workflow; run_id: string; task: Json }> => {
  const workflow = await activeWorkflow(clock.sql)
  const run_id = await failLogic(clock.sql, workflow)
  return { workflow, run_id, task: await claimTask(clock.sql) }
}

describe('a task of the planner', () => {
  test('is claimed with the conversation so far, a lease and a token', async () => {
    const draft = await draftWorkflow(clock.sql)
    await call('set_workflow_secret', { workflow_id: draft.workflow_id, name: 'KEY', value: 'v' })
    expect(await lane('agents')).toEqual({ due: true, leases: 0 })
    expect(await claimTask(clock.sql)).toEqual({
      ...{
        task_id: draft.task_id,
        type: 'planner',
        workflow_id: draft.workflow_id,
        owner_id: draft.owner_id,
      },
      ...{
        title: 'Send me the weather.',
        time_zone: 'UTC',
        attempts: 0,
        script: null,
        failure: null,
        comments: [],
      },
      ...{
        lease_token: expect.any(String),
        lease_expires_at: '2026-03-01T12:01:00+00:00',
        secret_names: ['KEY'],
      },
      messages: [{ role: 'user', content: 'Send me the weather.' }],
    })
    expect(await claimTask(clock.sql)).toBeNull()
    expect(await lane('agents')).toEqual({ due: false, leases: 1 })
  })

  test('ends with a script, which is saved and not activated', async () => {
    const draft = await draftWorkflow(clock.sql)
    await clock.advance(1)
    const task = await claimTask(clock.sql)
    const plan = {
      ...{ code: 'workflow = {}', config, title: 'Weather', summary: 'Sends the weather.', reply: null },
      messages: [{ role: 'user', content: 'Send me the weather.' }],
    }
    const done = await hold(task, 'complete_plan', plan)
    expect(done).toMatchObject({ ok: true, changed: true, state: 'finished', major: 1, minor: 0 })
    expect(await hold(task, 'complete_plan', plan)).toMatchObject({
      ...{ changed: false, result: 'unchanged', script_id: done.script_id },
    })
    expect(await workflowOf(clock.sql, draft)).toMatchObject({
      ...{
        state: 'ready',
        status: 'draft',
        title: 'Weather',
        active_script_id: null,
        task: { state: 'finished' },
      },
    })
    expect(await messagesOf(clock.sql, draft)).toMatchObject([
      { role: 'user' },
      {
        ...{ role: 'assistant', type: 'script', content: 'Sends the weather.' },
        payload: { script_id: done.script_id, version: '1.0', task_id: task.task_id },
      },
    ])
  })

  test('leaves a title that somebody chose', async () => {
    const { workflow_id } = await call('create_workflow', {
      owner_id: randomUUID(),
      message: 'Do it.',
      title: 'Mine',
    })
    await hold(await claimTask(clock.sql), 'complete_plan', { code: 'workflow = {}', config, title: 'Other' })
    expect((await workflowOf(clock.sql, { workflow_id })).title).toBe('Mine')
  })

  test('whose script can not be saved goes on: nothing has changed', async () => {
    const draft = await draftWorkflow(clock.sql)
    const task = await claimTask(clock.sql)
    for (const bad of [
      { code: ' ', config },
      { code: 'x', config: 1 },
    ])
      expect(await refusal(hold(task, 'complete_plan', bad))).toMatchObject({ code: 'PT422' })
    expect(await tasksOf(draft)).toMatchObject([{ state: 'queued', lease_token: task.lease_token }])
  })

  test('that asks back waits; the answer goes on with the same conversation', async () => {
    const draft = await draftWorkflow(clock.sql)
    await clock.advance(1)
    const task = await claimTask(clock.sql)
    const messages = [
      { role: 'user', content: 'Send me the weather.' },
      { role: 'assistant', content: 'Where?' },
    ]
    expect(await hold(task, 'wait_task', { reply: 'Where?', messages })).toMatchObject({
      changed: true,
      state: 'waiting',
    })
    expect(await hold(task, 'wait_task', { reply: 'Where?', messages })).toMatchObject({ changed: false })
    expect(await messagesOf(clock.sql, draft)).toMatchObject([
      { role: 'user' },
      { role: 'assistant', content: 'Where?' },
    ])
    await clock.advance(86_400)
    expect(await claimTask(clock.sql)).toBeNull()
    expect((await workflowOf(clock.sql, draft)).task).toMatchObject({ state: 'waiting' })

    expect(await talk(draft, 'In Berlin.')).toMatchObject({ ok: true, task_id: task.task_id })
    expect(await refusal(hold(task, 'wait_task', { reply: 'Late' }))).toMatchObject(stale)
    expect(await claimTask(clock.sql)).toMatchObject({
      ...{ task_id: task.task_id, attempts: 0 },
      messages: [...messages, { role: 'user', content: 'In Berlin.' }],
    })
    expect(await tasksOf(draft)).toHaveLength(1)
  })

  test('that says nothing at all still says something to its owner', async () => {
    const draft = await draftWorkflow(clock.sql)
    await clock.advance(1)
    await hold(await claimTask(clock.sql), 'wait_task', { reply: '  ' })
    expect((await messagesOf(clock.sql, draft)).at(-1).content).toMatch(/\w+/)
  })

  test('is one at a time: what is said meanwhile makes the next one, which begins with all that was said', async () => {
    const draft = await draftWorkflow(clock.sql)
    const task = await claimTask(clock.sql)
    await clock.advance(1)
    const said = await talk(draft, 'Also on Sundays.')
    expect(said.task_id).not.toBe(task.task_id)
    expect(await claimTask(clock.sql)).toBeNull()
    await clock.advance(1)
    await hold(task, 'complete_plan', { code: 'workflow = 1', config, summary: 'Sends it.' })
    expect(await claimTask(clock.sql)).toMatchObject({
      ...{ task_id: said.task_id, script: { major: 1, minor: 0, code: 'workflow = 1' } },
      messages: [
        { role: 'user', content: 'Send me the weather.' },
        { role: 'assistant', content: 'Sends it.' },
        { role: 'user', content: 'Also on Sundays.' },
      ],
    })
  })

  test('keeps what is stored after each answer of the agent', async () => {
    await draftWorkflow(clock.sql)
    const task = await claimTask(clock.sql)
    const messages = [...task.messages, { role: 'assistant', content: null, tool_calls: [{ id: '1' }] }]
    await clock.advance(50)
    expect(await hold(task, 'store_task_step', { messages })).toMatchObject({
      ...{ changed: true, lease_expires_at: '2026-03-01T12:01:50+00:00' },
    })
    expect(await hold(task, 'store_task_step', { messages })).toMatchObject({ result: 'unchanged' })
    expect(await refusal(hold(task, 'store_task_step', { messages: {} }))).toMatchObject({ code: 'PT422' })
    await hold(task, 'yield_task')
    expect(await claimTask(clock.sql)).toMatchObject({ task_id: task.task_id, messages, attempts: 0 })
  })
})

describe('a lease of a task', () => {
  test('is renewed, runs out after 60 s, and an old token is refused everything', async () => {
    const draft = await draftWorkflow(clock.sql)
    const first = await claimTask(clock.sql)
    await clock.advance(40)
    expect(await hold(first, 'renew_task')).toMatchObject({
      ok: true,
      lease_expires_at: '2026-03-01T12:01:40+00:00',
    })
    await clock.advance(59)
    expect(await claimTask(clock.sql)).toBeNull()
    await clock.advance(1)
    const second = await claimTask(clock.sql)
    // A worker that was lost has used up an attempt.
    expect(second).toMatchObject({ task_id: first.task_id, attempts: 1 })
    const before = [
      await tasksOf(draft),
      await messagesOf(clock.sql, draft),
      await workflowOf(clock.sql, draft),
    ]
    for (const [name, more] of [
      ['renew_task', {}],
      ['store_task_step', { messages: [] }],
      ['yield_task', {}],
      ['wait_task', { reply: 'x' }],
      ['complete_plan', { code: 'x', config }],
      ['apply_fix', { code: 'x', config, comment: 'x' }],
      ['fail_maintenance', { code: 'X', error: 'x' }],
      ['fail_task', { error: 'x' }],
    ] as const) {
      expect(await refusal(hold(first, name, more)), name).toMatchObject(stale)
      expect(await refusal(hold({ ...first, lease_token: null }, name, more)), name).toMatchObject(stale)
      expect(await refusal(hold({ ...first, task_id: randomUUID() }, name, more)), name).toMatchObject({
        ...{ code: 'PT404', message: 'task_not_found' },
      })
    }
    expect([
      await tasksOf(draft),
      await messagesOf(clock.sql, draft),
      await workflowOf(clock.sql, draft),
    ]).toEqual(before)
  })

  test('that is lost five times in a row ends the task', async () => {
    const draft = await draftWorkflow(clock.sql)
    for (let lost = 0; lost < 5; lost++) {
      expect(await claimTask(clock.sql)).toMatchObject({ attempts: lost })
      await clock.advance(60)
    }
    expect(await claimTask(clock.sql)).toBeNull()
    expect(await tasksOf(draft)).toMatchObject([{ state: 'error', attempts: 5 }])
    expect((await messagesOf(clock.sql, draft)).at(-1)).toMatchObject({
      role: 'assistant',
      payload: { error_code: 'CRASH_LOOP' },
    })
  })

  test('goes to one of eight workers, and to the owner with the fewest first', async () => {
    const [first] = [await draftWorkflow(clock.sql), await draftWorkflow(clock.sql)]
    await clock.advance(1)
    const busy = await call('create_workflow', { owner_id: first?.owner_id, message: 'Another one.' })
    await clock.advance(1)
    const late = await draftWorkflow(clock.sql)
    const order = []
    for (let i = 0; i < 4; i++) order.push((await claimTask(clock.sql)).workflow_id)
    expect(order.slice(2)).toEqual([late.workflow_id, busy.workflow_id])

    const another = await draftWorkflow(clock.sql)
    const pool = database.connect('postgres', { max: 8 })
    // The clock of these is the real one: the leases above ran out long ago.
    await database.owner`
      update public.workflow_tasks set lease_expires_at = now() + interval '1 h' where lease_token is not null`
    const claims = await Promise.all(Array.from({ length: 8 }, () => claimTask(pool)))
    expect(claims.filter((claim) => claim !== null)).toMatchObject([{ task_id: another.task_id }])
  })
})

describe('a failed attempt', () => {
  test('is counted and rests for 10 s, 20 s, 40 s, 80 s; the fifth ends the task with a message', async () => {
    const draft = await draftWorkflow(clock.sql)
    for (const wait of [10, 20, 40, 80]) {
      const task = await claimTask(clock.sql)
      expect(
        await hold(task, 'fail_task', { error: 'No answer.', error_code: 'AGENT_TIMEOUT' }),
      ).toMatchObject({
        ...{ changed: true, state: 'queued' },
      })
      await clock.advance(wait - 1)
      expect(await claimTask(clock.sql)).toBeNull()
      expect(await lane('agents')).toMatchObject({ due: false })
      await clock.advance(1)
    }
    const last = await claimTask(clock.sql)
    expect(last).toMatchObject({ attempts: 4 })
    const fail = () => hold(last, 'fail_task', { error: 'No answer.', error_code: 'AGENT_TIMEOUT' })
    expect(await fail()).toMatchObject({ changed: true, state: 'error', attempts: 5 })
    expect(await fail()).toMatchObject({ changed: false, result: 'unchanged' })
    expect(await workflowOf(clock.sql, draft)).toMatchObject({
      state: 'draft',
      task: { state: 'error', error: 'No answer.' },
    })
    const messages = await messagesOf(clock.sql, draft)
    expect(messages).toHaveLength(2)
    expect(messages[1]).toMatchObject({
      role: 'assistant',
      content: expect.stringMatching(/No answer\..*npm run worker/),
    })
    // Said once more it is a new task.
    const again = await talk(draft, 'Try once more.')
    expect(again.task_id).not.toBe(draft.task_id)
    expect(await claimTask(clock.sql)).toMatchObject({ task_id: again.task_id, attempts: 0 })
  })

  test('of a maintainer: the fifth ends the maintenance with an error', async () => {
    const { workflow, run_id, task } = await failing()
    let held = task
    for (let i = 0; i < 5; i++) {
      await hold(held, 'fail_task', { error: 'No answer.', error_code: 'AGENT_TIMEOUT' })
      await clock.advance(600)
      held = await claimTask(clock.sql)
    }
    expect(held).toBeNull()
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'error', maintenance: false, task: { state: 'error' } },
      error: {
        ...{ code: 'MAINTENANCE_FAILED', stage: 'maintenance', run_id },
        message: 'The agent found no fix: No answer.',
      },
      notifications: [{ type: 'maintenance_failed' }],
    })
  })
})

describe('maintenance', () => {
  test('begins with one task for the failed run, however often a worker starts', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const run_id = await failNext(workflow)
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{
        state: 'fixing',
        actions: ['wait', 'pause'],
        maintenance: true,
        maintenance_fix_count: 0,
        error: null,
      },
      next_due_at: null,
    })
    expect(await lane('agents')).toMatchObject({ due: true })
    const pool = database.connect('postgres', { max: 8 })
    const claims = await Promise.all(Array.from({ length: 8 }, () => claimTask(pool)))
    const [task] = claims.filter((claim) => claim !== null)
    expect(claims.filter((claim) => claim !== null)).toHaveLength(1)
    expect(task).toMatchObject({
      ...{ type: 'maintainer', workflow_id: workflow.workflow_id, messages: [], comments: [], attempts: 0 },
      script: { id: workflow.script_id, major: 1, minor: 0, code: 'workflow = {}' },
      failure: {
        ...{ run_id, handler_type: 'producer', handler_name: 'feed', phase: 'executing' },
        ...{ error: 'x is not a function', error_type: 'logic', logs: [{ level: 'log', text: 'before x' }] },
      },
    })
    for (let restart = 0; restart < 2; restart++) {
      await database.owner`
        update public.workflow_tasks set lease_token = null, lease_expires_at = null where state = 'queued'`
      expect(await claimTask(pool)).toMatchObject({ task_id: task.task_id })
    }
    expect(await tasksOf(workflow)).toMatchObject([{ handler_run_id: run_id, type: 'maintainer' }])
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      maintenance_fix_count: 1,
      task: { type: 'maintainer' },
    })
    expect(await messagesOf(clock.sql, workflow)).toMatchObject([
      { role: 'event', type: 'maintenance_started', payload: { run_id, task_id: task.task_id, attempt: 1 } },
    ])
  })

  test('ends with a fix: the next minor version, active at once, and everything is due', async () => {
    const { workflow, run_id, task } = await failing()
    await database.owner`update public.handler_states set dirty = false`
    await clock.advance(30)
    const fixed = await fix(task)
    expect(fixed).toMatchObject({
      ok: true,
      changed: true,
      major: 1,
      minor: 1,
      activated: true,
      state: 'finished',
    })
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'active', status: 'active', maintenance: false, maintenance_fix_count: 1, error: null },
      ...{
        active_script_id: fixed.script_id,
        active_script: { version: '1.1', comment: 'x is a function now.' },
      },
      ...{ next_due_at: '2026-03-01T12:00:30+00:00', task: { state: 'finished' } },
      schedules: [{ producer: 'feed', next_run_at: '2026-03-01T12:00:30+00:00' }],
    })
    expect((await messagesOf(clock.sql, workflow)).at(-1)).toMatchObject({
      ...{
        role: 'event',
        type: 'maintenance_fixed',
        content: 'The script was fixed: version 1.1. x is a function now.',
      },
      payload: { task_id: task.task_id, run_id, script_id: fixed.script_id, version: '1.1', activated: true },
    })
    const before = [
      await tasksOf(workflow),
      await messagesOf(clock.sql, workflow),
      await workflowOf(clock.sql, workflow),
    ]
    expect(await fix(task)).toMatchObject({ ok: true, changed: false, result: 'unchanged' })
    expect([
      await tasksOf(workflow),
      await messagesOf(clock.sql, workflow),
      await workflowOf(clock.sql, workflow),
    ]).toEqual(before)
    // The maintainer of the next failure hears of it.
    const second = await failNext(workflow)
    expect(await claimTask(clock.sql)).toMatchObject({
      ...{ failure: { run_id: second }, script: { major: 1, minor: 1 }, comments: ['x is a function now.'] },
    })
  })

  test('is applied once by eight at once', async () => {
    const { workflow, task } = await failing()
    const pool = database.connect('postgres', { max: 8 })
    const { task_id, lease_token } = task
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        rpc<Json>(pool, 'apply_fix', { task_id, lease_token, code: 'x', config, comment: 'y' }),
      ),
    )
    expect(answers.filter(({ changed }) => changed)).toHaveLength(1)
    const { items } = await call('list_workflow_scripts', { workflow_id: workflow.workflow_id })
    expect(items.map(({ version }: Json) => version)).toEqual(['1.1', '1.0'])
  })

  test('of a script that is not the active one any more, or of a paused workflow, saves and activates nothing', async () => {
    const { workflow, task } = await failing()
    await call('pause_workflow', { workflow_id: workflow.workflow_id })
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({ state: 'fixing', status: 'disabled' })
    await clock.advance(1)
    expect(await fix(task)).toMatchObject({ changed: true, minor: 1, activated: false })
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'paused', status: 'disabled', active_script_id: workflow.script_id, maintenance: false },
    })
    expect((await messagesOf(clock.sql, workflow)).at(-1).content).toMatch(/saved, not activated/)

    const tested = await readyWorkflow(clock.sql)
    await call('request_run', { workflow_id: tested.workflow_id })
    await failNext(tested)
    expect(await fix(await claimTask(clock.sql))).toMatchObject({ activated: false, minor: 1 })
    expect(await workflowOf(clock.sql, tested)).toMatchObject({
      ...{ state: 'ready', status: 'draft', active_script_id: null },
    })
  })

  test('that a person ended by activating takes no fix any more', async () => {
    const { workflow, task } = await failing()
    const { workflow_id, owner_id } = workflow
    const saved = await call('save_script', { workflow_id, owner_id, code: 'workflow = 2', config })
    await call('activate_workflow', { workflow_id })
    expect(await refusal(fix(task))).toMatchObject(stale)
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'active', active_script_id: saved.script_id, maintenance_fix_count: 0 },
    })
    expect(await claimTask(clock.sql)).toBeNull()
  })

  test('and an activation at once end in one of two ways, never half', async () => {
    for (let round = 0; round < 4; round++) {
      const { workflow, task } = await failing()
      const { workflow_id } = workflow
      const { task_id, lease_token } = task
      const pool = database.connect('postgres', { max: 2 })
      const [fixed] = await Promise.allSettled([
        rpc<Json>(pool, 'apply_fix', { task_id, lease_token, code: 'fixed', config, comment: 'y' }),
        rpc(pool, 'activate_workflow', { workflow_id, script_id: workflow.script_id }),
      ])
      const shown = await workflowOf(clock.sql, workflow)
      expect(shown).toMatchObject({ maintenance: false, state: 'active', maintenance_fix_count: 0 })
      // Whichever came last holds; a fix that came second was refused.
      expect(shown.active_script_id).toBe(workflow.script_id)
      if (fixed?.status === 'rejected') expect(fixed.reason).toMatchObject(stale)
      await call('pause_workflow', { workflow_id })
    }
  })

  test('escalates with the third failure in a row, in one transaction', async () => {
    const workflow = await activeWorkflow(clock.sql)
    for (const attempt of [1, 2]) {
      await failNext(workflow)
      const task = await claimTask(clock.sql)
      expect((await workflowOf(clock.sql, workflow)).maintenance_fix_count).toBe(attempt)
      await fix(task, `workflow = ${attempt}`)
    }
    const run_id = await failNext(workflow)
    expect(await claimTask(clock.sql)).toBeNull()
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'error', status: 'active', maintenance: false, maintenance_fix_count: 0 },
      ...{ active_script: { version: '1.2' }, next_due_at: null },
      error: {
        ...{ code: 'FIX_ATTEMPTS_EXHAUSTED', stage: 'maintenance', run_id, attribution: 'system' },
        message: 'The script failed 3 times in a row: x is not a function',
      },
      notifications: [
        {
          type: 'escalated',
          payload: { code: 'FIX_ATTEMPTS_EXHAUSTED', run_id, logs: expect.stringContaining('before x') },
        },
      ],
    })
    expect(await tasksOf(workflow)).toHaveLength(2)
    const types = (await messagesOf(clock.sql, workflow)).map(({ type }) => type)
    expect(types.filter((type) => type === 'maintenance_escalated')).toHaveLength(1)
    expect(types.filter((type) => type === 'error')).toHaveLength(1)
    // A person goes on with it: the count begins anew.
    await call('retry_workflow', { workflow_id: workflow.workflow_id })
    await failNext(workflow)
    expect(await claimTask(clock.sql)).toMatchObject({ type: 'maintainer' })
    expect((await workflowOf(clock.sql, workflow)).maintenance_fix_count).toBe(1)
  })

  test('that breaks off before its commit begins anew: escalation and fix are whole or not there', async () => {
    const { workflow, task } = await failing()
    const { task_id, lease_token } = task
    const state = async () => [
      await tasksOf(workflow),
      await messagesOf(clock.sql, workflow),
      await workflowOf(clock.sql, workflow),
    ]
    const broken = (name: string, args: Record<string, unknown>) =>
      expect(
        clock.sql.begin(async (sql) => {
          await rpc(sql, name, args)
          await sql`select 1 / 0`
        }),
      ).rejects.toThrow(/division by zero/)
    let before = await state()
    await broken('apply_fix', { task_id, lease_token, code: 'x', config, comment: 'y' })
    await broken('fail_maintenance', { task_id, lease_token, code: 'MAINTENANCE_FAILED', error: 'y' })
    expect(await state()).toEqual(before)
    await fix(task)
    await database.owner`update public.workflows set maintenance_fix_count = 2`
    await failNext(workflow)
    before = await state()
    await broken('claim_task', { worker: 'w', has_agent: true })
    expect(await state()).toEqual(before)
    await claimTask(clock.sql)
    expect((await workflowOf(clock.sql, workflow)).error.code).toBe('FIX_ATTEMPTS_EXHAUSTED')
  })

  test('that finds no fix leaves an error', async () => {
    const { workflow, run_id, task } = await failing()
    const give_up = () =>
      hold(task, 'fail_maintenance', { code: 'MAINTENANCE_FAILED', error: 'I do not know.' })
    expect(await give_up()).toMatchObject({ changed: true, state: 'error' })
    expect(await give_up()).toMatchObject({ changed: false, result: 'unchanged' })
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'error', status: 'active', maintenance: false, maintenance_fix_count: 1 },
      error: { code: 'MAINTENANCE_FAILED', message: 'I do not know.', stage: 'maintenance', run_id },
      notifications: [{ type: 'maintenance_failed' }],
    })
    expect(await refusal(fix(task))).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
    expect(await claimTask(clock.sql)).toBeNull()
  })
})

describe('without an agent', () => {
  test('a task of the planner ends at once and says so in the chat', async () => {
    const draft = await draftWorkflow(clock.sql)
    await clock.advance(1)
    expect(await claimTask(clock.sql, false)).toBeNull()
    expect(await workflowOf(clock.sql, draft)).toMatchObject({
      ...{ state: 'draft', task: { state: 'error', error: 'There is no agent to write or fix scripts.' } },
    })
    expect((await messagesOf(clock.sql, draft)).at(-1)).toMatchObject({
      ...{ role: 'assistant', payload: { error_code: 'NO_AGENT' } },
      content: expect.stringMatching(/AGENT_API_URL/),
    })
    expect(await lane('agents')).toEqual({ due: false, leases: 0 })
  })

  test('a maintenance ends at once, with the code, the error and the logs for a person', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const run_id = await failNext(workflow)
    expect(await claimTask(clock.sql, false)).toBeNull()
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      ...{ state: 'error', maintenance: false, maintenance_fix_count: 0 },
      error: { code: 'NO_AGENT', message: expect.stringMatching(/x is not a function/), run_id },
      notifications: [
        {
          type: 'maintenance_failed',
          payload: {
            code: 'NO_AGENT',
            script_id: workflow.script_id,
            logs: expect.stringContaining('before x'),
          },
        },
      ],
    })
    expect(await tasksOf(workflow)).toEqual([])
  })

  test('a maintenance that somebody with an agent began is left to them until they are lost', async () => {
    const { workflow } = await failing()
    expect(await claimTask(clock.sql, false)).toBeNull()
    expect((await workflowOf(clock.sql, workflow)).state).toBe('fixing')
    await clock.advance(60)
    expect(await claimTask(clock.sql, false)).toBeNull()
    expect(await workflowOf(clock.sql, workflow)).toMatchObject({
      state: 'error',
      error: { code: 'NO_AGENT' },
    })
  })
})

test('a task of one kind is not ended as one of the other', async () => {
  await draftWorkflow(clock.sql)
  const planner = await claimTask(clock.sql)
  for (const [name, more] of [
    ['apply_fix', { code: 'x', config, comment: 'y' }],
    ['fail_maintenance', { code: 'X', error: 'y' }],
  ] as const)
    expect(await refusal(hold(planner, name, more)), name).toMatchObject({ code: 'PT422' })
  const { task: maintainer } = await failing()
  for (const [name, more] of [
    ['complete_plan', { code: 'x', config }],
    ['wait_task', { reply: 'y' }],
  ] as const)
    expect(await refusal(hold(maintainer, name, more)), name).toMatchObject({ code: 'PT422' })
})

test('a task that has ended stays as it is', async () => {
  const draft = await draftWorkflow(clock.sql)
  const task = await claimTask(clock.sql)
  await hold(task, 'complete_plan', { code: 'x', config })
  const before = await tasksOf(draft)
  for (const [name, more] of [
    ['renew_task', {}],
    ['store_task_step', { messages: [] }],
    ['yield_task', {}],
    ['wait_task', { reply: 'x' }],
    ['fail_task', { error: 'x' }],
  ] as const)
    expect(await refusal(hold(task, name, more)), name).toMatchObject({
      code: 'PT409',
      message: 'task_ended',
    })
  for (const state of ['queued', 'waiting', 'error'])
    await expect(
      database.owner`update public.workflow_tasks set state = ${state} where id = ${task.task_id}`,
    ).rejects.toMatchObject({ message: 'illegal_transition' })
  expect(await tasksOf(draft)).toEqual(before)
})
