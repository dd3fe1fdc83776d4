import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Bot } from '../../src/contract/bots.ts'
import { BotList } from '../../src/contract/status.ts'
import { type PlayedBot, type Project, startProject, transcript, type User } from '../support/project.ts'

let project: Project

beforeAll(async () => {
  project = await startProject()
})

afterAll(() => project?.close())

const status = (query: string, as: User | 'secret' | null, url?: string) =>
  project.call(`/status${query}`, { as, ...(url === undefined ? {} : { url }) })

/** Sets what only a machine of ours would tell. */
const container = (bot: PlayedBot, container_status: string) => project.sql`
  update public.workflow_threads set container_status = ${container_status}, container_id = 'm-1'
  where bot_id = ${bot.bot_id}`

describe('one bot', () => {
  test('P16 is the same by each of its names', async () => {
    const bot = await project.playTo('active')
    const by = await Promise.all(
      [
        `?bot_id=${bot.bot_id}`,
        `?bot_id=${bot.bot_id.toUpperCase()}`,
        `?workflow_thread_id=${bot.workflow_thread_id}`,
        `?platform=room&native_meeting_id=${bot.native_meeting_id}`,
      ].map((query) => status(query, bot.owner)),
    )
    for (const reply of by) {
      expect(reply.status).toBe(200)
      expect(reply.body).toEqual(by[0]?.body)
    }
    expect(Bot.safeParse(by[0]?.body).error).toBeUndefined()
    expect(by[0]?.body).toMatchObject({
      status: 'running',
      bot_status: 'running',
      meeting_status: 'active',
      error: null,
      out_of_sync: false,
      allowed_actions: ['stop'],
      topic: `bot:${bot.bot_id}`,
    })
    for (const left_out of [
      'transcript',
      'events',
      'passcode',
      'launch_token',
      'token_hash',
      'processing_token',
    ]) {
      expect(by[0]?.body).not.toHaveProperty(left_out)
    }
  })

  test('is the newest of its meeting', async () => {
    const first = await project.playTo('failed')
    const second = await project.play({ native_meeting_id: first.native_meeting_id }, first.owner)
    const reply = await status(`?platform=room&native_meeting_id=${first.native_meeting_id}`, first.owner)
    expect(reply.body.bot_id).toBe(second.bot_id)
  })

  test('H10 comes with its history and its transcript when they are asked for', async () => {
    const bot = await project.playTo('active')
    await project.report(bot, '', { status: 'completed', transcript })
    const { body } = await status(`?bot_id=${bot.bot_id}&include=events,transcript`, bot.owner)
    expect(Bot.safeParse(body).error).toBeUndefined()
    expect(body.transcript).toEqual(transcript)
    const meeting = body.events.filter((event: { machine: string }) => event.machine === 'meeting')
    expect(meeting.map((event: { seq: number }) => event.seq)).toEqual([1, 2, 3, 4, 5])
    for (const [index, event] of meeting.entries()) {
      expect(event.from_status).toBe(index === 0 ? null : meeting[index - 1].to_status)
    }
  })

  test('P12 that failed says where, what and whose fault, and what to do next', async () => {
    const bot = await project.playTo('joining')
    await project.report(bot, '', {
      status: 'failed',
      error_code: 'JOIN_ROOM_AUTH_FAILED',
      error_message: 'The room refused the token.',
      error_details: { http: 403 },
    })
    const { body } = await status(`?bot_id=${bot.bot_id}`, bot.owner)
    expect(body).toMatchObject({
      status: 'failed',
      allowed_actions: ['retry'],
      error: {
        stage: 'joining',
        code: 'JOIN_ROOM_AUTH_FAILED',
        message: 'The room refused the token.',
        details: { http: 403 },
        attribution: 'user',
        retryable: false,
        meaning: expect.any(String),
        next_step: expect.any(String),
      },
    })
    expect(body.bot_status_updated_at).toEqual(expect.any(String))
  })

  test("P12 that nobody knows, or that is another owner's, is not found", async () => {
    const bot = await project.play()
    const stranger = await project.user()
    for (const query of [
      `?bot_id=${randomUUID()}`,
      `?bot_id=${bot.bot_id}`,
      `?workflow_thread_id=${bot.workflow_thread_id}`,
      `?platform=room&native_meeting_id=${bot.native_meeting_id}`,
    ]) {
      const reply = await status(query, stranger)
      expect([query, reply.status, reply.body.code]).toEqual([query, 404, 'bot_not_found'])
    }
  })

  test('H01 a hundred reads change nothing', async () => {
    const bot = await project.playTo('active')
    await container(bot, 'Exited')
    const before = await project.row(bot)
    const events = await project.history(bot, 'bot')
    for (let i = 0; i < 10; i++) {
      const replies = await Promise.all(
        Array.from({ length: 10 }, () => status(`?bot_id=${bot.bot_id}&include=events`, bot.owner)),
      )
      expect(replies.every((reply) => reply.status === 200)).toBe(true)
    }
    expect(await project.row(bot)).toEqual(before)
    expect(await project.history(bot, 'bot')).toEqual(events)
  })

  test('H09 whose container has ended while the meeting goes on shows both, out of sync', async () => {
    const bot = await project.playTo('active')
    await container(bot, 'Exited')
    const open = await status(`?bot_id=${bot.bot_id}`, bot.owner)
    expect(open.body).toMatchObject({
      meeting_status: 'active',
      container_status: 'Exited',
      out_of_sync: true,
    })
    const ended = await project.playTo('failed')
    await container(ended, 'Up')
    expect((await status(`?bot_id=${ended.bot_id}`, ended.owner)).body.out_of_sync).toBe(true)
    expect((await project.row(bot)).meeting_status).toBe('active')
  })

  test('H07 P13 P14 is answered from the database, by a new process and without any machines API', async () => {
    const bot = await project.playTo('active')
    const host = await project.host({
      FLY_API_HOSTNAME: 'http://127.0.0.1:9',
      FLY_API_TOKEN: 'x',
      FLY_APP_NAME: 'x',
      BOT_IMAGE: 'x',
    })
    const { body } = await status(`?bot_id=${bot.bot_id}`, bot.owner, host.url)
    expect(body).toMatchObject({ status: 'running', meeting_status: 'active' })
    await host.close()
  })
})

