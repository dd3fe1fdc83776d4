import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { botIn, report, transcript } from './bots.ts'
import { running } from './flows.ts'
import { rpc } from './rpc.ts'
import { activeWorkflow, type Json, uncertainRun } from './workflow_steps.ts'

/** What an owner has: at least a row in every table that owners read. */
export interface Owned {
  owner_id: string
  /** The topics of these things, and of their owner. */
  topics: string[]
  /** What nobody may read, whoever it is, and where it may be written. */
  secrets: string[]
}

/** Gives a new owner a bot, an execution, a webhook and a workflow, and tells something of each. */
export async function ownEverything(sql: postgres.Sql): Promise<Owned> {
  const owner_id = randomUUID()
  const endpoint = await rpc<Json>(sql, 'create_webhook_endpoint', {
    owner_id,
    url: 'https://example.com/hook',
    events: ['bot.failed', 'flow_execution.failed'],
  })
  const passcode = `passcode-${randomUUID()}`
  const bot = await botIn(sql, 'active', { owner_id, passcode })
  await report(sql, bot, 'transcript', { chunk: 0, utterances: transcript })
  await report(sql, bot, 'joining')
  await report(sql, bot, 'failed', { error_message: 'It fell.' })

  const { execution } = await running(sql, ['one', 'two'], { owner_id })
  const { id, lease_token } = await rpc<Json>(sql, 'claim_execution', { worker: 'w' })
  const prompt_result = { response: 'x' }
  await rpc(sql, 'update_execution_progress', { id, prompt_index: 0, prompt_result, lease_token })
  await rpc(sql, 'cancel_execution', { id })

  const workflow = await activeWorkflow(sql, { owner_id })
  const { workflow_id } = workflow
  const value = `value-${randomUUID()}`
  await rpc(sql, 'set_workflow_secret', { workflow_id, name: 'KEY', value, owner_id })
  await rpc(sql, 'add_workflow_message', { workflow_id, content: 'And now?', owner_id })
  await uncertainRun(sql, workflow)

  return {
    owner_id,
    topics: [
      `bot:${bot.bot_id}`,
      `flow_execution:${execution.id}`,
      `workflow:${workflow_id}`,
      `owner:${owner_id}`,
    ],
    secrets: [passcode, value, endpoint.secret, endpoint.secret.replace('whsec_', '')],
  }
}
