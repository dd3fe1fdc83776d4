import { randomUUID } from 'node:crypto'
import { createClient } from '@supabase/supabase-js'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  ActiveExecutions,
  Execution,
  ExecutionList,
  ExecutionResponse,
} from '../../src/contract/executions.ts'
import { Flow, FlowList } from '../../src/contract/flows.ts'
import { type FaultAgent, startFaultAgent } from '../support/fault_agent.ts'
import {
  type CallInit,
  type FunctionsHost,
  type Project,
  startProject,
  type User,
} from '../support/project.ts'
import { listen, subscribe } from '../support/realtime_channel.ts'

let project: Project
let agent: FaultAgent
let host: FunctionsHost
let user: User
let stranger: User

beforeAll(async () => {
  project = await startProject()
  agent = await startFaultAgent()
  host = await project.host({
    AGENT_API_URL: agent.url,
    AGENT_API_KEY: 'agent-key-1',
    WORK_SECONDS: '100000',
  })
  user = await project.user()
  stranger = await project.user()
  // Loads the function: how long that takes is the platform's.
  await project.call('/work?lane=prompts', { method: 'POST', as: 'secret', url: host.url })
  // What is waited for in a test need not be waited for long.
  await project.sql`update lifecycle.settings set prompt_backoff = '50 ms'`
})
beforeEach(async () => {
  agent.answers = []
  agent.requests = []
  agent.otherwise = ({ body }) => `answer to ${body.messages.at(-1)?.content}`
  await project.sql`grant execute on function public.claim_execution to service_role`
  await project.wakes(host.url)
  // A wake that went nowhere a moment ago is no reason to send none.
  await project.sql`update lifecycle.lanes set woken_at = null`
})
afterEach(async () => {
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
})
afterAll(async () => {
  await project?.close()
  await agent?.close()
})

const call = (method: string, path: string, body?: unknown, more: CallInit = {}) =>
  project.call(path, { method, as: user, ...(body === undefined ? {} : { body }), ...more })
const flowOf = async (prompts: unknown[], more: object = {}) =>
  (await call('POST', '/flows', { name: 'Routine', prompts, ...more })).body as Flow
const run = async (flow: { id: string }, more: CallInit = {}) =>
  (await call('POST', `/flows/${flow.id}/run`, undefined, more)).body as ExecutionResponse
const read = async (id: string, query = '') =>
  (await call('GET', `/executions/${id}${query}`)).body as Execution
const ends = async (id: string, wanted: object) => {
  await expect.poll(() => read(id), { timeout: 20_000 }).toMatchObject(wanted)
  return read(id)
}

/** Nobody works until the next test: what is asked for waits. */
async function nobody(): Promise<void> {
  await project.wakes(null)
  await project.sql`revoke execute on function public.claim_execution from service_role`
}

