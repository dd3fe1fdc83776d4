import { randomUUID } from 'node:crypto'
import type { RealtimeChannel } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Bot } from '../../src/contract/bots.ts'
import { enter } from '../support/room_guest.ts'
import { type SignedUpUser, type StackAddress, sharedStack, signUp } from '../support/stack.ts'

type Push = { event_id: number; machine: string; seq: number; from: string | null; to: string }

let stack: StackAddress
let owner: SignedUpUser
let stranger: SignedUpUser
let sql: postgres.Sql

beforeAll(async () => {
  stack = await sharedStack()
  owner = await signUp(stack)
  stranger = await signUp(stack)
  sql = postgres(stack.superuser_url, { max: 1 })
})
afterAll(async () => {
  await Promise.all([owner, stranger].map(({ client }) => client.realtime.disconnect()))
  await sql.end()
})

async function call(user: SignedUpUser, path: string, body?: object): Promise<{ status: number; body: Bot }> {
  const response = await fetch(`${stack.functions_url}/${path}`, {
    method: body ? 'POST' : 'GET',
    headers: {
      apikey: stack.publishable_key,
      authorization: `Bearer ${user.access_token}`,
      'content-type': 'application/json',
    },
    body: body ? JSON.stringify(body) : null,
  })
  return { status: response.status, body: (await response.json()) as Bot }
}

/** Joins a private channel and keeps what it hears; resolves with the state of the join. */
async function listen(
  user: SignedUpUser,
  topic: string,
  event: string,
): Promise<{ state: string; heard: Push[]; channel: RealtimeChannel }> {
  await user.client.realtime.setAuth(user.access_token)
  const heard: Push[] = []
  const channel = user.client.channel(topic, { config: { private: true } })
  const state = await new Promise<string>((resolve) => {
    channel
      .on('broadcast', { event }, ({ payload }) => heard.push(payload))
      .subscribe((word) => resolve(word))
  })
  return { state, heard, channel }
}

test('I01 I06 a bot is asked for, attends a room and brings its result, live, for its owner alone', async () => {
  const room_id = `life-${randomUUID().slice(0, 8)}`
  const ada = await enter(`${stack.room_url}/${room_id}`, 'Ada')
  const hints = await listen(owner, `owner:${owner.user_id}`, 'changed')
  expect(hints.state).toBe('SUBSCRIBED')
  expect((await listen(stranger, `owner:${owner.user_id}`, 'changed')).state).toBe('CHANNEL_ERROR')

  const joined = await call(owner, 'join', {
    platform: 'room',
    native_meeting_id: room_id,
    bot_name: 'Scribe',
  })
  expect(joined).toMatchObject({
    status: 201,
    body: { status: 'pending', meeting_status: 'requested', error: null },
  })
  const { bot_id, topic } = joined.body
  const pushes = await listen(owner, topic, 'status_changed')
  expect(pushes.state).toBe('SUBSCRIBED')
  expect((await listen(stranger, topic, 'status_changed')).state).toBe('CHANNEL_ERROR')

  const waiting = await expect
    .poll(async () => (await ada.look()).waiting.find((guest) => guest.name === 'Scribe'), {
      timeout: 20_000,
    })
    .toBeTruthy()
    .then(async () => (await ada.look()).waiting.find((guest) => guest.name === 'Scribe'))
  await expect
    .poll(async () => (await call(owner, `status?bot_id=${bot_id}`)).body)
    .toMatchObject({ meeting_status: 'awaiting_admission', bot_status: 'starting', container_status: 'Up' })
  await ada.act('admit', { guest_id: waiting?.guest_id })
  await expect
    .poll(async () => (await call(owner, `status?bot_id=${bot_id}`)).body.status, { timeout: 20_000 })
    .toBe('running')
  await ada.say('Who takes the notes?')
  await ada.say('Scribe takes the notes, that is decided.')
  await ada.act('end')
  await expect
    .poll(async () => (await call(owner, `status?bot_id=${bot_id}`)).body.status, { timeout: 20_000 })
    .toBe('completed')

  const { body: bot } = await call(owner, `status?bot_id=${bot_id}&include=events,transcript`)
  expect(bot).toMatchObject({
    meeting_status: 'completed',
    completion_reason: 'meeting_ended',
    error: null,
    allowed_actions: ['retry'],
    transcript: [
      { speaker: 'Ada', text: 'Who takes the notes?' },
      { speaker: 'Ada', text: 'Scribe takes the notes, that is decided.' },
    ],
  })
  expect(bot.qa_pairs).toHaveLength(1)
  const events = bot.events ?? []
  const history = (machine: string) =>
    events.filter((event) => event.machine === machine).map((event) => event.to_status)
  expect(history('meeting')).toEqual(['requested', 'joining', 'awaiting_admission', 'active', 'completed'])
  expect(history('bot')).toEqual(['pending', 'starting', 'running', 'completed'])

  // Whatever was pushed after the channel was joined arrived once each, in order, as the history has it.
  await expect.poll(() => pushes.heard.at(-1)?.to).toBe('completed')
  const ids = pushes.heard.map((push) => push.event_id)
  expect(ids).toEqual(events.map((event) => event.id).filter((id) => id >= (ids[0] ?? 0)))
  expect(ids.length).toBeGreaterThanOrEqual(5)
  await expect.poll(() => hints.heard.length).toBeGreaterThanOrEqual(2)
  expect(hints.heard.length).toBeLessThan(events.length)

  expect(await call(stranger, `status?bot_id=${bot_id}`)).toMatchObject({
    status: 404,
    body: { code: 'bot_not_found' },
  })
  expect((await call(stranger, 'status')).body).toMatchObject({ items: [] })
  expect((await stranger.client.from('workflow_threads').select().eq('bot_id', bot_id)).data).toEqual([])
  expect((await stranger.client.from('status_events').select().eq('subject_id', bot_id)).data).toEqual([])
  expect(await sql`select * from public.invariant_violations`).toEqual([])
})

test('even the secret key cannot set a status over the API', async () => {
  const { body } = await call(owner, 'join', {
    platform: 'room',
    native_meeting_id: `key-${randomUUID()}`,
    launch: false,
  })
  for (const key of [stack.secret_key, stack.publishable_key]) {
    const response = await fetch(`${stack.api_url}/rest/v1/workflow_threads?bot_id=eq.${body.bot_id}`, {
      method: 'PATCH',
      headers: { apikey: key, 'content-type': 'application/json' },
      body: JSON.stringify({ bot_status: 'completed' }),
    })
    expect([401, 403]).toContain(response.status)
    expect(await response.json()).toMatchObject({ code: '42501' })
  }
  expect((await call(owner, `status?bot_id=${body.bot_id}`)).body.status).toBe('pending')
})
