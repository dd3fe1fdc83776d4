import type { RunRow } from '../client/live/run.ts'
import type { DashboardSource } from './desk.ts'
import type { MutationDetail } from './detail.ts'
import { type Tone, toneOf } from './vocabulary.ts'

/** Something that can be done with a run, in the words of its button and dialog. */
export interface Action {
  name: string
  button: string
  title: string
  /** What it does, for the dialog. */
  words: string
  /** The button that leaves everything as it is. */
  keep: string
  /** What the toast says. */
  done: string
  is_dangerous: boolean
  /** The history keeps why it was done, if somebody says why. */
  takes_reason: boolean
  /** Of what hangs on a workflow: the path of its function, and how it is said. */
  path?: string
  how?: string
}

function action(name: string, button: string, words: string, more: Partial<Action> = {}): Action {
  return {
    name,
    button,
    title: `${button} this run?`,
    words,
    keep: 'Cancel',
    done: 'Done.',
    is_dangerous: false,
    takes_reason: false,
    ...more,
  }
}

const of_bots: Action[] = [
  action('stop', 'Stop', 'The bot leaves its meeting. What it heard until then is kept and processed.', {
    title: 'Stop this bot?',
    keep: 'Keep running',
    done: 'The bot was told to leave.',
    is_dangerous: true,
    takes_reason: true,
  }),
  action(
    'retry',
    'Retry',
    'A new bot joins the same meeting with the same settings. This run stays as it is.',
    {
      title: 'Retry this bot?',
      done: 'A new bot is on its way.',
    },
  ),
]

const of_flows: Action[] = [
  action('cancel', 'Stop', 'No further prompt is asked. The answers so far are kept.', {
    title: 'Stop this flow?',
    keep: 'Keep running',
    done: 'The flow was stopped.',
    is_dangerous: true,
  }),
  action('retry', 'Retry', 'A new run begins at the prompt that failed, with the earlier answers.', {
    title: 'Retry this flow?',
    done: 'A new run has begun.',
  }),
]

const of_workflows: Action[] = [
  action('retry', 'Retry', 'Its error is cleared and everything that waits is due now.', {
    title: 'Retry this workflow?',
    done: 'The workflow goes on.',
  }),
  action('pause', 'Pause', 'Nothing of it runs until it is resumed.', {
    title: 'Pause this workflow?',
    keep: 'Keep running',
    done: 'The workflow is paused.',
    is_dangerous: true,
  }),
  action('resume', 'Resume', 'It runs on its schedule again.', {
    title: 'Resume this workflow?',
    done: 'The workflow runs again.',
  }),
  action('activate', 'Activate', 'Its newest script runs on its schedule from now on.', {
    title: 'Activate this workflow?',
    done: 'The workflow is active.',
  }),
  action('test', 'Run now', 'It runs once now. Its side effects are real.', {
    title: 'Run this workflow now?',
    done: 'It is due now.',
  }),
]

const resolutions: Record<string, [button: string, words: string]> = {
  failed: ['It did not happen', 'Its events are free again, and it is sent anew.'],
  skipped: ['Leave it', 'Its events are done with, whether it happened or not.'],
  applied: ['It happened', 'It is not sent again, and the script goes on with what it answered.'],
  ask_again: ['Ask again', 'The other side is asked once more whether it happened.'],
}

/** What may be said of a side effect of which nobody knows whether it happened, by the server's word. */
export function resolutionsOf(row: RunRow, { id, actions = [] }: MutationDetail): Action[] {
  if (isRefused(row, 'resolve')) return []
  return actions.flatMap((how) => {
    const [button, words] = resolutions[how] ?? []
    if (!button || !words) return []
    const path = `${workflowOf(row)}/mutations/${id}/resolve`
    return action('resolve', button, words, {
      title: `${button}: is that so?`,
      is_dangerous: how === 'failed',
      ...{ path, how },
    })
  })
}

/** What hides a notification; null where that is not the caller's. */
export function acknowledgeOf(row: RunRow, id: string): Action | null {
  if (isRefused(row, 'acknowledge')) return null
  return action(
    'acknowledge',
    'Acknowledge',
    'It is not shown here any more. An error itself stays until it is mended.',
    {
      title: 'Acknowledge this?',
      path: `${workflowOf(row)}/notifications/${id}/acknowledge`,
    },
  )
}

const workflowOf = (row: RunRow) => `workflows/${row.workflow_id ?? row.id}`

const known: Record<RunRow['kind'], Action[]> = {
  bot: of_bots,
  flow: of_flows,
  workflow: of_workflows,
  handler: [],
}

/** What was refused with 403 in this tab: not offered again. */
const refused = new Set<string>()

export function neverAgain(row: RunRow, name: string): void {
  refused.add(`${row.kind}:${name}`)
}

function isRefused(row: RunRow, name: string): boolean {
  return refused.has(`${row.kind}:${name}`)
}

/** What may be done with a run, by the server's word; nothing in a state that nobody knows. */
export function actionsOf(row: RunRow, tone: Tone = toneOf(row, null)): Action[] {
  if (tone === 'unknown') return []
  return known[row.kind].filter(({ name }) => row.allowed_actions.includes(name) && !isRefused(row, name))
}

/** An idempotency key. Browsers have randomUUID() on https alone, and this also on plain http. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('')
}

/**
 * Does it. The same key makes a repeated request the same one. Answers the id of a run that began with it.
 * @throws RollcallError
 */
export async function perform(
  source: DashboardSource,
  row: RunRow,
  { name, path, how }: Action,
  idempotency_key: string,
  reason = '',
): Promise<string | null> {
  const headers = { 'idempotency-key': idempotency_key }
  if (path) {
    const result = how === 'applied' && reason.trim() ? { result: jsonOr(reason) } : {}
    await source.call(path, { body: { ...(how && { how }), ...result }, headers })
    return null
  }
  if (row.kind === 'bot' && name === 'stop') {
    await source.call('stop', {
      body: { bot_id: row.id, ...(reason.trim() && { reason: reason.trim() }) },
      headers,
    })
    return null
  }
  if (row.kind === 'bot') {
    const bot = await source.call<{ bot_id: string }>('join', { body: { retry_of: row.id }, headers })
    return bot.bot_id
  }
  if (row.kind === 'flow') {
    const body = name === 'retry' ? { from: 'failed_prompt' } : {}
    const run = await source.call<{ id: string }>(`executions/${row.id}/${name}`, { body, headers })
    return name === 'retry' ? run.id : null
  }
  await source.call(`workflows/${row.id}/${name === 'test' ? 'run' : name}`, { body: {}, headers })
  return null
}

/** What a text says as JSON; itself where it is none. */
function jsonOr(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
