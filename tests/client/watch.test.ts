import { randomUUID } from 'node:crypto'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type BotChange, createRollcall, RollcallError } from '../../src/index.ts'
import { report, requestBot } from '../support/bots.ts'
import { admin, type SignedUpUser, type StackAddress, sharedStack, signUp } from '../support/stack.ts'
import { live, playedBot, step } from '../support/watched_bots.ts'

let stack: StackAddress
let sql: postgres.Sql
let ada: SignedUpUser

beforeAll(async () => {
  stack = await sharedStack()
  sql = postgres(stack.db_url, { max: 4, onnotice: () => {} })
  ada = await signUp(stack)
})

afterAll(async () => {
  await sql.end({ timeout: 1 })
})

/** What a watch yields, while it goes on and when it has ended. */
function collect<T>(changes: AsyncIterable<T>): { seen: T[]; ended: Promise<T[]> } {
  const seen: T[] = []
  const ended = (async () => {
    for await (const change of changes) seen.push(change)
    return seen
  })()
  ended.catch(() => {})
  return { seen, ended }
}

const words = (changes: readonly Pick<BotChange, 'machine' | 'from' | 'to'>[]) =>
  changes.map(({ machine, from, to }) => `${machine} ${from ?? ''}>${to}`)

const whole_story = [
  'meeting >requested',
  'bot >pending',
  'meeting requested>joining',
  'bot pending>starting',
  'meeting joining>awaiting_admission',
  'meeting awaiting_admission>active',
  'bot starting>running',
  'meeting active>completed',
  'bot running>completed',
]

describe('watch', () => {
  test('yields both machines from the first transition to the one that ends the bot', async () => {
    const rollcall = createRollcall(ada.client)
    const bot = await playedBot(sql, ada.user_id)
    const watched = collect(rollcall.bots.watch(bot.bot_id))
    await vi.waitFor(() => expect(watched.seen).toHaveLength(2))
    await live(sql, bot)
    expect(words(await watched.ended)).toEqual(whole_story)
    const ids = watched.seen.map(({ id }) => id)
    expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b))
  })

  test('tells the whole story of a bot that has ended', async () => {
    const bot = await playedBot(sql, ada.user_id)
    await live(sql, bot)
    expect(words(await collect(createRollcall(ada.client).bots.watch(bot.bot_id)).ended)).toEqual(whole_story)
  })
  test('two watches of one bot and one of another see all of theirs over one channel', async () => {
    const rollcall = createRollcall(ada.client)
    const [one, other] = await Promise.all([playedBot(sql, ada.user_id), playedBot(sql, ada.user_id)])
    const watches = [one, one, other].map(({ bot_id }) => collect(rollcall.bots.watch(bot_id)))
    await vi.waitFor(() => expect(watches.map(({ seen }) => seen.length)).toEqual([2, 2, 2]))
    await Promise.all([live(sql, one), live(sql, other)])
    expect(ada.client.getChannels().length).toBeLessThanOrEqual(1)
    for (const { ended } of watches) expect(words(await ended)).toEqual(whole_story)
  })

  test('goes on behind a change that was handled', async () => {
    const rollcall = createRollcall(ada.client)
    const bot = await playedBot(sql, ada.user_id)
    await live(sql, bot)
    const all = await collect(rollcall.bots.watch(bot.bot_id)).ended
    const rest = await collect(rollcall.bots.watch(bot.bot_id, { after: all[4]?.id ?? 0 })).ended
    expect(words(rest)).toEqual(whole_story.slice(5))
  })

  test('follows a bot that fails, with its error', async () => {
    const bot = await playedBot(sql, ada.user_id)
    const watched = collect(createRollcall(ada.client).bots.watch(bot.bot_id))
    await vi.waitFor(() => expect(watched.seen).toHaveLength(2))
    await report(sql, bot, 'failed', { error_code: 'JOIN_ROOM_TIMEOUT', error_message: 'No room.' })
    const last = (await watched.ended).at(-1)
    expect(last).toMatchObject({
      machine: 'bot',
      to: 'failed',
      error_code: 'JOIN_ROOM_TIMEOUT',
      error_message: 'No room.',
    })
  })

  test('throws the reason of its signal at once, also before it starts', async () => {
    const rollcall = createRollcall(ada.client)
    const bot = await playedBot(sql, ada.user_id)
    const over = new AbortController()
    const watched = collect(rollcall.bots.watch(bot.bot_id, { signal: over.signal }))
    await vi.waitFor(() => expect(watched.seen).toHaveLength(2))
    over.abort(new Error('enough'))
    await expect(watched.ended).rejects.toThrow('enough')
    await expect(collect(rollcall.bots.watch(bot.bot_id, { signal: over.signal })).ended).rejects.toThrow(
      'enough',
    )
  })

  test('refuses what is no bot, no bot of the caller, and a secret key that acts for nobody', async () => {
    const rollcall = createRollcall(ada.client)
    await expect(collect(rollcall.bots.watch('nonsense')).ended).rejects.toMatchObject({
      status: 422,
      code: 'invalid_request',
    })
    const foreign = await requestBot(sql, { launch: false })
    for (const bot_id of [randomUUID(), foreign.bot_id]) {
      await expect(collect(rollcall.bots.watch(bot_id)).ended).rejects.toMatchObject({
        status: 404,
        code: 'bot_not_found',
      })
    }
    await expect(collect(createRollcall(admin(stack)).changes()).ended).rejects.toMatchObject({
      status: 422,
      hint: 'createRollcall(supabase, { owner_id }).',
    })
  })

  test('with a secret key follows the runs of the owner it names', async () => {
    const client = admin(stack)
    const rollcall = createRollcall(client, { owner_id: ada.user_id })
    const [one, other] = await Promise.all([playedBot(sql, ada.user_id), playedBot(sql, ada.user_id)])
    const link: string[] = []
    rollcall.onConnection((connection) => link.push(connection))
    const watches = [one, other].map(({ bot_id }) => collect(rollcall.bots.watch(bot_id)))
    await vi.waitFor(() => expect(link).toContain('live'), 5000)
    await Promise.all([live(sql, one), live(sql, other)])
    for (const { ended } of watches) expect(words(await ended)).toEqual(whole_story)
  })
})

