import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { report, requestBot, type TestBot, transcript } from './bots.ts'
import { rpc } from './rpc.ts'

/** A bot that nobody launches: the test plays it through the database, as the functions would. */
export function playedBot(sql: postgres.Sql, owner_id: string): Promise<TestBot> {
  return requestBot(sql, { owner_id, launch: false, native_meeting_id: `room-${randomUUID()}` })
}

/** The steps of a whole life that ends completed: nine transitions with the two of the request. */
export const whole_life = ['joining', 'awaiting_admission', 'active', 'left', 'processed'] as const
export type Step = (typeof whole_life)[number]

/** Takes one step of a bot's life. */
export async function step(sql: postgres.Sql, bot: TestBot, name: Step): Promise<void> {
  if (name === 'left') {
    await report(sql, bot, 'completed', { completion_reason: 'meeting_ended' })
  } else if (name === 'processed') {
    await rpc(sql, 'update_bot_status', { workflow_thread_id: bot.workflow_thread_id, status: 'completed' })
  } else {
    await report(sql, bot, name, name === 'active' ? { transcript } : {})
  }
}

/** Takes all steps of a bot's life. */
export async function live(sql: postgres.Sql, bot: TestBot): Promise<void> {
  for (const name of whole_life) await step(sql, bot, name)
}