describe('a flow', () => {
  test('is kept, read, changed and taken away by its owner', async () => {
    const body = {
      name: 'Morning routine',
      prompts: ['Plan the day.', { prompt: 'Write it down.', title: 'Note' }],
      agent: { model: 'm', system: 'Be short.', temperature: 0.5, memory: 'It is Monday.' },
    }
    const created = await call('POST', '/flows', body)
    expect(created.status).toBe(201)
    expect(Flow.parse(created.body)).toMatchObject({ ...body, owner_id: user.id, total_prompts: 2 })
    const path = `/flows/${created.body.id}`
    expect((await call('GET', path)).body).toEqual(created.body)

    const changed = await call('PATCH', path, { prompts: ['Only this.'], agent: {} })
    expect(changed).toMatchObject({
      status: 200,
      body: { name: body.name, prompts: ['Only this.'], agent: {} },
    })
    expect((await call('DELETE', path)).body).toMatchObject({
      id: created.body.id,
      deleted_at: expect.any(String),
    })
    for (const [method, what] of [
      ['GET', undefined],
      ['PATCH', { name: 'x' }],
      ['DELETE', undefined],
    ] as const) {
      expect(await call(method, path, what)).toMatchObject({ status: 404, body: { code: 'flow_not_found' } })
    }
    expect((await call('POST', `${path}/run`)).status).toBe(404)
  })

  test('that is not well formed is refused, and says where', async () => {
    const bad: [unknown, string][] = [
      [{ name: 'x' }, 'prompts'],
      [{ name: 'x', prompts: [] }, 'prompts'],
      [{ name: 'x', prompts: Array(201).fill('a') }, 'prompts'],
      [{ name: 'x', prompts: ['a', 'b'.repeat(33 * 1024)] }, 'prompts.1'],
      [{ name: 'x', prompts: ['ä'.repeat(17 * 1024)] }, 'prompts.0'],
      [{ name: 'x', prompts: Array(40).fill('a'.repeat(24 * 1024)) }, 'prompts'],
      [{ name: 'x', prompts: ['a', ''] }, 'prompts.1'],
      [{ name: 'x', prompts: ['  \n'] }, 'prompts.0'],
      [{ name: 'x', prompts: [null] }, 'prompts.0'],
      [{ name: 'x', prompts: [{ title: 'no words' }] }, 'prompts.0'],
      [{ name: 'x', prompts: [{ prompt: 'a', extra: 1 }] }, 'prompts.0'],
      [{ name: 'x', prompts: 'a' }, 'prompts'],
      [{ name: ' ', prompts: ['a'] }, 'name'],
      [{ name: 'x'.repeat(256), prompts: ['a'] }, 'name'],
      [{ name: 'x', prompts: ['a'], agent: { temperature: 3 } }, 'agent.temperature'],
      [{ name: 'x', prompts: ['a'], agent: { model: '' } }, 'agent.model'],
      [{ name: 'x', prompts: ['a'], agent: { api_key: 'k' } }, 'agent'],
      [{ name: 'x', prompts: ['a\0'] }, 'prompts.0'],
      [{ name: 'x', prompts: ['a'], owner_id: 'me' }, 'owner_id'],
      [[], ''],
    ]
    for (const [body, path] of bad) {
      const reply = await call('POST', '/flows', body)
      expect(reply, JSON.stringify(body).slice(0, 80)).toMatchObject({
        status: 422,
        body: { code: 'invalid_request' },
      })
      expect(reply.body.details.issues[0].path, JSON.stringify(body).slice(0, 80)).toMatch(
        new RegExp(`^${path.replaceAll('.', '\\.')}`),
      )
    }
    expect((await call('POST', '/flows', { name: 'x', prompts: ['a'.repeat(2 ** 20)] })).status).toBe(413)
    const flow = await flowOf(['a'])
    for (const body of [{}, { prompts: [] }, { name: '' }, { agent: { x: 1 } }, { name: null }]) {
      expect((await call('PATCH', `/flows/${flow.id}`, body)).status, JSON.stringify(body)).toBe(422)
    }
    expect(await call('GET', `/flows/${flow.id}`)).toMatchObject({ body: { updated_at: flow.updated_at } })
  })

  test('of the largest kind is kept: 200 prompts, 32 KB each, nearly 900 KB together', async () => {
    expect((await flowOf(Array(200).fill('a'.repeat(4_500)))).total_prompts).toBe(200)
    expect((await flowOf(['a'.repeat(32 * 1024)])).total_prompts).toBe(1)
  })

  test("is nobody else's: strangers find nothing, operators and secret keys everything", async () => {
    const flow = await flowOf(['a'])
    await nobody()
    const { id } = await run(flow)
    const paths: [string, string, unknown?][] = [
      ['GET', `/flows/${flow.id}`],
      ['PATCH', `/flows/${flow.id}`, { name: 'mine' }],
      ['DELETE', `/flows/${flow.id}`],
      ['POST', `/flows/${flow.id}/run`],
      ['GET', `/executions/${id}`],
      ['POST', `/executions/${id}/cancel`],
      ['POST', `/executions/${id}/retry`, { from: 'start' }],
    ]
    for (const [method, path, body] of paths) {
      const code = path.startsWith('/flows') ? 'flow_not_found' : 'execution_not_found'
      expect(await call(method, path, body, { as: stranger }), path).toMatchObject({
        status: 404,
        body: { code },
      })
      expect((await call(method, path, body, { as: null })).status, path).toBe(401)
      for (const wrong of [randomUUID(), 'x', '%20', `${flow.id}0`]) {
        const other = path.replace(flow.id, wrong).replace(id, wrong)
        expect(await call(method, other, body), other).toMatchObject({ status: 404, body: { code } })
      }
    }
    expect((await call('GET', '/executions/active', undefined, { as: stranger })).body).toEqual({ items: [] })
    expect(
      (await call('GET', `/executions/recent?owner_id=${user.id}`, undefined, { as: stranger })).status,
    ).toBe(403)
    const operator = await project.operator()
    for (const as of [operator, 'secret'] as const) {
      expect((await call('GET', `/flows/${flow.id}`, undefined, { as })).status).toBe(200)
      const active = await call('GET', `/executions/active?owner_id=${user.id}`, undefined, { as })
      expect(active.body.items).toMatchObject([{ id }])
    }
    const cancelled = await call('POST', `/executions/${id}/cancel`, {}, { as: operator })
    expect(cancelled.status).toBe(202)
    const [event] = await project.sql`
      select source, details from public.status_events where subject_id = ${id} and to_status = 'failed'`
    expect(event).toEqual({ source: 'user', details: { actor: operator.id } })
    expect(await call('POST', '/flows', { name: 'x', prompts: ['a'] }, { as: 'secret' })).toMatchObject({
      status: 422,
    })
    const given = { name: 'x', prompts: ['a'], owner_id: stranger.id }
    expect(await call('POST', '/flows', given, { as: 'secret' })).toMatchObject({
      status: 201,
      body: { owner_id: stranger.id },
    })
    expect((await call('POST', '/flows', given)).status).toBe(403)
  })

  test('paths and methods that do not exist are 404 and 405', async () => {
    expect((await call('PUT', '/flows', {})).status).toBe(405)
    expect((await call('DELETE', '/executions/recent')).status).toBe(405)
    expect((await call('GET', `/flows/${randomUUID()}/run`)).status).toBe(405)
    expect((await call('GET', '/flows/a/b')).status).toBe(404)
    expect((await call('POST', `/executions/${randomUUID()}/explode`)).status).toBe(404)
  })
})

