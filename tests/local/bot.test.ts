import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { enter, type RoomGuest } from '../support/room_guest.ts'
import { type RoomServer, startRoomServer } from '../support/room_server.ts'

const main = join(import.meta.dirname, '../../src/bot/main.ts')
const token = 'the callback token'

type Call = { path: string; body: Record<string, unknown>; authorization: string | undefined; at_ms: number }
type Scripted = { status: number; headers?: Record<string, string>; body?: object } | 'hang up'

let server: RoomServer
let receiver: Server
let calls: Call[]
/** What the receiver answers; undefined is a 200. */
let answer: (call: Call, nth: number) => Scripted | undefined
let bots: ChildProcess[]

beforeAll(async () => {
  server = await startRoomServer()
  receiver = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    const { authorization } = request.headers
    const path = (request.url ?? '').replace('/callback/', '')
    const call = { path, body: JSON.parse(text), authorization, at_ms: Date.now() }
    calls.push(call)
    const scripted = answer(call, calls.filter((other) => other.path === call.path).length)
    if (scripted === 'hang up') return request.socket.destroy()
    response.writeHead(scripted?.status ?? 200, { 'content-type': 'application/json', ...scripted?.headers })
    response.end(JSON.stringify(scripted?.body ?? { result: 'processed' }))
  })
  await new Promise<void>((listening) => receiver.listen(0, '127.0.0.1', listening))
})

beforeEach(() => {
  calls = []
  bots = []
  answer = () => undefined
})

afterEach(async () => {
  for (const bot of bots) {
    if (bot.exitCode !== null || bot.signalCode !== null) continue
    bot.kill('SIGKILL')
    await new Promise((ended) => bot.once('exit', ended))
  }
})

afterAll(async () => {
  receiver?.closeAllConnections()
  await new Promise((closed) => receiver.close(closed))
  await server?.close()
})

type Bot = { id: string; process: ChildProcess; ended: Promise<number | null>; output(): string }

function startBot(room_url: string, config: object = {}, more: Record<string, string> = {}): Bot {
  const id = randomUUID()
  const { port } = receiver.address() as AddressInfo
  const child = spawn(process.execPath, [main], {
    env: {
      PATH: process.env.PATH,
      FLY_MACHINE_ID: 'machine-1',
      ROLLCALL_CALLBACK_URL: `http://127.0.0.1:${port}/callback`,
      ROLLCALL_CALLBACK_TOKEN: token,
      ROLLCALL_BOT_ID: id,
      ROLLCALL_PLATFORM: 'room',
      ROLLCALL_NATIVE_MEETING_ID: room_url.split('/').at(-1) ?? '',
      ROLLCALL_MEETING_URL: room_url,
      ROLLCALL_BOT_NAME: 'Scribe',
      ROLLCALL_BOT_CONFIG: JSON.stringify(config),
      ...more,
    },
  })
  bots.push(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk
    })
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
  return { id, process: child, ended, output: () => output }
}

const newRoom = (query = '') => `${server.api_url}/room/${randomUUID()}${query}`
const paths = () => calls.map((call) => call.path).filter((path) => path !== 'heartbeat')
const called = (path: string) => vi.waitFor(() => expect(paths()).toContain(path), 15_000)
const last = () => calls.at(-1)?.body

async function knocking(host: RoomGuest): Promise<string> {
  return vi.waitFor(async () => {
    const [bot] = (await host.look()).waiting.filter((guest) => guest.kind === 'bot')
    expect(bot).toBeDefined()
    return bot?.guest_id ?? ''
  }, 15_000)
}

async function admit(host: RoomGuest): Promise<string> {
  const guest_id = await knocking(host)
  await host.act('admit', { guest_id })
  await called('started')
  return guest_id
}

