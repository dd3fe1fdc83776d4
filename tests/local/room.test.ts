import { randomUUID } from 'node:crypto'
import { createClient, type RealtimeChannel, type SupabaseClient } from '@supabase/supabase-js'
import { decodeProtectedHeader, jwtVerify } from 'jose'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { enter, knock, type RoomGuest } from '../support/room_guest.ts'
import { type RoomServer, startRoomServer } from '../support/room_server.ts'

let server: RoomServer
const clients: SupabaseClient[] = []

beforeAll(async () => {
  server = await startRoomServer()
})

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.realtime.disconnect()))
})

afterAll(async () => {
  await server?.close()
})

const newRoom = (query = '') => `${server.api_url}/room/${randomUUID()}${query}`

/** A client as the page makes it. */
async function listen(token: string): Promise<SupabaseClient> {
  const client = createClient(server.api_url, server.keys.publishable, { accessToken: async () => token })
  clients.push(client)
  // Without it the first join may be sent before the token is known.
  await client.realtime.setAuth()
  return client
}

/** Joins a private channel and resolves with the first status that says how it went. */
async function join(channel: RealtimeChannel): Promise<string> {
  return new Promise((resolve) => channel.subscribe((status) => resolve(status)))
}

const privately = { config: { private: true } }

describe('the door', () => {
  test('the first person is in at once, the next one waits in the lobby', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    expect(ada).toMatchObject({ standing: 'admitted', host: true })
    const grace = await enter(room, 'Grace')
    expect(grace).toMatchObject({ standing: 'waiting', host: false, inside: [], waiting: [] })
    expect(await ada.look()).toMatchObject({
      inside: [{ name: 'Ada', kind: 'person' }],
      waiting: [{ guest_id: grace.guest_id, name: 'Grace', kind: 'person' }],
    })
  })

  test('a bot waits even in an empty room, and does not make the first person wait', async () => {
    const room = newRoom()
    expect((await enter(room, 'Bot', { kind: 'bot' })).standing).toBe('waiting')
    expect((await enter(room, 'Ada')).standing).toBe('admitted')
  })

  test('without a lobby everybody is in at once', async () => {
    const room = newRoom('?lobby=off')
    await enter(room, 'Ada')
    expect((await enter(room, 'Bot', { kind: 'bot' })).standing).toBe('admitted')
  })

  test('a passcode of the first visit is wanted from then on', async () => {
    const room = newRoom()
    await enter(`${room}?passcode=tulip`, 'Ada')
    expect(await knock(room, { name: 'Eve' })).toMatchObject({
      status: 403,
      body: { code: 'wrong_passcode' },
    })
    expect((await knock(room, { name: 'Eve', passcode: 'rose' })).status).toBe(403)
    expect((await knock(room, { name: 'Bob', passcode: 'tulip' })).status).toBe(201)
    expect((await knock(`${room}?passcode=tulip`, { name: 'Cy' })).status).toBe(201)
  })

  test.each([
    ['a list', [], 422],
    ['an empty name', { name: ' ' }, 422],
    ['a name that is too long', { name: 'a'.repeat(81) }, 422],
    ['a name with control characters', { name: 'a\u0007b' }, 422],
    ['an unknown kind', { name: 'a', kind: 'host' }, 422],
  ])('%s is refused', async (_what, body, status) => {
    expect((await knock(newRoom(), body as Record<string, unknown>)).status).toBe(status)
  })

  test.each(['%20', 'a%2Fb', 'a%3Fb', 'a%00b', 'x'.repeat(256)])(
    'a room can not be called %s',
    async (id) => {
      expect((await knock(`${server.api_url}/room/${id}`, { name: 'Ada' })).status).toBe(404)
    },
  )

  test('a room may be called anything that join accepts', async () => {
    const room = `${server.api_url}/room/${encodeURIComponent("caf\u00e9:o'clock.7%")}`
    const ada = await enter(room, 'Ada')
    expect((await ada.look()).standing).toBe('admitted')
  })
})

