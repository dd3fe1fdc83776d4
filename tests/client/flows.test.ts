import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createRollcall, type ExecutionSummary, type Rollcall } from '../../src/index.ts'
import { admin, type SignedUpUser, type StackAddress, sharedStack, signUp } from '../support/stack.ts'

let stack: StackAddress
let user: SignedUpUser
let rollcall: Rollcall
beforeAll(async () => {
  stack = await sharedStack()
  user = await signUp(stack)
  rollcall = createRollcall(user.client)
})
afterAll(() => user.client.realtime.disconnect())

const prompts = ['What is due today?', { title: 'Plan', prompt: 'Plan the day.' }, 'Sum it up.']

async function watchToEnd(execution_id: string, client = rollcall): Promise<ExecutionSummary[]> {
  const seen: ExecutionSummary[] = []
  for await (const execution of client.flows.watch(execution_id)) seen.push(execution)
  return seen
}

test('a flow is written, run and watched to its end, with progress that only grows', async () => {
  const flow = await rollcall.flows.create({ name: 'Morning', prompts, agent: { temperature: 0 } })
  expect(await rollcall.flows.definition(flow.id)).toMatchObject({ name: 'Morning', prompts })
  expect((await rollcall.flows.list()).items).toMatchObject([{ id: flow.id, total_prompts: 3 }])

  const { execution_id } = await rollcall.flows.run(flow.id, { idempotency_key: 'once' })
  expect(await rollcall.flows.run(flow.id, { idempotency_key: 'once' })).toMatchObject({ execution_id })
  const seen = await watchToEnd(execution_id)
  const places = seen.map((execution) => execution.current_prompt_index)
  expect(places).toEqual([...places].sort((a, b) => a - b))
  expect(seen.at(-1)).toMatchObject({
    status: 'completed',
    current_prompt_index: 3,
    progress: 1,
    error: null,
  })
  expect(seen.filter((execution) => execution.status !== 'running')).toHaveLength(1)

  const whole = await rollcall.flows.get(execution_id, { include: ['results', 'events'] })
  expect(whole.prompt_results).toHaveLength(3)
  expect(whole.events?.map((event) => event.to_status)).toEqual(['running', 'completed'])
  expect(await rollcall.flows.get(execution_id, { include: [] })).not.toHaveProperty('prompt_results')
  expect((await rollcall.flows.recent({ limit: 1 })).items).toMatchObject([
    { execution_id, status: 'completed' },
  ])
  expect((await rollcall.flows.active()).items).toEqual([])

  await rollcall.flows.update(flow.id, { name: 'Evening' })
  await rollcall.flows.delete(flow.id)
  await expect(rollcall.flows.definition(flow.id)).rejects.toMatchObject({ status: 404 })
  expect(await rollcall.flows.get(execution_id)).toMatchObject({ flow_name: 'Morning' })
})

test('an execution that was over before it was watched is seen once; one that is cancelled ends, and is run again', async () => {
  const flow = await rollcall.flows.create({
    name: 'Long',
    prompts: Array.from({ length: 200 }, (_, i) => `Prompt ${i}.`),
  })
  const { execution_id } = await rollcall.flows.run(flow.id)
  const watched = watchToEnd(execution_id)
  expect(await rollcall.flows.cancel(execution_id)).toMatchObject({
    status: 'failed',
    error_code: 'CANCELLED',
    attribution: 'user',
  })
  expect((await watched).at(-1)).toMatchObject({ status: 'failed', error_code: 'CANCELLED' })
  expect(await watchToEnd(execution_id)).toHaveLength(1)
  await expect(rollcall.flows.cancel(execution_id)).rejects.toMatchObject({
    status: 409,
    code: 'already_ended',
  })
  const again = await rollcall.flows.retry(execution_id, 'failed_prompt')
  expect(again).toMatchObject({ retry_of: execution_id, attempt: 2 })
  await rollcall.flows.cancel(again.execution_id)
})

test("an unknown execution, and somebody else's, end their own watch alone", async () => {
  const flow = await rollcall.flows.create({ name: 'Mine', prompts })
  const { execution_id } = await rollcall.flows.run(flow.id)
  const mine = watchToEnd(execution_id)
  await expect(watchToEnd(randomUUID())).rejects.toMatchObject({ status: 404 })
  await expect(watchToEnd('no-id')).rejects.toMatchObject({ status: 404 })
  expect((await mine).at(-1)).toMatchObject({ status: 'completed' })
  const stranger = await signUp(stack)
  await expect(watchToEnd(execution_id, createRollcall(stranger.client))).rejects.toMatchObject({
    status: 404,
  })
  await stranger.client.realtime.disconnect()
  const backend = createRollcall(admin(stack), { owner_id: user.user_id })
  expect(await watchToEnd(execution_id, backend)).toMatchObject([{ status: 'completed' }])
})

test('leaving the loop leaves no channel', async () => {
  const flow = await rollcall.flows.create({ name: 'Left', prompts })
  const { execution_id } = await rollcall.flows.run(flow.id)
  for await (const _ of rollcall.flows.watch(execution_id)) break
  await expect.poll(() => user.client.getChannels()).toEqual([])
})