describe('a bot', () => {
  test('waits to be admitted, records who says what, and ends with the meeting', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    await ada.say('Nobody hears this.')
    const bot = startBot(room)
    await called('awaiting_admission')
    expect((await ada.look()).waiting).toMatchObject([{ name: 'Scribe', kind: 'bot' }])
    await admit(ada)
    const bob = await enter(room, 'Bob')
    await ada.act('admit', { guest_id: bob.guest_id })
    await ada.say('Shall we start?')
    await bob.say('Yes.')
    await called('transcript')
    await ada.say('Good bye.')
    await ada.act('end')
    expect(await bot.ended).toBe(0)

    expect(paths()).toEqual([
      'joining',
      'awaiting_admission',
      'started',
      'transcript',
      'transcript',
      'exited',
    ])
    expect(last()).toMatchObject({ exit_code: 0, completion_reason: 'meeting_ended' })
    for (const { body, authorization } of calls) {
      expect(authorization).toBe(`Bearer ${token}`)
      expect(body).toMatchObject({ bot_id: bot.id, container_id: 'machine-1' })
      expect(Date.parse(String(body.timestamp))).toBeGreaterThan(Date.now() - 60_000)
    }
    expect(new Set(calls.map((call) => call.body.event_id)).size).toBe(calls.length)
    const chunks = calls.filter((call) => call.path === 'transcript').map((call) => call.body)
    expect(chunks.map((chunk) => chunk.chunk)).toEqual([0, 1])
    const said = chunks.flatMap(
      (chunk) => chunk.utterances as { speaker: string; text: string; started_at: string }[],
    )
    expect(said.map((one) => [one.speaker, one.text])).toEqual([
      ['Ada', 'Shall we start?'],
      ['Bob', 'Yes.'],
      ['Ada', 'Good bye.'],
    ])
    expect(Number.isNaN(Date.parse(said[0]?.started_at ?? ''))).toBe(false)
  })

  test('is in at once where there is no lobby, and shows its presence', async () => {
    const room = newRoom('?lobby=off')
    const ada = await enter(room, 'Ada')
    startBot(room)
    await called('started')
    expect(paths()).toEqual(['joining', 'started'])
    expect((await ada.look()).inside).toMatchObject([{ name: 'Ada' }, { name: 'Scribe', kind: 'bot' }])
  })

  test('sends a heartbeat every 15 s, in the lobby too, and counts who is there', async () => {
    const [quiet, open] = [newRoom(), newRoom()]
    await enter(quiet, 'Ada')
    const ada = await enter(open, 'Ada')
    const waiting = startBot(quiet)
    const inside = startBot(open)
    await admit(ada)
    const of = (bot: Bot, path: string) =>
      calls.find((call) => call.path === path && call.body.bot_id === bot.id)
    for (const [bot, participant_count] of [
      [waiting, 0],
      [inside, 2],
    ] as const) {
      await vi.waitFor(() => expect(of(bot, 'heartbeat')?.body).toMatchObject({ participant_count }), 17_000)
      expect((of(bot, 'heartbeat')?.at_ms ?? 0) - (of(bot, 'joining')?.at_ms ?? 0)).toBeGreaterThan(14_000)
    }
  })
})

describe('a bot that no push reaches', () => {
  let silent: RoomServer

  beforeAll(async () => {
    silent = await startRoomServer({ chaos: 'drop=1' })
  })

  afterAll(async () => {
    await silent?.close()
  })

  test('still was in the room, and heard what was said there', async () => {
    const room = `${silent.api_url}/room/${randomUUID()}`
    const ada = await enter(room, 'Ada')
    const bot = startBot(room)
    const guest_id = await knocking(ada)
    await called('awaiting_admission')
    // All between two looks of the bot.
    await ada.act('admit', { guest_id })
    await ada.say('One.')
    await ada.say('Two.')
    await ada.act('end')
    expect(await bot.ended).toBe(0)
    expect(paths()).toEqual(['joining', 'awaiting_admission', 'started', 'transcript', 'exited'])
    expect(calls.at(-2)?.body.utterances).toMatchObject([{ text: 'One.' }, { text: 'Two.' }])
    expect(last()).toMatchObject({ completion_reason: 'meeting_ended' })
  })
})

