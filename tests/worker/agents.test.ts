import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { runLane } from '../../src/worker/lanes.ts'
import { toolCall } from '../support/agent_answers.ts'
import {
  type Automation,
  eventsOf,
  mutationsOf,
  type OrderScript,
  orderScript,
  passTime,
  runsOf,
  startAutomation,
  workflowOf,
} from '../support/automations.ts'
import { type FaultAgent, startFaultAgent } from '../support/fault_agent.ts'
import { type Ledger, startLedger } from '../support/ledger.ts'
import { type Project, startProject } from '../support/project.ts'
import { rpc } from '../support/rpc.ts'
import { workerOf } from '../support/worker.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests read rows of every form
type Json = any

let project: Project
let agent: FaultAgent
let ledger: Ledger

beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation(() => {})
  project = await startProject()
  agent = await startFaultAgent()
  ledger = await startLedger()
  // Only the workers of the tests work.
  await project.wakes(null)
})
beforeEach(() => {
  agent.answers = []
  agent.requests = []
  agent.otherwise = null
  ledger.reset()
})
afterEach(async () => {
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
  await project.sql`delete from public.workflows`
})
afterAll(async () => {
  await project?.close()
  await agent?.close()
  await ledger?.close()
})

const worker = (env: Record<string, string> = { AGENT_API_URL: agent.url }) =>
  workerOf(project, { SCRIPTS_ALLOW_PRIVATE: '1', ...env }, randomUUID())

const good = `workflow = {
  topics: [],
  producers: { only: { schedule: { interval: '1d' }, publishes: [], async handler() { return { done: true } } } },
  consumers: {},
}`
const bad =
  "workflow = { topics: [], producers: { only: { schedule: { interval: 'soon' }, publishes: [], async handler() {} } }, consumers: {} }"

const taskOf = async ({ workflow_id }: { workflow_id: string }): Promise<Json> => {
  const tasks = await project.sql`
    select * from public.workflow_tasks where workflow_id = ${workflow_id} order by created_at`
  return tasks.at(-1)
}
const messagesOf = async ({ workflow_id }: { workflow_id: string }): Promise<Json[]> => project.sql`
  select role, type, content, payload from public.workflow_messages where workflow_id = ${workflow_id} order by created_at, id`