describe('a list', () => {
  test('has the newest first, page by page, each once', async () => {
    const owner = await project.user()
    const made: string[] = []
    for (let i = 0; i < 5; i++) made.unshift((await project.play({}, owner)).bot_id)
    const seen: string[] = []
    let cursor: string | null = null
    do {
      const after: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`
      const { body } = await status(`?limit=2${after}`, owner)
      expect(BotList.safeParse(body).error).toBeUndefined()
      seen.push(...body.items.map((bot: { bot_id: string }) => bot.bot_id))
      cursor = body.next_cursor
    } while (cursor !== null)
    expect(seen).toEqual(made)
  })

  test('H05 is empty past the end', async () => {
    const owner = await project.user()
    await project.play({}, owner)
    await project.play({}, owner)
    const { body } = await status('?limit=1', owner)
    await project.sql`delete from public.workflow_threads where owner_id = ${owner.id}`.catch(() => {})
    const past = Buffer.from('1970-01-01T00:00:00+00:00 x').toString('base64')
    expect((await status(`?cursor=${past}`, owner)).body).toEqual({ items: [], next_cursor: null })
    expect(body.next_cursor).toEqual(expect.any(String))
  })

  test('is filtered by status, meeting status and whether it goes on', async () => {
    const owner = await project.user()
    const pending = await project.play({}, owner)
    const active = await project.play({}, owner)
    await project.report(active, '/started')
    const failed = await project.play({}, owner)
    await project.report(failed, '', { status: 'failed' })
    const ids = async (query: string) =>
      (await status(query, owner)).body.items.map((bot: { bot_id: string }) => bot.bot_id)
    expect(await ids('')).toEqual([failed.bot_id, active.bot_id, pending.bot_id])
    expect(await ids('?status=running')).toEqual([active.bot_id])
    expect(await ids('?meeting_status=requested')).toEqual([pending.bot_id])
    expect(await ids('?active=true')).toEqual([active.bot_id, pending.bot_id])
    expect(await ids('?active=false')).toEqual([failed.bot_id])
    expect(await ids('?status=completed')).toEqual([])
  })

  test("is the caller's alone, an operator's by default too; a secret key sees all", async () => {
    const bot = await project.play()
    const [stranger, operator] = [await project.user(), await project.operator()]
    expect((await status('', stranger)).body.items).toEqual([])
    const other = await status(`?owner_id=${bot.owner.id}`, stranger)
    expect([other.status, other.body.code]).toEqual([403, 'forbidden'])
    expect((await status('', operator)).body.items).toEqual([])
    const named = await status(`?owner_id=${bot.owner.id}&limit=1`, operator)
    expect(named.body.items).toMatchObject([{ bot_id: bot.bot_id }])
    expect((await status(`?bot_id=${bot.bot_id}`, operator)).body.bot_id).toBe(bot.bot_id)
    const all = await status('?limit=200', 'secret')
    expect(new Set(all.body.items.map((one: { owner_id: string }) => one.owner_id)).size).toBeGreaterThan(1)
    expect((await status(`?owner_id=${stranger.id}`, 'secret')).body.items).toEqual([])
    expect((await status(`?bot_id=${bot.bot_id}`, 'secret')).body.bot_id).toBe(bot.bot_id)
  })
})

describe('refused', () => {
  test.each([
    '?bot_id=1',
    '?bot_id=',
    '?bot_id=%00',
    '?workflow_thread_id=a%00b',
    '?platform=zoom',
    '?platform=skype&native_meeting_id=x',
    '?native_meeting_id=x',
    '?platform=room&native_meeting_id=a%2Fb',
    '?status=happy',
    '?meeting_status=running',
    '?active=1',
    '?limit=0',
    '?limit=201',
    '?limit=ten',
    '?limit=1&limit=2',
    '?cursor=nonsense',
    '?cursor=%F0%9F%98%80',
    `?cursor=${Buffer.from('someday x').toString('base64')}`,
    `?cursor=${Buffer.from([0xff, 0xfe]).toString('base64')}`,
    '?include=passcode',
    '?owner_id=me',
  ])('H03 H06 %s', async (query) => {
    const reply = await status(query, 'secret')
    expect([reply.status, reply.body.code]).toEqual([422, 'invalid_request'])
  })

  test('without credentials', async () => {
    expect((await status('', null)).status).toBe(401)
  })
})
