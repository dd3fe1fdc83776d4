import { randomUUID } from 'node:crypto'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { createClient } from '@supabase/supabase-js'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createRollcall } from '../../src/index.ts'
import { type StackAddress, sharedStack, signUp } from '../support/stack.ts'

/** The way to the stack. Once frozen, its WebSockets stay open and say nothing, heartbeats included. */
async function openWay(stack: StackAddress) {
  const target = new URL(stack.api_url)
  const sockets: Socket[] = []
  const live: Socket[] = []
  let frozen = false
  let asked_at = 0
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname)
    sockets.push(client, upstream)
    for (const socket of [client, upstream]) socket.on('error', () => {})
    client.on('data', (chunk) => {
      asked_at = Date.now()
      // Not only the first request of a connection: Node upgrades one that it had open.
      if (!/upgrade: websocket/i.test(chunk.toString('latin1'))) return
      live.push(client, upstream)
      if (frozen) still(client, upstream)
    })
    client.pipe(upstream)
    upstream.pipe(client)
    client.on('close', () => upstream.destroy())
    upstream.on('close', () => client.destroy())
  })
  const still = (...stopped: Socket[]) => {
    for (const socket of stopped) socket.unpipe().pause()
  }
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    freeze() {
      frozen = true
      still(...live)
      return live.length
    },
    /** For how long nobody has asked anything, in ms. */
    quiet_ms: () => Date.now() - asked_at,
    close() {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  }
}

let stack: StackAddress
let way: Awaited<ReturnType<typeof openWay>>
beforeAll(async () => {
  stack = await sharedStack()
  way = await openWay(stack)
})
afterAll(() => way.close())

test('a Realtime server that freezes with its socket open hides nothing', async () => {
  const { email, password } = await signUp(stack)
  const supabase = createClient(way.url, stack.publishable_key, {
    auth: { persistSession: false, autoRefreshToken: false },
  })
  await supabase.auth.signInWithPassword({ email, password })
  const rollcall = createRollcall(supabase)
  const bot = await rollcall.bots.join({ platform: 'room', native_meeting_id: randomUUID(), launch: false })
  const seen: string[] = []
  let link = ''
  rollcall.onConnection((connection) => {
    link = connection
  })
  const watched = (async () => {
    for await (const change of rollcall.bots.watch(bot.bot_id)) seen.push(`${change.machine} ${change.to}`)
  })()
  await expect.poll(() => link, { timeout: 15_000 }).toBe('live')
  await expect.poll(() => seen).toEqual(['meeting requested', 'bot pending'])

  expect(way.freeze()).toBeGreaterThan(0)
  // The reads that follow what was found are over: from here on only the reconcile can tell.
  await expect.poll(() => way.quiet_ms(), { timeout: 20_000 }).toBeGreaterThan(2500)
  for (const status of ['active', 'completed']) {
    const response = await fetch(`${stack.functions_url}/callback`, {
      method: 'POST',
      headers: { authorization: `Bearer ${bot.callback_token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ bot_id: bot.bot_id, status }),
    })
    expect(response.status).toBe(200)
  }
  const reported_at = Date.now()
  await watched
  console.log(`read ${Date.now() - reported_at} ms after the last report`)
  expect(seen).toEqual([
    'meeting requested',
    'bot pending',
    'meeting joining',
    'bot starting',
    'meeting awaiting_admission',
    'meeting active',
    'bot running',
    'meeting completed',
    'bot completed',
  ])
  await supabase.realtime.disconnect()
}, 90_000)
