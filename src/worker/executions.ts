import { z } from 'zod'
import { AgentError } from './agent_error.ts'
import { builtInAnswer } from './built_in_agent.ts'
import { type ChatAnswer, chat } from './chat.ts'
import { type FlowAgent, lastPairs, messagesFor, type Pair } from './conversation.ts'
import type { WorkContext } from './lanes.ts'
import { errorFields, log } from './log.ts'
import { pause } from './pause.ts'
import { callRpc, RpcError } from './rpc.ts'
import { surely } from './surely.ts'

/** How many executions one worker has under way at a time: they wait for an agent, not for us. */
const AT_A_TIME = 4

/** How often a worker that has something under way looks for more, in ms. */
const LOOK_EVERY_MS = 250

/** How often a lease is renewed while the agent thinks, in ms. */
const RENEW_EVERY_MS = 15_000

/** Claiming and storing, in seconds. */
const OWN_SECONDS = 5

const Prompt = z.union([z.string(), z.object({ prompt: z.string() }).transform(({ prompt }) => prompt)])

const Claim = z.object({
  id: z.string(),
  lease_token: z.string(),
  prompts: z.array(Prompt),
  agent: z.object({
    model: z.string().optional(),
    system: z.string().optional(),
    temperature: z.number().optional(),
    memory: z.string().optional(),
  }),
  current_prompt_index: z.number(),
  total_prompts: z.number(),
  prompt_attempts: z.number(),
  conversation: z.array(z.object({ prompt: z.string(), response: z.string() })),
})
type Claim = z.output<typeof Claim>

type Stored = { ok: boolean; code?: string; status?: string }

/** The longest that one prompt takes, in seconds. */
export function promptSeconds({ agent_timeout_s }: WorkContext): number {
  return OWN_SECONDS + agent_timeout_s
}

/** The workers that are under way in this process, and until when each looks for more (epoch ms). */
const looking = new Map<string, number>()

/**
 * Works on executions, a few at a time, until there is nothing to claim, or until the next prompt might not end before
 * `until` (epoch ms); then those under way are given back for the next worker. One run per worker: a second one at the
 * same time only makes the first look on. Returns how many executions were claimed. Throws what a claim throws.
 */
export async function runExecutions(
  context: WorkContext,
  until = Number.POSITIVE_INFINITY,
  signal?: AbortSignal,
): Promise<number> {
  // Whoever asks for a flow while the lane was just woken does not wake it again: so somebody must still be looking.
  const linger = () => looking.set(context.worker, Date.now() + context.linger_ms)
  const busy = looking.has(context.worker)
  linger()
  if (busy) return 0
  const fits = () => !signal?.aborted && Date.now() + promptSeconds(context) * 1000 <= until
  const under_way = new Set<Promise<void>>()
  let claimed = 0
  try {
    while (fits()) {
      const claim = under_way.size < AT_A_TIME ? await claimNext(context) : null
      if (claim !== null) {
        claimed++
        const run = runExecution(context, claim, fits)
          .catch((error) =>
            log('error', 'execution_broke_off', { execution_id: claim.id, ...errorFields(error) }),
          )
          .finally(() => {
            under_way.delete(run)
            linger()
          })
        under_way.add(run)
        continue
      }
      if (under_way.size === 0 && Date.now() >= (looking.get(context.worker) ?? 0)) break
      await Promise.race([...under_way, pause(LOOK_EVERY_MS)])
    }
  } finally {
    looking.delete(context.worker)
    await Promise.all(under_way)
  }
  return claimed
}

async function claimNext({ db, worker }: WorkContext): Promise<Claim | null> {
  const claimed = await callRpc(db, 'claim_execution', { worker })
  return claimed === null ? null : Claim.parse(claimed)
}

