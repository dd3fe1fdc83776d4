import { z } from 'zod'
import { Utterance } from '../contract/bots.ts'
import { askAgent } from './agent.ts'
import { AgentError } from './agent_error.ts'
import { type Extract, extract } from './extract.ts'
import type { WorkContext } from './lanes.ts'
import { errorFields, log } from './log.ts'
import { callRpc } from './rpc.ts'

/** How often a lease is renewed while the agent thinks, in ms. */
const RENEW_EVERY_MS = 15_000

/** Claiming, reading by rules and storing, in seconds. */
const OWN_SECONDS = 5

const Claim = z.object({
  bot_id: z.string(),
  workflow_thread_id: z.string(),
  processing_token: z.string(),
  transcript: z.unknown(),
})

/** The longest that one transcript takes, in seconds. */
export function processingSeconds({ settings, agent_timeout_s }: WorkContext): number {
  return OWN_SECONDS + (settings.agent === null ? 0 : agent_timeout_s)
}

/**
 * Takes one bot that has left, turns its transcript into questions, answers and insights, and completes it. An error
 * is stored and counts as an attempt: the database says when the next one is due, and ends the bot after the third.
 * False: nothing is due.
 */
export async function processNext(context: WorkContext): Promise<boolean> {
  const { db, worker } = context
  const claimed = await callRpc(db, 'claim_processing', { worker })
  if (claimed === null) return false
  const { bot_id, workflow_thread_id, processing_token, transcript } = Claim.parse(claimed)
  const lease = { workflow_thread_id, processing_token }
  const renewal = setInterval(() => {
    // A lost lease shows when the result is stored.
    callRpc(db, 'renew_processing', lease).catch((error) =>
      log('error', 'renewal_failed', { bot_id, ...errorFields(error) }),
    )
  }, RENEW_EVERY_MS)
  try {
    const result = await read(context, transcript)
    const answer = await callRpc<{ ok?: boolean; code?: string }>(db, 'complete_processing', {
      ...lease,
      ...result,
    })
    log('info', 'processing', {
      bot_id,
      result: answer.ok === false ? (answer.code ?? 'refused') : 'completed',
    })
  } catch (error) {
    log('error', 'processing_failed', { bot_id, ...errorFields(error) })
    await callRpc(db, 'fail_processing', { ...lease, ...complaint(error) })
  } finally {
    clearInterval(renewal)
  }
  return true
}

async function read({ settings, agent_timeout_s }: WorkContext, transcript: unknown): Promise<Extract> {
  const utterances = z.array(Utterance).parse(transcript ?? [])
  return settings.agent === null ? extract(utterances) : askAgent(settings.agent, utterances, agent_timeout_s)
}

function complaint(error: unknown): { error_message: string; error_details: Record<string, unknown> } {
  if (error instanceof AgentError) {
    return {
      error_message: error.message,
      error_details: { cause: 'agent', code: error.code, status: error.status },
    }
  }
  if (error instanceof z.ZodError) {
    const [issue] = error.issues
    const error_details = {
      cause: 'transcript',
      path: issue?.path.join('.') ?? '',
      message: issue?.message ?? '',
    }
    return { error_message: 'The transcript has a form that can not be read.', error_details }
  }
  return {
    error_message: 'The transcript could not be processed.',
    error_details: { cause: errorFields(error).error },
  }
}