describe('lists', () => {
  test('of flows and executions are paged, newest first, without prompts and responses', async () => {
    const owner = await project.user()
    await nobody()
    const ids: string[] = []
    for (const name of ['one', 'two', 'three']) {
      const flow = (await call('POST', '/flows', { name, prompts: ['secret words'] }, { as: owner })).body
      ids.unshift((await run(flow, { as: owner })).id)
    }
    const get = async (path: string) => (await call('GET', path, undefined, { as: owner })).body
    const flows = FlowList.parse(await get('/flows?limit=2'))
    const rest = FlowList.parse(
      await get(`/flows?limit=2&cursor=${encodeURIComponent(flows.next_cursor ?? '')}`),
    )
    expect([...flows.items, ...rest.items].map((flow) => flow.name)).toEqual(['three', 'two', 'one'])
    expect(rest.next_cursor).toBeNull()

    const page = ExecutionList.parse(await get('/executions/recent?limit=2'))
    const next = await get(`/executions/recent?limit=2&cursor=${encodeURIComponent(page.next_cursor ?? '')}`)
    expect([...page.items, ...next.items].map((one) => one.id)).toEqual(ids)
    const active = ActiveExecutions.parse(await get('/executions/active'))
    expect(active.items.map((one) => one.id)).toEqual(ids.toReversed())
    expect(active.items[0]).toMatchObject({
      started: false,
      progress: 0,
      current_prompt: 'secret words',
      latest_response: null,
      status: 'running',
      allowed_actions: ['cancel'],
    })
    for (const items of [page.items, active.items, next.items]) {
      for (const item of items) {
        expect(item).not.toHaveProperty('prompts')
        expect(item).not.toHaveProperty('prompt_results')
        expect(item).not.toHaveProperty('lease_token')
      }
    }
    for (const id of ids) await call('POST', `/executions/${id}/cancel`, {}, { as: owner })
  })

  test('refuse a limit or a cursor that is none', async () => {
    for (const list of ['/executions/recent', '/flows']) {
      for (const query of [
        'limit=0',
        'limit=-1',
        'limit=1e9',
        'limit=x',
        'limit=201',
        'limit=',
        'limit=1.5',
        'cursor=',
        'cursor=x',
        'cursor=AAAA',
        'limit=1&limit=2',
        'owner_id=x',
      ]) {
        expect((await call('GET', `${list}?${query}`)).status, `${list}?${query}`).toBe(422)
      }
      expect((await call('GET', `${list}?limit=200`)).status).toBe(200)
    }
  })
})