/** Goes on with an execution until it ends, its lease is lost, an attempt has to wait, or no other prompt fits. */
async function runExecution(context: WorkContext, claim: Claim, fits: () => boolean): Promise<void> {
  const { db } = context
  const lease = { id: claim.id, lease_token: claim.lease_token }
  const done = (result: string) => log('info', 'execution', { execution_id: claim.id, result })
  let pairs: Pair[] = claim.conversation
  let attempts = claim.prompt_attempts
  for (let index = claim.current_prompt_index; index < claim.total_prompts; index++) {
    if (!fits()) {
      await callRpc(db, 'yield_execution', lease)
      return done('yielded')
    }
    const prompt = claim.prompts[index] ?? ''
    pairs = lastPairs(pairs)
    const omitted_pairs = index - pairs.length
    const started = performance.now()
    const timing = () => ({ duration_ms: Math.round(performance.now() - started), attempts: attempts + 1 })
    const store = (prompt_result: object) =>
      surely<Stored>(() =>
        callRpc(db, 'update_execution_progress', { ...lease, prompt_index: index, prompt_result }),
      )
    let answer: ChatAnswer
    let stored: Stored
    try {
      answer = await underLease(context, lease, (signal) => ask(context, claim.agent, pairs, prompt, signal))
      stored = await store({ response: answer.text, usage: answer.usage, omitted_pairs, ...timing() })
    } catch (error) {
      if (error instanceof LeaseLost) return done('stale_lease')
      const problem = problemOf(error)
      if (problem === null) throw error
      if (worthAnother(problem, attempts)) {
        const { retry_after_s } = problem
        const given_back = await surely<Stored>(() =>
          callRpc(db, 'yield_execution', { ...lease, failed: true, retry_after_s }),
        )
        if (given_back.ok) return done('retrying')
        if (given_back.code === 'stale_lease') return done('stale_lease')
      }
      const sentence = `Prompt ${index + 1} of ${claim.total_prompts}: ${problem.message}`
      await store({ error: sentence, omitted_pairs, ...timing() })
      const ended = await surely<Stored>(() =>
        callRpc(db, 'complete_execution', {
          ...lease,
          status: 'failed',
          error: sentence,
          error_code: problem.code,
          error_details: { prompt_index: index, attempts: attempts + 1, status: problem.status },
        }),
      )
      return done(ended.ok ? 'failed' : (ended.code ?? 'refused'))
    }
    if (!stored.ok) return done(stored.code ?? 'refused')
    if (stored.status === 'completed') return done('completed')
    pairs = [...pairs, { prompt, response: answer.text }]
    attempts = 0
  }
}

function ask(
  { settings, agent_timeout_s }: WorkContext,
  flow_agent: FlowAgent,
  pairs: Pair[],
  prompt: string,
  signal: AbortSignal,
): Promise<ChatAnswer> {
  const messages = messagesFor(flow_agent, pairs, prompt)
  if (settings.prompt_agent === 'built_in') return builtInAnswer(messages)
  const { model, temperature } = flow_agent
  return chat(settings.prompt_agent, { messages, model, temperature, timeout_s: agent_timeout_s, signal })
}

class LeaseLost extends Error {
  override name = 'LeaseLost'
}

/** Renews the lease while the agent thinks. Ends the thinking when somebody else has the execution, or it was cancelled. */
async function underLease<T>(
  { db }: WorkContext,
  lease: { id: string; lease_token: string },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const lost = new AbortController()
  const renewal = setInterval(() => {
    callRpc<Stored>(db, 'renew_execution_lease', lease).then(
      (answer) => {
        if (!answer.ok) lost.abort(new LeaseLost('Another worker has the execution, or it has ended.'))
      },
      (error) => log('error', 'renewal_failed', { execution_id: lease.id, ...errorFields(error) }),
    )
  }, RENEW_EVERY_MS)
  try {
    return await work(lost.signal)
  } finally {
    clearInterval(renewal)
  }
}

/** What the agent did wrong; null for what is no fault of its. */
function problemOf(error: unknown): AgentError | null {
  if (error instanceof AgentError) return error
  if (error instanceof RpcError && error.failure === 'unfit') {
    return new AgentError('AGENT_BAD_ANSWER', 'The answer of the agent can not be stored.')
  }
  return null
}

/** A prompt that we cut off for time twice is not asked a third time: it takes longer than this worker may wait. */
function worthAnother({ code, status, passing }: AgentError, attempts: number): boolean {
  const cut_off = code === 'AGENT_TIMEOUT' && status === null
  return passing && !(cut_off && attempts > 0)
}