describe('in the room', () => {
  async function meeting(): Promise<{ room: string; ada: RoomGuest; bob: RoomGuest }> {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bob = await enter(room, 'Bob')
    await ada.act('admit', { guest_id: bob.guest_id })
    return { room, ada, bob }
  }

  test('who is admitted is in, and hears what is said from then on', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    await ada.say('before')
    const bob = await enter(room, 'Bob')
    await ada.say('while Bob waits')
    expect((await bob.look()).messages).toEqual([])
    expect((await ada.act('admit', { guest_id: bob.guest_id })).status).toBe(200)
    await ada.say('hello Bob')
    const view = await bob.look()
    expect(view.standing).toBe('admitted')
    expect(view.messages).toMatchObject([{ seq: 3, name: 'Ada', text: 'hello Bob', guest_id: ada.guest_id }])
    expect((await ada.look(1)).messages.map((message) => message.text)).toEqual([
      'while Bob waits',
      'hello Bob',
    ])
  })

  test('who is rejected stays out and may not be admitted any more', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const eve = await enter(room, 'Eve')
    await ada.act('reject', { guest_id: eve.guest_id })
    expect((await eve.look()).standing).toBe('rejected')
    expect((await eve.say('hello?')).status).toBe(403)
    expect(await ada.act('admit', { guest_id: eve.guest_id })).toMatchObject({
      status: 409,
      body: { code: 'standing_changed' },
    })
  })

  test('who is evicted hears and says nothing more', async () => {
    const { ada, bob } = await meeting()
    await ada.say('one')
    await ada.act('evict', { guest_id: bob.guest_id })
    await ada.say('two')
    const view = await bob.look()
    expect(view.standing).toBe('evicted')
    expect(view.messages.map((message) => message.text)).toEqual(['one'])
    expect((await bob.say('three')).status).toBe(403)
  })

  test('neither bots nor those who wait decide about others', async () => {
    const { room, ada } = await meeting()
    const bot = await enter(room, 'Bot', { kind: 'bot' })
    const eve = await enter(room, 'Eve')
    expect((await eve.act('admit', { guest_id: eve.guest_id })).status).toBe(403)
    await ada.act('admit', { guest_id: bot.guest_id })
    for (const act of ['admit', 'reject']) {
      expect((await bot.act(act, { guest_id: eve.guest_id })).status).toBe(403)
    }
    expect((await bot.act('evict', { guest_id: ada.guest_id })).status).toBe(403)
    expect((await bot.act('end')).status).toBe(403)
  })

  test('a guest without the secret is nobody', async () => {
    const { room, ada } = await meeting()
    for (const authorization of ['', 'Bearer ', `Bearer ${ada.guest_id}`, `Bearer ${ada.token}`]) {
      const response = await fetch(`${room}/me`, { headers: { authorization } })
      expect(response.status).toBe(401)
    }
    expect((await fetch(`${newRoom()}/me`)).status).toBe(404)
  })

  test('the end of the meeting is the end for all; people may meet again, a bot came too late', async () => {
    const { room, ada, bob } = await meeting()
    const waiting = await enter(room, 'Cy')
    expect((await bob.act('end')).status).toBe(200)
    for (const guest of [ada, bob, waiting]) expect((await guest.look()).standing).toBe('ended')
    expect(await knock(room, { name: 'Bot', kind: 'bot' })).toMatchObject({
      status: 410,
      body: { code: 'meeting_ended' },
    })
    expect((await enter(room, 'Dee')).standing).toBe('admitted')
  })

  test('a person who leaves an empty room behind may be followed by the next', async () => {
    const { room, ada, bob } = await meeting()
    await ada.act('leave')
    await bob.act('leave')
    expect((await ada.look()).standing).toBe('left')
    expect((await enter(room, 'Eve')).standing).toBe('admitted')
  })
})

