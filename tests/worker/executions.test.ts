import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Execution } from '../../src/contract/executions.ts'
import { runLane } from '../../src/worker/lanes.ts'
import { type FaultAgent, type FaultAnswer, startFaultAgent } from '../support/fault_agent.ts'
import { claimExecution, executionOf, running, storeResult } from '../support/flows.ts'
import { type Project, startProject } from '../support/project.ts'
import { rpc } from '../support/rpc.ts'
import { type WatchedRequests, watchRequests } from '../support/watched_requests.ts'
import { spawnWorker, workerOf } from '../support/worker.ts'

const KEY = 'agent-key-that-nobody-may-see'

let project: Project
let agent: FaultAgent
let requests: WatchedRequests

beforeAll(async () => {
  // A thousand executions say what became of them.
  vi.spyOn(console, 'log').mockImplementation(() => {})
  project = await startProject()
  agent = await startFaultAgent()
  requests = await watchRequests(project.stack.api_url, agent.url)
  // Only the workers of the tests work.
  await project.wakes(null)
})
beforeEach(async () => {
  agent.answers = []
  agent.requests = []
  agent.otherwise = ({ body }) => `answer to ${body.messages.at(-1)?.content}`
  requests.at = () => true
  await project.sql`
    update lifecycle.settings set prompt_backoff = '20 ms', prompt_lease = '60 s', prompt_longest_wait = '300 s'`
})
afterEach(async () => {
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
  const [held] = await project.sql`
    select count(*)::int as n from public.flow_prompt_results where response like ${`%${KEY}%`} or error like ${`%${KEY}%`}`
  expect(held?.n).toBe(0)
})
afterAll(async () => {
  await requests?.close()
  await project?.close()
  await agent?.close()
})

const worker = (name: string = randomUUID(), agent_timeout_s = 5) =>
  workerOf(project, { AGENT_API_URL: agent.url, AGENT_API_KEY: KEY }, name, agent_timeout_s)
const read = ({ id }: { id: string }) => executionOf(project.sql, { id }) as unknown as Promise<Execution>

/** Workers come, one after the other, until the execution has ended. */
async function finish(execution: { id: string }, context = worker()): Promise<Execution> {
  const step = async () => {
    await runLane('prompts', context)
    return (await read(execution)).status
  }
  await expect.poll(step, { timeout: 25_000, interval: 20 }).not.toBe('running')
  return read(execution)
}

