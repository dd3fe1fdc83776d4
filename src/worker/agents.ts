import type { z } from 'zod'
import { AgentError } from './agent_error.ts'
import type { WorkContext } from './lanes.ts'
import { Lease, LeaseLost } from './lease.ts'
import { log } from './log.ts'
import { FixArguments, failureReport, fix_tool, MAINTAINER_PROMPT } from './maintainer.ts'
import { plannerPrompt, SaveArguments, save_tool } from './planner.ts'
import { callRpc, RpcError } from './rpc.ts'
import { validateScript } from './script/validate_script.ts'
import type { AgentSettings } from './settings.ts'
import { type AssistantMessage, chatWithTools, type Tool, type ToolMessage } from './tool_chat.ts'
import { Task } from './workflow_task.ts'

/** How often an agent may call for one request: its first script, and five corrections. */
const MAX_CALLS = 6

/** Claiming, checking a script and storing, in seconds. */
const OWN_SECONDS = 10

/** The longest that one call of an agent takes, in seconds. */
export function agentSeconds({ agent_timeout_s }: WorkContext): number {
  return OWN_SECONDS + agent_timeout_s
}

interface TaskWork {
  context: WorkContext
  agent: AgentSettings
  task: Task
  lease: Lease
  messages: ToolMessage[]
}

/**
 * Takes one task of an agent, writing a script or repairing one, as far as it goes: one call of the agent after the
 * other, each stored before the next. Without an agent the claim itself ends what would need one. False: nothing is due.
 */
export async function workOnTask(context: WorkContext, may_begin: () => boolean): Promise<boolean> {
  const { db, settings, worker } = context
  const { agent } = settings
  const asked_at = performance.now()
  const claimed = await callRpc(db, 'claim_task', { worker, has_agent: agent !== null })
  if (claimed === null || agent === null) return false
  const task = Task.parse(claimed)
  const { task_id, lease_token, type, workflow_id } = task
  const lease = new Lease({ db, holder: { task_id, lease_token }, renewal: 'renew_task', asked_at })
  const done = (result: string) => log('info', 'task', { workflow_id, task_id, type, result })
  const work = { context, agent, task, lease, messages: opening(task) }
  try {
    done(await attempt(work, may_begin))
  } catch (error) {
    if (!(error instanceof LeaseLost)) throw error
    done('lease_lost')
  } finally {
    lease.end()
  }
  return true
}

/** The conversation so far; a maintainer's begins with what there is to repair. */
function opening(task: Task): ToolMessage[] {
  if (task.type === 'planner' || task.messages.length > 0) return [...task.messages]
  return [{ role: 'user', content: failureReport(task) }]
}

/** As far as it goes; an agent that gives no usable answer has cost the task an attempt. */
async function attempt(work: TaskWork, may_begin: () => boolean): Promise<string> {
  try {
    return await goOn(work, may_begin)
  } catch (error) {
    if (!(error instanceof AgentError)) throw error
    const { task_id } = work.task
    await work.lease.call('fail_task', { task_id, error: error.message, error_code: error.code })
    return error.code
  }
}

async function goOn(work: TaskWork, may_begin: () => boolean): Promise<string> {
  const { lease, task, messages } = work
  const { task_id } = task
  for (;;) {
    const last = messages.at(-1)
    if (last?.role === 'assistant') {
      // A worker may have been killed between an answer and what follows from it.
      const result = await follow(work, last)
      if (result !== null) return result
    }
    if (callsOf(work) >= MAX_CALLS) return giveUp(work)
    if (!may_begin()) {
      await lease.call('yield_task', { task_id })
      return 'yielded'
    }
    messages.push(await ask(work))
    await lease.call('store_task_step', { task_id, messages })
  }
}

async function ask({ context, agent, task, lease, messages }: TaskWork): Promise<AssistantMessage> {
  try {
    return await chatWithTools(agent, {
      system: task.type === 'planner' ? plannerPrompt(task) : MAINTAINER_PROMPT,
      messages,
      tools: [toolOf(task)],
      timeout_s: context.agent_timeout_s,
      signal: lease.signal,
    })
  } catch (error) {
    lease.signal.throwIfAborted()
    throw error
  }
}