describe('over Realtime', () => {
  test('the token names the key, the room, and whether the guest is in; it is nobody’s session', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const secret = new TextEncoder().encode(server.jwt_secret)
    const { payload } = await jwtVerify(ada.token, secret)
    expect(decodeProtectedHeader(ada.token)).toMatchObject({ alg: 'HS256', kid: 'test-key' })
    expect(payload).toMatchObject({
      role: 'authenticated',
      room: { id: ada.topics.room.slice('room:'.length), guest: ada.guest_id, admitted: true },
    })
    expect(payload.sub).toBeUndefined()
    const bob = await enter(room, 'Bob')
    expect((await jwtVerify(bob.token, secret)).payload.room).toMatchObject({ admitted: false })
  })

  test('who waits may join their own topic only, and hears there of the admission', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bob = await enter(room, 'Bob')
    const heard: unknown[] = []
    const own = (await listen(bob.token))
      .channel(bob.topics.guest, privately)
      .on('broadcast', { event: 'standing' }, ({ payload }) => heard.push(payload))
    expect(await join(own)).toBe('SUBSCRIBED')
    expect(await join((await listen(bob.token)).channel(bob.topics.room, privately))).toBe('CHANNEL_ERROR')
    expect(await join((await listen(bob.token)).channel(ada.topics.guest, privately))).toBe('CHANNEL_ERROR')
    await ada.act('admit', { guest_id: bob.guest_id })
    await vi.waitFor(() => expect(heard).toMatchObject([{ standing: 'admitted' }]))
  })

  test('who is in hears what is said as it is said', async () => {
    const ada = await enter(newRoom(), 'Ada')
    const heard: string[] = []
    const channel = (await listen(ada.token))
      .channel(ada.topics.room, privately)
      .on('broadcast', { event: 'message' }, ({ payload }) => heard.push(`${payload.name}: ${payload.text}`))
    expect(await join(channel)).toBe('SUBSCRIBED')
    await ada.say('hello')
    await vi.waitFor(() => expect(heard).toEqual(['Ada: hello']))
  })

  test('guests see each other’s presence, but can not speak past the room', async () => {
    const room = newRoom('?lobby=off')
    const [ada, bob] = [await enter(room, 'Ada'), await enter(room, 'Bob')]
    const channelOf = async (guest: RoomGuest) =>
      (await listen(guest.token)).channel(guest.topics.room, {
        config: { private: true, presence: { key: guest.guest_id } },
      })
    const [channel, other] = [await channelOf(ada), await channelOf(bob)]
    const forged = vi.fn()
    other.on('broadcast', { event: 'message' }, forged)
    other.on('presence', { event: 'sync' }, () => {})
    expect([await join(channel), await join(other)]).toEqual(['SUBSCRIBED', 'SUBSCRIBED'])
    await channel.track({ name: 'Ada' })
    await vi.waitFor(() => expect(Object.keys(other.presenceState())).toEqual([ada.guest_id]))
    await channel.send({
      type: 'broadcast',
      event: 'message',
      payload: { name: 'Bob', text: 'I never said so' },
    })
    await ada.say('true')
    await vi.waitFor(() => expect(forged).toHaveBeenCalledOnce())
    expect(forged.mock.calls[0]?.[0].payload).toMatchObject({ name: 'Ada', text: 'true' })
  })

  test('a room does not hear another one', async () => {
    const ada = await enter(newRoom(), 'Ada')
    const eve = await enter(newRoom(), 'Eve')
    expect(await join((await listen(eve.token)).channel(ada.topics.room, privately))).toBe('CHANNEL_ERROR')
  })
})

describe('the page', () => {
  test('is served to browsers and fetches nothing from elsewhere', async () => {
    const response = await fetch(newRoom(), { headers: { accept: 'text/html' } })
    expect(response.headers.get('content-type')).toContain('text/html')
    expect(response.headers.get('content-security-policy')).toContain("default-src 'none'")
    const page = await response.text()
    expect(page).not.toMatch(/https?:\/\//)
    expect(page).not.toMatch(/innerHTML|insertAdjacentHTML|document\.write/)
  })

  test('gets supabase-js from here', async () => {
    const response = await fetch(`${server.api_url}/room/assets/supabase.js`)
    expect(response.headers.get('content-type')).toContain('text/javascript')
    expect(await response.text()).toContain('createClient')
  })

  test('programs get JSON at the same address', async () => {
    const room = newRoom('?passcode=tulip')
    await enter(room, 'Ada')
    expect(await (await fetch(room)).json()).toMatchObject({
      open: true,
      lobby: true,
      wants_passcode: true,
      inside: 1,
    })
  })
})
