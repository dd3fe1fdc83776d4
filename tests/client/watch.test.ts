import { randomUUID } from 'node:crypto'
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
})