describe('a bot leaves', () => {
  test('when an answer says so', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    answer = ({ path }) =>
      path === 'transcript' ? { status: 200, body: { result: 'processed', command: 'leave' } } : undefined
    const bot = startBot(room)
    await admit(ada)
    await ada.say('Please leave.')
    expect(await bot.ended).toBe(0)
    expect(last()).toMatchObject({ exit_code: 0, completion_reason: 'stopped' })
    expect((await ada.look()).inside).toMatchObject([{ name: 'Ada' }])
  })

  test('without entering when the first answer says so', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    answer = ({ path }) =>
      path === 'joining' ? { status: 200, body: { result: 'ignored', command: 'leave' } } : undefined
    const bot = startBot(room)
    expect(await bot.ended).toBe(0)
    expect(paths()).toEqual(['joining', 'exited'])
    expect((await ada.look()).waiting).toEqual([])
  })

  test.each(['SIGTERM', 'SIGINT'] as const)('on %s, with what was said until then', async (signal) => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bot = startBot(room)
    await admit(ada)
    await ada.say('Last words.')
    bot.process.kill(signal)
    expect(await bot.ended).toBe(0)
    expect(paths().slice(-2)).toEqual(['transcript', 'exited'])
    expect(calls.at(-2)?.body.utterances).toMatchObject([{ speaker: 'Ada', text: 'Last words.' }])
    expect(last()).toMatchObject({ exit_code: 0, completion_reason: 'stopped' })
  })

  test('the lobby on SIGTERM', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bot = startBot(room)
    await called('awaiting_admission')
    bot.process.kill('SIGTERM')
    expect(await bot.ended).toBe(0)
    expect(paths()).toEqual(['joining', 'awaiting_admission', 'exited'])
    expect((await ada.look()).waiting).toEqual([])
  })

  test('when it was alone for alone_after_s', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bot = startBot(room, { alone_after_s: 0.5 })
    await admit(ada)
    await ada.act('leave')
    expect(await bot.ended).toBe(0)
    expect(last()).toMatchObject({ exit_code: 0, completion_reason: 'left_alone' })
  })

  test('not when somebody comes back in time', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bot = startBot(room, { alone_after_s: 2 })
    await admit(ada)
    await ada.act('leave')
    await vi.waitFor(() => expect(bot.output()).toContain('alone, leaving in 2 s'), 5_000)
    const bob = await enter(room, 'Bob')
    // Nothing happens that could be waited for: the time has to pass.
    await new Promise((waited) => setTimeout(waited, 2_500))
    expect(bot.process.exitCode).toBeNull()
    await bob.act('end')
    expect(await bot.ended).toBe(0)
    expect(last()).toMatchObject({ completion_reason: 'meeting_ended' })
  })

  test('when it is evicted', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bot = startBot(room)
    const guest_id = await admit(ada)
    await ada.act('evict', { guest_id })
    expect(await bot.ended).toBe(0)
    expect(last()).toMatchObject({ exit_code: 0, completion_reason: 'evicted' })
  })

  test('when it is not let in', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    const bot = startBot(room)
    await ada.act('reject', { guest_id: await knocking(ada) })
    expect(await bot.ended).toBe(0)
    expect(paths()).toEqual(['joining', 'awaiting_admission', 'exited'])
    expect(last()).toMatchObject({ exit_code: 0, completion_reason: 'awaiting_admission_rejected' })
  })

  test('when it comes after the end', async () => {
    const room = newRoom()
    await (await enter(room, 'Ada')).act('end')
    const bot = startBot(room)
    expect(await bot.ended).toBe(0)
    expect(last()).toMatchObject({ exit_code: 0, completion_reason: 'meeting_ended' })
  })
})