describe('the planner', () => {
  async function asked(message: string): Promise<Automation> {
    const owner_id = randomUUID()
    const { workflow_id } = await rpc<Json>(project.sql, 'create_workflow', { owner_id, message })
    return { workflow_id, owner_id, script_id: '' }
  }

  test('turns a message into a saved script', async () => {
    const automation = await asked('Do nothing, once a day.')
    agent.answers = [toolCall('save', { code: good, title: 'Rest', summary: 'Does nothing.' }, 'Here it is.')]
    expect(await runLane('agents', worker())).toBe(1)
    expect(await workflowOf(project, automation)).toMatchObject({
      state: 'ready',
      title: 'Rest',
      active_script_id: null,
    })
    const [script] = await project.sql`
      select * from public.workflow_scripts where workflow_id = ${automation.workflow_id}`
    expect(script).toMatchObject({ major: 1, minor: 0, code: good, summary: 'Does nothing.' })
    expect(script?.config.producers.only.schedule).toEqual({ interval: '1d' })
    expect(await taskOf(automation)).toMatchObject({ state: 'finished', type: 'planner' })
    expect(await messagesOf(automation)).toMatchObject([
      { role: 'user', content: 'Do nothing, once a day.' },
      { role: 'assistant', type: 'script' },
    ])
    const [request] = agent.requests as Json[]
    expect(request.body.tools.map((tool: Json) => tool.function.name)).toEqual(['save'])
    expect(request.body.messages.map(({ role }: Json) => role)).toEqual(['system', 'user'])
    expect(request.body.messages[0].content).toContain('workflow = {')
    expect(await runLane('agents', worker())).toBe(0)
  })

  test('is told the issues of a script, up to five times', async () => {
    const automation = await asked('Do nothing, soon.')
    agent.answers = [
      toolCall('save', 'no JSON'),
      toolCall('save', { code: 'const', title: 'x', summary: 'x' }),
      toolCall('write', {}),
      toolCall('save', { code: bad, title: '', summary: 'x' }),
      toolCall('save', { code: bad, title: 'x', summary: 'x' }),
      toolCall('save', { code: good, title: 'Rest', summary: 'Does nothing.' }),
    ]
    await runLane('agents', worker())
    expect(agent.requests).toHaveLength(6)
    expect((agent.requests.at(-1) as Json).body.messages.at(-1).content).toMatch(/interval/)
    expect(await workflowOf(project, automation)).toMatchObject({ state: 'ready', title: 'Rest' })
  })

  test('that never saves a script without issues has failed after its fifth attempt', async () => {
    const automation = await asked('Do nothing, soon.')
    agent.otherwise = () => toolCall('save', { code: bad, title: 'x', summary: 'x' })
    for (let attempt = 0; attempt < 6; attempt++) {
      await runLane('agents', worker())
      await passTime(project)
    }
    expect(agent.requests).toHaveLength(5 * 6)
    expect(await taskOf(automation)).toMatchObject({ state: 'error' })
    expect((await messagesOf(automation)).at(-1)).toMatchObject({
      role: expect.stringMatching(/event|assistant/),
    })
    expect(await workflowOf(project, automation)).toMatchObject({ state: 'draft' })
  })

  test('that asks back waits, and goes on with the answer', async () => {
    const automation = await asked('Tell me about it.')
    agent.answers = ['About what?']
    await runLane('agents', worker())
    expect(await taskOf(automation)).toMatchObject({ state: 'waiting' })
    expect((await messagesOf(automation)).at(-1)).toMatchObject({ role: 'assistant', content: 'About what?' })
    expect(await runLane('agents', worker())).toBe(0)
    await rpc(project.sql, 'add_workflow_message', { ...ids(automation), content: 'The weather.' })
    agent.answers = [toolCall('save', { code: good, title: 'Weather', summary: 'Does nothing.' })]
    await runLane('agents', worker())
    expect(
      (agent.requests.at(-1) as Json).body.messages.map(({ content }: Json) => content).slice(1),
    ).toEqual(['Tell me about it.', 'About what?', 'The weather.'])
    expect(await workflowOf(project, automation)).toMatchObject({ state: 'ready', title: 'Weather' })
    // Later it writes the next version, and knows this one.
    await rpc(project.sql, 'add_workflow_message', { ...ids(automation), content: 'Once more.' })
    agent.answers = [toolCall('save', { code: good, title: 'Weather', summary: 'Still nothing.' })]
    await runLane('agents', worker())
    expect((agent.requests.at(-1) as Json).body.messages[0].content).toContain(good)
    const scripts = await project.sql`
      select major, minor from public.workflow_scripts where workflow_id = ${automation.workflow_id} order by major`
    expect(scripts).toEqual([
      { major: 1, minor: 0 },
      { major: 2, minor: 0 },
    ])
  })

  test('that fails is asked again, and five times at most', async () => {
    const automation = await asked('Do nothing.')
    agent.otherwise = () => 500
    for (let attempt = 0; attempt < 7; attempt++) {
      await runLane('agents', worker())
      await passTime(project)
    }
    expect(agent.requests).toHaveLength(5)
    expect(await taskOf(automation)).toMatchObject({ state: 'error', error: expect.stringMatching(/500/) })
  })

  test('that is nowhere configured: NO_AGENT, and the owner is told', async () => {
    const automation = await asked('Do nothing.')
    await runLane('agents', worker({}))
    expect(await taskOf(automation)).toMatchObject({ state: 'error' })
    expect((await messagesOf(automation)).length).toBeGreaterThan(1)
  })

  test('killed between its answer and what follows from it is not asked twice', async () => {
    const automation = await asked('Do nothing.')
    const claim = await rpc<Json>(project.sql, 'claim_task', { worker: 'w', has_agent: true })
    const call = JSON.parse(
      (toolCall('save', { code: good, title: 'Rest', summary: 'x' }) as { body: string }).body,
    )
    const messages = [...claim.messages, call.choices[0].message]
    await rpc(project.sql, 'store_task_step', {
      task_id: claim.task_id,
      lease_token: claim.lease_token,
      messages,
    })
    await passTime(project)
    await runLane('agents', worker())
    expect(agent.requests).toHaveLength(0)
    expect(await workflowOf(project, automation)).toMatchObject({ state: 'ready', title: 'Rest' })
  })
})

const ids = ({ workflow_id, owner_id }: Automation) => ({ workflow_id, owner_id })

