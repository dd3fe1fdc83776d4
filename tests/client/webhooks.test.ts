import { randomUUID } from 'node:crypto'
import { beforeAll, expect, test } from 'vitest'
import { createRollcall, type Rollcall } from '../../src/index.ts'
import { admin, type StackAddress, sharedStack, signUp } from '../support/stack.ts'

let stack: StackAddress
let rollcall: Rollcall
let user_id: string
beforeAll(async () => {
  stack = await sharedStack()
  const user = await signUp(stack)
  user_id = user.user_id
  rollcall = createRollcall(user.client)
})

const url = 'https://example.com/hook'

test('an endpoint is made with a secret that is shown once, changed, and deleted', async () => {
  const { secret, ...made } = await rollcall.webhooks.create({ url, events: ['bot.failed'] })
  expect(secret).toMatch(/^whsec_/)
  expect(made).toMatchObject({ url, events: ['bot.failed'], enabled: true, owner_id: user_id })
  expect(await rollcall.webhooks.get(made.id)).toEqual(made)
  expect((await rollcall.webhooks.list()).items).toEqual([made])
  expect(await rollcall.webhooks.update(made.id, { events: ['bot.*'], enabled: false })).toMatchObject({
    events: ['bot.*'],
    enabled: false,
  })
  const rotated = await rollcall.webhooks.rotate(made.id)
  expect(rotated).toMatchObject({ endpoint_id: made.id, secret: expect.stringMatching(/^whsec_/) })
  expect(rotated.secret).not.toBe(secret)
  expect(await rollcall.webhooks.rotate()).toMatchObject({ endpoint_id: null, owner_id: user_id })
  await rollcall.webhooks.delete(made.id)
  await expect(rollcall.webhooks.get(made.id)).rejects.toMatchObject({ name: 'RollcallError', status: 404 })
})

test('a transition is a delivery that can be read and sent again', async () => {
  const { id } = await rollcall.webhooks.create({
    url: 'https://does-not-exist.invalid/hook',
    events: ['meeting.requested'],
  })
  const bot = await rollcall.bots.join({ platform: 'room', native_meeting_id: randomUUID(), launch: false })
  const { items } = await rollcall.webhooks.deliveries({ endpoint_id: id, subject_id: bot.bot_id, limit: 5 })
  expect(items).toMatchObject([{ type: 'meeting.requested', endpoint_id: id, subject_id: bot.bot_id }])
  const delivery = await rollcall.webhooks.delivery(items[0]?.id ?? '')
  expect(delivery.payload).toMatchObject({
    type: 'meeting.requested',
    data: { event: { to_status: 'requested' } },
  })
  expect(await rollcall.webhooks.resend(delivery.id)).toMatchObject({ id: delivery.id })
  await rollcall.webhooks.delete(id)
})

test('a secret key manages the endpoints of the owner it names', async () => {
  const for_owner = createRollcall(admin(stack), { owner_id: user_id })
  const { id } = await for_owner.webhooks.create({ url, events: ['*'] })
  expect((await rollcall.webhooks.list()).items.map((endpoint) => endpoint.id)).toContain(id)
  expect(await for_owner.webhooks.delete(id)).toMatchObject({ id })
})

test('a private target is refused with what is wrong', async () => {
  const refused = rollcall.webhooks.create({ url: 'https://127.0.0.1/hook', events: ['*'] })
  await expect(refused).rejects.toMatchObject({
    status: 422,
    code: 'invalid_request',
    details: { issues: [{ path: 'url' }] },
  })
})