describe('wait', () => {
  test('resolves with the bot once it has reached a status, or is past it', async () => {
    const rollcall = createRollcall(ada.client)
    const bot = await playedBot(sql, ada.user_id)
    const running = rollcall.bots.wait(bot.bot_id, 'running', { timeout_ms: 20_000 })
    await step(sql, bot, 'active')
    expect(await running).toMatchObject({ bot_id: bot.bot_id, bot_status: 'running' })
    await step(sql, bot, 'left')
    await step(sql, bot, 'processed')
    expect(await rollcall.bots.wait(bot.bot_id, 'active', { machine: 'meeting' })).toMatchObject({
      bot_status: 'completed',
    })
  })

  test('says why a bot that failed never ran, and when time is up', async () => {
    const rollcall = createRollcall(ada.client)
    const bot = await playedBot(sql, ada.user_id)
    await expect(rollcall.bots.wait(bot.bot_id, 'running', { timeout_ms: 100 })).rejects.toMatchObject({
      name: 'RollcallError',
      status: 408,
      code: 'timeout',
      details: { state: 'running', timeout_ms: 100 },
    })
    await report(sql, bot, 'failed', { error_message: 'The room is full.' })
    const error = await rollcall.bots.wait(bot.bot_id, 'running').catch((reason) => reason)
    expect(error).toBeInstanceOf(RollcallError)
    expect(error).toMatchObject({ status: 409, code: 'state_not_reached', details: { bot_status: 'failed' } })
    expect(error.message).toContain('The room is full.')
    await expect(
      rollcall.bots.wait(bot.bot_id, 'running', { signal: AbortSignal.abort(new Error('enough')) }),
    ).rejects.toThrow('enough')
  })
})

describe('changes', () => {
  test('yields everything of the owner from a cursor, and goes on', async () => {
    const grace = await signUp(stack)
    const rollcall = createRollcall(grace.client)
    const first = await playedBot(sql, grace.user_id)
    await live(sql, first)
    const over = new AbortController()
    const all = collect(rollcall.changes({ signal: over.signal }))
    await vi.waitFor(() => expect(all.seen).toHaveLength(9), 10_000)
    const second = await playedBot(sql, grace.user_id)
    await vi.waitFor(() => expect(all.seen).toHaveLength(11), 10_000)
    over.abort()
    await expect(all.ended).rejects.toThrow()
    expect(all.seen.slice(9).map(({ subject_id }) => subject_id)).toEqual([second.bot_id, second.bot_id])

    // From each change on it is what followed.
    const again: number[] = []
    for await (const { id } of rollcall.changes({ after: all.seen[3]?.cursor })) {
      again.push(id)
      if (again.length === 7) break
    }
    expect(again).toEqual(all.seen.slice(4).map(({ id }) => id))

    const key = createRollcall(admin(stack), { owner_id: grace.user_id })
    const with_key: number[] = []
    for await (const { id } of key.changes()) {
      with_key.push(id)
      if (with_key.length === 11) break
    }
    expect(with_key).toEqual(all.seen.map(({ id }) => id))
  })

  test('from now on yields nothing of before', async () => {
    const grace = await signUp(stack)
    await playedBot(sql, grace.user_id)
    const rollcall = createRollcall(grace.client)
    const link: string[] = []
    rollcall.onConnection((connection) => link.push(connection))
    const now = collect(rollcall.changes({ after: 'now' }))
    await vi.waitFor(() => expect(link).toContain('live'), 5000)
    const bot = await playedBot(sql, grace.user_id)
    await vi.waitFor(() => expect(now.seen.map(({ subject_id }) => subject_id)).toContain(bot.bot_id), 10_000)
    expect(new Set(now.seen.map(({ subject_id }) => subject_id))).toEqual(new Set([bot.bot_id]))
  })

  test('refuses a cursor that is none, or from another database', async () => {
    const rollcall = createRollcall(ada.client)
    await expect(collect(rollcall.changes({ after: 'nonsense' })).ended).rejects.toMatchObject({
      status: 422,
      code: 'invalid_request',
    })
    await expect(
      collect(rollcall.changes({ after: '99999999999:99999999999:' })).ended,
    ).rejects.toMatchObject({
      status: 410,
      code: 'cursor_outdated',
      details: { next: expect.any(String) },
    })
  })
})