describe('a run', () => {
  test('begins within a second, keeps every answer in order, and completes', async () => {
    const flow = await flowOf(['one', { prompt: 'two', title: 'T' }, 'three'], {
      agent: { model: 'm-1', system: 'Be short.', temperature: 0.2, memory: 'It is Monday.' },
    })
    const asked = Date.now()
    const reply = await call('POST', `/flows/${flow.id}/run`, { total_prompts: 3 })
    expect(reply.status).toBe(202)
    const { execution_id } = ExecutionResponse.parse(reply.body)
    expect(reply.body).toMatchObject({
      status: 'running',
      started: false,
      total_prompts: 3,
      topic: `flow_execution:${execution_id}`,
    })
    const execution = Execution.parse(await ends(execution_id, { status: 'completed' }))
    expect(Date.parse(execution.started_at ?? '') - asked).toBeLessThan(1_000)
    expect(execution).toMatchObject({
      current_prompt_index: 3,
      progress: 1,
      current_prompt: null,
      latest_response: 'answer to three',
      version: 2,
      deadline_at: null,
      allowed_actions: [],
      error: null,
    })
    expect(execution.prompt_results).toMatchObject([
      { index: 0, prompt: 'one', response: 'answer to It is Monday.\n\none', error: null, attempts: 1 },
      { index: 1, prompt: 'two', response: 'answer to two' },
      { index: 2, prompt: 'three', response: 'answer to three' },
    ])
    expect(
      agent.requests.map(({ body }) => body.messages.map(({ role, content }) => `${role}: ${content}`))[2],
    ).toEqual([
      'system: Be short.',
      'user: It is Monday.\n\none',
      'assistant: answer to It is Monday.\n\none',
      'user: two',
      'assistant: answer to two',
      'user: three',
    ])
    expect(agent.requests[0]).toMatchObject({
      authorization: 'Bearer agent-key-1',
      body: { model: 'm-1', temperature: 0.2 },
    })
    expect(await read(execution_id, '?include=')).not.toHaveProperty('prompt_results')
    expect(await read(execution_id, '?include=events')).toMatchObject({ events: [{ seq: 1 }, { seq: 2 }] })
    expect((await call('GET', `/executions/${execution_id}?include=secrets`)).status).toBe(422)
  })

  test('is heard by its owner, answer after answer, and by nobody else', async () => {
    await nobody()
    const { topic } = await run(await flowOf(['one', 'two']))
    const listener = async (who: User) => {
      const client = createClient(project.stack.api_url, project.stack.publishable_key, {
        accessToken: async () => who.token,
      })
      await client.realtime.setAuth()
      const channel = client.channel(topic, { config: { private: true } })
      const heard = listen(channel)
      return { client, heard, ...(await subscribe(channel)) }
    }
    const [mine, theirs] = [await listener(user), await listener(stranger)]
    try {
      expect(mine.status).toBe('SUBSCRIBED')
      expect(theirs.status).not.toBe('SUBSCRIBED')
      await project.sql`grant execute on function public.claim_execution to service_role`
      await project.wakes(host.url)
      await project.call('/work?lane=prompts', { method: 'POST', as: 'secret', url: host.url })
      await expect
        .poll(() => mine.heard.map(({ event, payload }) => [event, payload.current_prompt_index]), {
          timeout: 15_000,
        })
        .toEqual([
          ['progress', 1],
          ['progress', 2],
          ['status_changed', 2],
        ])
      expect(theirs.heard).toEqual([])
    } finally {
      await Promise.all([mine.client.realtime.disconnect(), theirs.client.realtime.disconnect()])
    }
  })

  test('with a wrong number of prompts is refused', async () => {
    const flow = await flowOf(['a'])
    for (const total_prompts of [2, 0, -1, 1.5, 'x']) {
      expect((await call('POST', `/flows/${flow.id}/run`, { total_prompts })).status).toBe(422)
    }
  })

  test('is made once for an Idempotency-Key', async () => {
    await nobody()
    const flow = await flowOf(['a'])
    const other = await flowOf(['a'])
    const headers = { 'idempotency-key': randomUUID() }
    const replies = await Promise.all(Array.from({ length: 5 }, () => run(flow, { headers })))
    expect(new Set(replies.map((one) => one.execution_id)).size).toBe(1)
    expect(await call('POST', `/flows/${other.id}/run`, undefined, { headers })).toMatchObject({
      status: 409,
      body: { code: 'idempotency_key_reused' },
    })
    expect(
      (await call('POST', `/flows/${flow.id}/run`, undefined, { headers: { 'idempotency-key': '' } })).status,
    ).toBe(422)
    await call('POST', `/executions/${replies[0]?.id}/cancel`)
  })

  test('goes on as it began when its flow is changed or deleted meanwhile', async () => {
    const flow = await flowOf(['one', 'two', 'three'])
    agent.otherwise = async ({ body }) => {
      const prompt = body.messages.at(-1)?.content
      if (prompt === 'one') await call('PATCH', `/flows/${flow.id}`, { name: 'Other', prompts: ['changed'] })
      if (prompt === 'two') await call('DELETE', `/flows/${flow.id}`)
      return `answer to ${prompt}`
    }
    const { id } = await run(flow)
    expect(await ends(id, { status: 'completed' })).toMatchObject({
      flow_name: 'Routine',
      flow_id: flow.id,
      prompt_results: [
        { response: 'answer to one' },
        { response: 'answer to two' },
        { response: 'answer to three' },
      ],
    })
  })

  test('that is cancelled ends at once, and the answer that comes later is dropped', async () => {
    let answer: (text: string) => void = () => {}
    agent.otherwise = () =>
      new Promise<string>((done) => {
        answer = done
      })
    const { id } = await run(await flowOf(['one', 'two']))
    await expect.poll(() => agent.requests.length).toBe(1)
    const reply = await call('POST', `/executions/${id}/cancel`)
    expect(reply).toMatchObject({
      status: 202,
      body: { status: 'failed', error_code: 'CANCELLED', attribution: 'user', allowed_actions: ['retry'] },
    })
    answer('too late')
    expect(await call('POST', `/executions/${id}/cancel`)).toMatchObject({
      status: 409,
      body: { code: 'already_ended', details: { current: 'failed' } },
    })
    // The worker has nothing else under way: what it does next it does after the late answer.
    agent.otherwise = () => 'fine'
    await ends((await run(await flowOf(['other']))).id, { status: 'completed' })
    expect(await read(id)).toMatchObject({ status: 'failed', prompt_results: [], current_prompt_index: 0 })
  })
})