describe('a bot says what failed', () => {
  test('when the passcode is wrong', async () => {
    const room = newRoom()
    await enter(`${room}?passcode=tulip`, 'Ada')
    const bot = startBot(room, {}, { ROLLCALL_PASSCODE: 'rose' })
    expect(await bot.ended).toBe(1)
    expect(last()).toMatchObject({
      exit_code: 1,
      error_code: 'JOIN_ROOM_AUTH_FAILED',
      error_message: 'The passcode is missing or wrong.',
    })
  })

  test('and enters with the right one', async () => {
    const room = newRoom()
    await enter(`${room}?passcode=tulip`, 'Ada')
    startBot(room, {}, { ROLLCALL_PASSCODE: 'tulip' })
    await called('awaiting_admission')
  })

  test.each([
    ['a platform that it can not attend', { ROLLCALL_PLATFORM: 'zoom' }, 'UNSUPPORTED_PLATFORM', 'zoom'],
    [
      'a configuration that is no JSON',
      { ROLLCALL_BOT_CONFIG: '{' },
      'VALIDATION_ERROR',
      'ROLLCALL_BOT_CONFIG',
    ],
    ['a missing meeting', { ROLLCALL_MEETING_URL: '' }, 'VALIDATION_ERROR', 'ROLLCALL_MEETING_URL'],
  ])('when it is given %s', async (_what, environment, error_code, mentioned) => {
    const bot = startBot(newRoom(), {}, environment)
    expect(await bot.ended).toBe(1)
    expect(last()).toMatchObject({ exit_code: 1, error_code })
    expect(last()?.error_message).toContain(mentioned)
  })

  test('on its own output, when it does not know whom to tell', async () => {
    const bot = startBot(newRoom(), {}, { ROLLCALL_CALLBACK_URL: '' })
    expect(await bot.ended).toBe(1)
    expect(bot.output()).toContain('ROLLCALL_CALLBACK_URL')
    expect(calls).toEqual([])
  })

  test('with its log, which has no secrets', async () => {
    const bot = startBot(newRoom(), {}, { ROLLCALL_PLATFORM: 'zoom' })
    await bot.ended
    expect(last()?.bot_logs).toContain('UNSUPPORTED_PLATFORM')
    expect(last()?.bot_logs).not.toContain(token)
  })
})

describe('a report', () => {
  test('is repeated with the same event_id until it is answered', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    answer = ({ path }, nth) => {
      if (path !== 'joining') return undefined
      if (nth === 1) return { status: 500 }
      return nth === 2 ? 'hang up' : undefined
    }
    startBot(room)
    await called('awaiting_admission')
    const [first, second, third, next] = calls
    expect([first?.path, second?.path, third?.path]).toEqual(['joining', 'joining', 'joining'])
    expect(next?.path).toBe('awaiting_admission')
    expect(second?.body).toEqual(first?.body)
    expect(third?.body).toEqual(first?.body)
    const [pause_1, pause_2] = [
      (second?.at_ms ?? 0) - (first?.at_ms ?? 0),
      (third?.at_ms ?? 0) - (second?.at_ms ?? 0),
    ]
    expect(pause_1).toBeGreaterThan(350)
    expect(pause_2).toBeGreaterThan(750)
    await admit(ada)
  })

  test('waits as long as a 429 asks for', async () => {
    const room = newRoom()
    await enter(room, 'Ada')
    answer = ({ path }, nth) =>
      path === 'joining' && nth === 1 ? { status: 429, headers: { 'retry-after': '2' } } : undefined
    startBot(room)
    await called('awaiting_admission')
    expect((calls[1]?.at_ms ?? 0) - (calls[0]?.at_ms ?? 0)).toBeGreaterThan(1_900)
  })

  test('waits for the ones before it', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    let refusing = true
    answer = ({ path }) => (path === 'awaiting_admission' && refusing ? { status: 503 } : undefined)
    const bot = startBot(room)
    await ada.act('admit', { guest_id: await knocking(ada) })
    await vi.waitFor(() => expect(bot.output()).toContain('room: admitted'), 10_000)
    expect(paths()).not.toContain('started')
    refusing = false
    await called('started')
    expect(paths().at(-2)).toBe('awaiting_admission')
  })

  test('that is refused is not repeated', async () => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    answer = ({ path }) => (path === 'awaiting_admission' ? { status: 422 } : undefined)
    const bot = startBot(room)
    await admit(ada)
    await ada.act('end')
    expect(await bot.ended).toBe(0)
    expect(paths()).toEqual(['joining', 'awaiting_admission', 'started', 'exited'])
  })

  test.each([401, 409])('answered with %i makes the bot go without another word', async (status) => {
    const room = newRoom()
    const ada = await enter(room, 'Ada')
    answer = ({ path }) => (path === 'started' ? { status, body: { code: 'gone' } } : undefined)
    const bot = startBot(room)
    await admit(ada)
    expect(await bot.ended).toBe(1)
    expect(paths()).toEqual(['joining', 'awaiting_admission', 'started'])
    expect((await ada.look()).inside).toMatchObject([{ name: 'Ada' }])
  })
})