describe('who sees what', () => {
  test('a user who names another owner hears and sees nothing of theirs', async () => {
    const grace = await signUp(stack)
    await playedBot(sql, ada.user_id)
    const { data } = await grace.client.rpc('status_changes', { owner_id: ada.user_id })
    expect(data).toMatchObject({ events: [], has_more: false })
    const link: string[] = []
    let requests = 0
    const client = createClient(stack.api_url, stack.publishable_key, {
      accessToken: async () => grace.access_token,
      global: {
        fetch: (input, init) => {
          requests += 1
          return fetch(input, init)
        },
      },
    })
    const rollcall = createRollcall(client, { owner_id: ada.user_id })
    rollcall.onConnection((connection) => link.push(connection))
    const over = new AbortController()
    const watched = collect(rollcall.changes({ signal: over.signal }))
    // By then it has read, and was refused the channel.
    await vi.waitFor(() => expect(requests).toBeGreaterThan(1), 10_000)
    over.abort()
    await expect(watched.ended).rejects.toThrow()
    expect(watched.seen).toEqual([])
    expect(link).not.toContain('live')
  })

  test('an operator follows the runs of everybody', async () => {
    const operator = await signUp(stack)
    const superuser = postgres(stack.superuser_url, { max: 1, onnotice: () => {} })
    await superuser`
      update auth.users set raw_app_meta_data = '{"provider": "email", "rollcall": "operator"}'
      where id = ${operator.user_id}`
    await superuser.end()
    await operator.client.auth.signInWithPassword({ email: operator.email, password: operator.password })
    const rollcall = createRollcall(operator.client)
    const link: string[] = []
    rollcall.onConnection((connection) => link.push(connection))
    const [one, other] = [await playedBot(sql, ada.user_id), await requestBot(sql, { launch: false })]
    const watches = [one, other].map(({ bot_id }) => collect(rollcall.bots.watch(bot_id)))
    await vi.waitFor(() => expect(link).toContain('live'), 10_000)
    await Promise.all([live(sql, one), live(sql, other)])
    for (const { ended } of watches) expect(words(await ended)).toEqual(whole_story)
  })
})

describe('calls', () => {
  test('join, get, list and stop a bot', async () => {
    const grace = await signUp(stack)
    const { bots } = createRollcall(grace.client)
    const meeting = {
      platform: 'room' as const,
      native_meeting_id: `room-${randomUUID().slice(0, 8)}`,
      launch: false,
    }
    const joined = await bots.join(meeting, { idempotency_key: 'once' })
    expect(joined).toMatchObject({ status: 'pending', topic: `bot:${joined.bot_id}` })
    expect((await bots.join(meeting, { idempotency_key: 'once' })).bot_id).toBe(joined.bot_id)
    expect(await bots.get(joined.bot_id, { include: ['events'] })).toMatchObject({
      bot_status: 'pending',
      events: [{ to_status: 'requested' }, { to_status: 'pending' }],
    })
    const listed = await bots.list({ active: true, limit: 10 })
    expect(listed.items.map(({ bot_id }) => bot_id)).toEqual([joined.bot_id])
    expect((await bots.stop(joined.bot_id)).bots).toHaveLength(1)
  })

  test('throw what the function said', async () => {
    const { bots } = createRollcall(ada.client)
    await expect(bots.get(randomUUID())).rejects.toMatchObject({
      name: 'RollcallError',
      status: 404,
      code: 'bot_not_found',
    })
    const error = await bots.join({ platform: 'google_meet' }).catch((reason) => reason)
    expect(error).toMatchObject({ status: 422, code: 'invalid_request' })
    expect(error.details.issues.length).toBeGreaterThan(0)
    await expect(bots.list({ signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough')
  })
})