describe('a retry', () => {
  test('from the failed prompt takes over the earlier results, from the start none', async () => {
    const flow = await flowOf(['one', 'two', 'three'])
    agent.answers = ['first', 401]
    const { id } = await run(flow)
    const failed = await ends(id, { status: 'failed' })
    expect(failed).toMatchObject({
      error_code: 'AGENT_REFUSED',
      attribution: 'user',
      current_prompt_index: 1,
      prompt_results: [
        { response: 'first' },
        { index: 1, response: null, error: expect.stringContaining('Prompt 2 of 3') },
      ],
    })
    const again = await call('POST', `/executions/${id}/retry`, { from: 'failed_prompt' })
    expect(again).toMatchObject({ status: 202, body: { retry_of: id, attempt: 2, current_prompt_index: 1 } })
    const results = await ends(again.body.id, { status: 'completed' })
    expect(results.prompt_results).toMatchObject([
      { response: 'first' },
      { response: 'answer to two' },
      { response: 'answer to three' },
    ])
    const anew = await call('POST', `/executions/${id}/retry`, { from: 'start' })
    await ends(anew.body.id, { status: 'completed', latest_response: 'answer to three' })
    expect((await read(anew.body.id)).prompt_results?.[0]?.response).toBe('answer to one')
    expect((await read(id)).prompt_results).toEqual(failed.prompt_results)
  })

  test('is only of one that failed, and from somewhere that exists', async () => {
    const { id } = await run(await flowOf(['one']))
    await ends(id, { status: 'completed' })
    expect(await call('POST', `/executions/${id}/retry`, { from: 'start' })).toMatchObject({
      status: 409,
      body: { code: 'not_failed' },
    })
    for (const body of [{ from: 'end' }, { from: null }, { from: 1 }]) {
      expect((await call('POST', `/executions/${id}/retry`, body)).status).toBe(422)
    }
  })
})