/** Does what an answer of the agent asks for. Null: the agent is to go on. */
async function follow(work: TaskWork, answer: AssistantMessage): Promise<string | null> {
  const { lease, task, messages } = work
  const { task_id } = task
  const calls = answer.tool_calls ?? []
  if (calls.length === 0) {
    if (task.type === 'planner') {
      await lease.call('wait_task', { task_id, reply: answer.content ?? '', messages })
      return 'waiting'
    }
    messages.push({ role: 'user', content: 'Nobody reads this: call the tool "fix" with the whole script.' })
    return null
  }
  const replies: ToolMessage[] = []
  for (const { id, function: called } of calls) {
    const tried = await tryCall(task, called)
    if ('stored' in tried) {
      const saved: ToolMessage = { role: 'tool', tool_call_id: id, content: 'Saved.' }
      const refusal = await store(work, answer, tried.stored, [...messages, ...replies, saved])
      if (refusal === null) return task.type === 'planner' ? 'saved' : 'fixed'
      replies.push({ role: 'tool', tool_call_id: id, content: refusal })
    } else {
      replies.push({ role: 'tool', tool_call_id: id, content: tried.complaint })
    }
  }
  messages.push(...replies)
  return null
}

/** Stores a script and ends the task; what the database has against it, null for nothing. */
async function store(
  { lease, task }: TaskWork,
  answer: AssistantMessage,
  script: Record<string, unknown>,
  messages: ToolMessage[],
): Promise<string | null> {
  const { task_id } = task
  try {
    if (task.type === 'planner') {
      const reply = answer.content?.trim() || null
      await lease.call('complete_plan', { task_id, ...script, reply, messages })
    } else {
      await lease.call('apply_fix', { task_id, ...script, messages })
    }
    return null
  } catch (error) {
    if (error instanceof RpcError && error.status === 422) return `Not saved. ${error.message}`
    throw error
  }
}

/** What a call of a tool is to store, or what is wrong with it. */
async function tryCall(
  task: Task,
  called: { name: string; arguments: string },
): Promise<{ stored: Record<string, unknown> } | { complaint: string }> {
  const tool = toolOf(task)
  if (called.name !== tool.name) return { complaint: `There is no tool "${called.name}".` }
  const schema: z.ZodType<{ code: string }> = task.type === 'planner' ? SaveArguments : FixArguments
  const parsed = schema.safeParse(jsonIn(called.arguments))
  if (!parsed.success) {
    return {
      complaint: issueList(
        parsed.error.issues.map(({ path, message }) => ({ path: path.join('.'), message })),
      ),
    }
  }
  const { config, issues } = await validateScript(parsed.data.code)
  return issues.length > 0 ? { complaint: issueList(issues) } : { stored: { ...parsed.data, config } }
}

function issueList(issues: { path: string; message: string }[]): string {
  return `Not saved. Issues:\n${issues.map(({ path, message }) => `- ${path}: ${message}`).join('\n')}`
}

/** The agent has had its calls. */
async function giveUp({ lease, task, messages }: TaskWork): Promise<string> {
  const { task_id } = task
  const last = messages.at(-1)
  const complaint = last !== undefined && last.role !== 'assistant' ? last.content : ''
  if (task.type === 'maintainer') {
    const error = `The agent found no fix in ${MAX_CALLS} calls. ${complaint}`
      .trim()
      .slice(0, 1000)
      .toWellFormed()
    await lease.call('fail_maintenance', { task_id, code: 'MAINTENANCE_FAILED', error })
    return 'MAINTENANCE_FAILED'
  }
  // The next attempt begins anew with what the owner said.
  const messages_of_owner = messages.slice(0, messages.findLastIndex(({ role }) => role === 'user') + 1)
  await lease.call('store_task_step', { task_id, messages: messages_of_owner })
  throw new AgentError(
    'AGENT_BAD_ANSWER',
    `The agent wrote no script without issues in ${MAX_CALLS} calls. ${complaint}`
      .slice(0, 1000)
      .toWellFormed(),
  )
}

/** How often the agent has answered: a planner since its owner last said something, a maintainer in all. */
function callsOf({ task, messages }: TaskWork): number {
  const from = task.type === 'planner' ? messages.findLastIndex(({ role }) => role === 'user') + 1 : 0
  return messages.slice(from).filter(({ role }) => role === 'assistant').length
}

function toolOf({ type }: Task): Tool {
  return type === 'planner' ? save_tool : fix_tool
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