describe('the maintainer', () => {
  const feeds = (items: string[]) => {
    const feed = randomUUID()
    ledger.feeds[feed] = items
    return { url: ledger.url, feed }
  }
  const broken: { phase: 'prepare' | 'mutate' | 'next'; more: Partial<OrderScript> }[] = [
    {
      phase: 'prepare',
      more: { prepare: "if ((await Topics.peek('items', {})).length) throw new Error('broken here')" },
    },
    { phase: 'mutate', more: { mutate: "console.log('about to break'); throw new Error('broken here')" } },
    { phase: 'next', more: { next: "if (prepared.events.length) throw new Error('broken here')" } },
  ]

  for (const { phase, more } of broken) {
    test(`repairs a script that fails in ${phase}, and its event is dealt with once`, async () => {
      const item = randomUUID()
      const place = feeds([item])
      const automation = await startAutomation(project, orderScript({ ...place, ...more }))
      await runLane('scripts', worker())
      expect((await runsOf(project, automation)).at(-1)).toMatchObject({ status: 'failed:logic' })
      expect(await workflowOf(project, automation)).toMatchObject({ state: 'fixing', maintenance: true })
      agent.answers = [
        toolCall('fix', { code: bad, comment: 'Sooner.' }),
        'I would rather talk.',
        toolCall('fix', { code: orderScript(place), comment: 'It was broken.' }),
      ]
      await runLane('agents', worker())
      expect(agent.requests).toHaveLength(3)
      const report = (agent.requests[0] as Json).body.messages[1].content
      expect(report).toContain('broken here')
      expect(report).toContain("topics: ['items', 'orders']")
      if (phase === 'mutate') expect(report).toContain('about to break')
      expect(await workflowOf(project, automation)).toMatchObject({
        state: 'active',
        maintenance: false,
        active_script: { version: '1.1', comment: 'It was broken.' },
      })
      await passTime(project)
      await runLane('scripts', worker())
      expect(ledger.done.get(item)).toHaveLength(1)
      expect(ledger.calls).toHaveLength(1)
      const [order] = await eventsOf(project, automation, 'orders')
      expect(order).toMatchObject({
        status: 'consumed',
        payload: { id: item, status: 'applied', result: { status: 201 } },
      })
      expect(await workflowOf(project, automation)).toMatchObject({
        state: 'active',
        maintenance_fix_count: 0,
        pending_retry_run_id: null,
      })
      expect(await mutationsOf(project, automation)).toHaveLength(1)
      const types = (await messagesOf(automation)).map(({ type }) => type)
      expect(types).toEqual(['maintenance_started', 'maintenance_fixed'])
    })
  }

  test('whose third fix in a row is due escalates instead', async () => {
    const place = feeds([randomUUID()])
    const code = orderScript({ ...place, mutate: "throw new Error('broken for good')" })
    const automation = await startAutomation(project, code)
    agent.otherwise = () => toolCall('fix', { code, comment: 'Now it is better.' })
    for (let round = 0; round < 5; round++) {
      await runLane('scripts', worker())
      await runLane('agents', worker())
      await passTime(project)
    }
    expect(agent.requests).toHaveLength(2)
    // The second was told what the first had changed.
    expect((agent.requests[1] as Json).body.messages[1].content).toContain('Now it is better.')
    expect(await workflowOf(project, automation)).toMatchObject({
      state: 'error',
      error: { code: 'FIX_ATTEMPTS_EXHAUSTED' },
      maintenance: false,
      maintenance_fix_count: 0,
    })
    expect(
      (await runsOf(project, automation)).filter(({ status }) => status === 'failed:logic'),
    ).toHaveLength(3)
    expect(ledger.calls).toHaveLength(0)
  })

  test('that finds no fix: MAINTENANCE_FAILED', async () => {
    const code = orderScript({ ...feeds([randomUUID()]), mutate: "throw new Error('broken')" })
    const automation = await startAutomation(project, code)
    await runLane('scripts', worker())
    agent.otherwise = () => 'I do not know.'
    await runLane('agents', worker())
    expect(agent.requests).toHaveLength(6)
    expect(await workflowOf(project, automation)).toMatchObject({
      state: 'error',
      error: { code: 'MAINTENANCE_FAILED' },
      maintenance: false,
    })
  })

  test('of nowhere: NO_AGENT', async () => {
    const code = orderScript({ ...feeds([randomUUID()]), mutate: "throw new Error('broken')" })
    const automation = await startAutomation(project, code)
    await runLane('scripts', worker({}))
    await runLane('agents', worker({}))
    expect(await workflowOf(project, automation)).toMatchObject({
      state: 'error',
      error: { code: 'NO_AGENT' },
      maintenance: false,
    })
  })

  test('restarted twice in the middle adds nothing: one task, one beginning, one fix', async () => {
    const place = feeds([randomUUID()])
    const code = orderScript({ ...place, mutate: "throw new Error('broken')" })
    const automation = await startAutomation(project, code)
    await runLane('scripts', worker())
    for (let restart = 0; restart < 2; restart++) {
      expect(await rpc(project.sql, 'claim_task', { worker: 'killed', has_agent: true })).toMatchObject({
        type: 'maintainer',
      })
      await passTime(project)
    }
    agent.answers = [toolCall('fix', { code: orderScript(place), comment: 'Repaired.' })]
    await runLane('agents', worker())
    const tasks = await project.sql`
      select state from public.workflow_tasks where workflow_id = ${automation.workflow_id}`
    expect(tasks).toEqual([{ state: 'finished' }])
    expect((await messagesOf(automation)).map(({ type }) => type)).toEqual([
      'maintenance_started',
      'maintenance_fixed',
    ])
    expect(await workflowOf(project, automation)).toMatchObject({ state: 'active', maintenance_fix_count: 1 })
  })
})