describe('an agent', () => {
  const cases: {
    name: string
    answers: FaultAnswer[]
    code: string | null
    attempts: number
    says?: RegExp
  }[] = [
    { name: 'that fails once with 500 is asked again', answers: [500], code: null, attempts: 2 },
    {
      name: 'that fails four times with 500',
      answers: [500, 502, 503, 500],
      code: 'AGENT_UNREACHABLE',
      attempts: 4,
      says: /answered 500: told to fail/,
    },
    {
      name: 'that hangs up',
      answers: ['cut', 'cut', 'cut', 'cut'],
      code: 'AGENT_UNREACHABLE',
      attempts: 4,
      says: /can not be reached/,
    },
    { name: 'that is busy for a moment is asked again', answers: [429, 408, 409], code: null, attempts: 4 },
    {
      name: 'that stays busy',
      answers: [429, 429, 429, 429],
      code: 'AGENT_RATE_LIMITED',
      attempts: 4,
      says: /answered 429/,
    },
    {
      name: 'that asks for more than 300 s',
      answers: [{ status: 429, headers: { 'retry-after': '301' }, body: '{}' }],
      code: 'AGENT_RATE_LIMITED',
      attempts: 1,
    },
    { name: 'that stays in conflict', answers: [409, 409, 409, 409], code: 'AGENT_REFUSED', attempts: 4 },
    {
      name: 'that refuses the key, and repeats it',
      answers: [
        { status: 401, body: JSON.stringify({ error: { message: `Incorrect API key provided: ${KEY}.` } }) },
      ],
      code: 'AGENT_REFUSED',
      attempts: 1,
      says: /answered 401: Incorrect API key provided: \[secret\]\./,
    },
    { name: 'that refuses the prompt', answers: [400], code: 'AGENT_REFUSED', attempts: 1 },
    {
      name: 'that sends elsewhere',
      answers: [{ status: 302, headers: { location: 'http://127.0.0.1:9/' }, body: '' }],
      code: 'AGENT_BAD_ANSWER',
      attempts: 1,
    },
    {
      name: 'that answers no JSON',
      answers: [{ body: 'rubbish' }],
      code: 'AGENT_BAD_ANSWER',
      attempts: 1,
      says: /not JSON/,
    },
    {
      name: 'that answers a page',
      answers: [{ headers: { 'content-type': 'text/html' }, body: '<html>' }],
      code: 'AGENT_BAD_ANSWER',
      attempts: 1,
    },
    {
      name: 'that answers another form',
      answers: [{ body: '{"choices": [{"message": {"content": 5}}]}' }],
      code: 'AGENT_BAD_ANSWER',
      attempts: 1,
    },
    {
      name: 'without choices',
      answers: [{ body: '{"choices": []}' }],
      code: 'AGENT_BAD_ANSWER',
      attempts: 1,
    },
    { name: 'without words', answers: ['  \n'], code: 'AGENT_BAD_ANSWER', attempts: 1, says: /empty answer/ },
    {
      name: 'that talks on for 1 MB',
      answers: ['x'.repeat(2 ** 20)],
      code: 'AGENT_BAD_ANSWER',
      attempts: 1,
      says: /larger than 256 KB/,
    },
    {
      name: 'that talks on for 10 MB',
      answers: ['x'.repeat(10 * 2 ** 20)],
      code: 'AGENT_BAD_ANSWER',
      attempts: 1,
      says: /larger than 256 KB/,
    },
    { name: 'that answers what no text column holds', answers: ['a\0b\ud800'], code: null, attempts: 1 },
    { name: 'that repeats its key in the answer', answers: [`You sent ${KEY}.`], code: null, attempts: 1 },
  ]
  for (const { name, answers, code, attempts, says } of cases) {
    test(`${name}: ${code ?? 'completed'} after ${attempts}`, async () => {
      const { execution } = await running(project.sql, ['one', 'two'])
      agent.answers = ['first', ...answers]
      const ended = await finish(execution)
      expect(agent.requests.length).toBe(1 + attempts)
      expect(ended.prompt_results?.[0]).toMatchObject({ response: 'first', attempts: 1 })
      const second = ended.prompt_results?.[1]
      if (code === null) {
        expect(ended).toMatchObject({ status: 'completed', current_prompt_index: 2 })
        expect(second).toMatchObject({ error: null, attempts })
      } else {
        expect(ended).toMatchObject({
          status: 'failed',
          error_code: code,
          current_prompt_index: 1,
          error: expect.stringMatching(/^Prompt 2 of 2: .+\.?$/),
          meaning: expect.any(String),
          next_step: expect.any(String),
        })
        expect(second).toMatchObject({ response: null, error: ended.error, attempts })
        if (says) expect(ended.error).toMatch(says)
      }
    })
  }

  test('that hangs is given up twice, then AGENT_TIMEOUT', async () => {
    const { execution } = await running(project.sql, ['one'])
    agent.otherwise = () => 'hang'
    const ended = await finish(execution, worker(randomUUID(), 1))
    expect(ended).toMatchObject({
      error_code: 'AGENT_TIMEOUT',
      error: 'Prompt 1 of 1: The agent did not answer within 1 s.',
    })
    expect(agent.requests.length).toBe(2)
  })

  test('that asks to be left alone for a while is, and the lease is given back meanwhile', async () => {
    const { execution } = await running(project.sql, ['one'])
    agent.answers = [{ status: 429, headers: { 'retry-after': '120' }, body: '{}' }]
    await runLane('prompts', worker())
    const waiting = await read(execution)
    expect(waiting).toMatchObject({ status: 'running', prompt_attempts: 1, lease_expires_at: null })
    expect(Date.parse(waiting.not_before ?? '') - Date.now()).toBeGreaterThan(115_000)
    await runLane('prompts', worker())
    expect(agent.requests.length).toBe(1)
    await rpc(project.sql, 'cancel_execution', { id: execution.id })
  })

  test('that is nowhere is AGENT_UNREACHABLE', async () => {
    const { execution } = await running(project.sql, ['one'])
    const ended = await finish(execution, workerOf(project, { AGENT_API_PORT: '9' }, randomUUID()))
    expect(ended).toMatchObject({
      error_code: 'AGENT_UNREACHABLE',
      error: 'Prompt 1 of 1: The agent can not be reached at localhost:9.',
    })
  })

  test('that is built in says what it is', async () => {
    const { execution } = await running(project.sql, ['Plan the day.'])
    const ended = await finish(execution, workerOf(project, { AGENT_BUILT_IN: '1' }, randomUUID()))
    expect(ended).toMatchObject({
      status: 'completed',
      latest_response: expect.stringMatching(/^\[Built-in agent: no model.*Plan the day\./),
    })
  })

  test('is shown the newest 400,000 characters of a longer conversation, and the result says so', async () => {
    const { execution } = await running(project.sql, ['one', 'two', 'three', 'four'])
    agent.answers = ['x'.repeat(200_000), 'y'.repeat(150_000), 'z'.repeat(150_000), 'done']
    const ended = await finish(execution)
    expect(agent.requests[3]?.body.messages.map(({ content }) => content[0])).toEqual([
      't',
      'y',
      't',
      'z',
      'f',
    ])
    expect(ended.prompt_results?.map((result) => result.omitted_pairs)).toEqual([
      undefined,
      undefined,
      undefined,
      1,
    ])
  })
})

describe('workers', () => {
  test('of one execution: the stale one is refused, and stops asking', async () => {
    const { execution } = await running(project.sql, ['one', 'two', 'three'])
    await project.sql`update lifecycle.settings set prompt_lease = '100 ms'`
    const asked = Promise.withResolvers<void>()
    const go_on = Promise.withResolvers<void>()
    agent.otherwise = async ({ body }) => {
      if (agent.requests.length === 1) {
        asked.resolve()
        await go_on.promise
        return 'stale'
      }
      return `answer to ${body.messages.at(-1)?.content}`
    }
    const slow = runLane('prompts', worker('slow'))
    await asked.promise
    const ended = await finish(execution, worker('fast'))
    go_on.resolve()
    await slow
    expect(ended).toMatchObject({ status: 'completed', lease_owner: 'fast' })
    expect((await read(execution)).prompt_results?.map((result) => result.response)).toEqual([
      'answer to one',
      'answer to two',
      'answer to three',
    ])
    expect(agent.requests.length).toBe(4)
  })

  test('hold an answer while the database is away', async () => {
    const { execution } = await running(project.sql, ['one', 'two'])
    let refused = 0
    requests.at = (moment, path) =>
      moment === 'after' || !path.includes('update_execution_progress') || ++refused > 3
    const context = workerOf(
      { ...project, stack: { ...project.stack, api_url: requests.url } },
      { AGENT_API_URL: agent.url },
      'w',
    )
    expect(await finish(execution, context)).toMatchObject({ status: 'completed' })
    expect(agent.requests.length).toBe(2)
  })

  test('killed at every await point of five prompts lose nothing and store nothing twice', {
    timeout: 120_000,
  }, async () => {
    const prompts = ['one', 'two', 'three', 'four', 'five']
    const env = {
      SUPABASE_URL: requests.url,
      SUPABASE_SECRET_KEY: project.stack.secret_key,
      AGENT_API_URL: `${requests.url}/v1`,
    }
    await project.sql`update lifecycle.settings set prompt_lease = '1 s'`
    // What a worker waits for: the claim, then an answer and its storing for each prompt.
    const awaits = 1 + 2 * prompts.length
    for (let point = 0; point < awaits; point++) {
      for (const kill_at of ['before', 'after'] as const) {
        const { execution } = await running(project.sql, prompts)
        agent.requests = []
        let seen = -1
        let claimed = false
        const child = spawnWorker(env)
        const died = once(child, 'exit')
        requests.at = (moment, path) => {
          const first_claim = path.includes('claim_execution') && !claimed
          if (!first_claim && !/update_execution_progress|chat\/completions/.test(path)) return true
          if (moment === 'before') seen++
          if (first_claim && moment === 'after') claimed = true
          if (seen !== point || moment !== kill_at) return true
          child.kill('SIGKILL')
          return false
        }
        await died
        requests.at = () => true
        const label = `killed ${kill_at} await ${point}`
        const ended = await finish(execution)
        expect(ended.status, label).toBe('completed')
        expect(
          ended.prompt_results?.map(({ index, response }) => [index, response]),
          label,
        ).toEqual(prompts.map((prompt, index) => [index, `answer to ${prompt}`]))
        expect(agent.requests.length, label).toBeLessThanOrEqual(prompts.length + 1)
        const [pushes] = await project.superuser`
          select count(*)::int as n from realtime.messages
          where topic = ${`flow_execution:${execution.id}`} and event = 'progress'`
        expect(pushes?.n, label).toBe(prompts.length)
      }
    }
  })

  test('four of them do 500 executions once each, and one owner with 400 starves nobody', {
    timeout: 120_000,
  }, async () => {
    const crowd = randomUUID()
    const crowd_flow = await rpc<{ id: string }>(project.sql, 'create_flow', {
      owner_id: crowd,
      name: 'x',
      prompts: ['one'],
    })
    for (let n = 0; n < 400; n++) await rpc(project.sql, 'create_execution', { flow_id: crowd_flow.id })
    const others: string[] = []
    for (let n = 0; n < 100; n++) others.push((await running(project.sql, ['one'])).execution.owner_id)
    await Promise.all([1, 2, 3, 4].map((n) => runLane('prompts', worker(`w${n}`))))
    expect(agent.requests.length).toBe(500)
    const rows = await project.sql`
      select e.owner_id, e.status, count(r.*)::int as results, count(distinct e.lease_owner)::int as workers,
        row_number() over (order by e.started_at) as place
      from public.flow_executions e left join public.flow_prompt_results r on r.execution_id = e.id
      where e.owner_id = any (${[crowd, ...others]}) group by e.id order by e.started_at`
    expect(rows).toHaveLength(500)
    expect(rows.every((row) => row.status === 'completed' && row.results === 1)).toBe(true)
    // All that came later than the crowd are done while most of it still waits.
    const last_other = rows.findLastIndex((row) => row.owner_id !== crowd)
    expect(last_other).toBeLessThan(250)
  })

  test('of a function go on where its time ended', { timeout: 60_000 }, async () => {
    const prompts = Array.from({ length: 12 }, (_, n) => `prompt ${n}`)
    agent.otherwise = async ({ body }) => {
      await new Promise((done) => setTimeout(done, 300))
      return `answer to ${body.messages.at(-1)?.content}`
    }
    // 95 s is what a prompt may take: these isolates begin no other one after two seconds.
    const env = { AGENT_API_URL: agent.url, WORK_SECONDS: '97' }
    const { execution } = await running(project.sql, prompts)
    const invoked: number[] = []
    for (let isolate = 0; isolate < 8 && (await read(execution)).status === 'running'; isolate++) {
      const host = await project.host(env)
      await project.call('/work?lane=prompts', { method: 'POST', as: 'secret', url: host.url })
      await expect
        .poll(async () => (await read(execution)).lease_expires_at, { timeout: 20_000 })
        .not.toBeNull()
      await expect.poll(async () => (await read(execution)).lease_expires_at, { timeout: 20_000 }).toBeNull()
      invoked.push((await read(execution)).current_prompt_index)
      await host.close()
    }
    const ended = await read(execution)
    expect(ended.status).toBe('completed')
    expect(invoked.length).toBeGreaterThan(1)
    expect(ended.prompt_results?.map((result) => result.response)).toEqual(
      prompts.map((prompt) => `answer to ${prompt}`),
    )
    expect(agent.requests.length).toBe(prompts.length)
  })
})

test('a stored result of another token is no result', async () => {
  const { execution } = await running(project.sql, ['one'])
  const claim = await claimExecution(project.sql)
  expect(claim?.id).toBe(execution.id)
  expect(
    await storeResult(project.sql, { id: execution.id, lease_token: randomUUID() }, 0, { response: 'x' }),
  ).toEqual({
    ok: false,
    code: 'stale_lease',
  })
  await rpc(project.sql, 'cancel_execution', { id: execution.id })
})
