import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline/promises'
import { RollcallError } from '../client/errors.ts'
import { hasEnded, type RunRow } from '../client/live/run.ts'
import { type Command, type Context, emit, print, say, textOf } from './context.ts'
import { CommandError, exit, usageError } from './exit_codes.ts'
import { kindsOf } from './filter.ts'
import { findRun } from './find_run.ts'
import { duration, shortId } from './format.ts'
import { clean } from './text.ts'
import { follow, watch_options } from './watch.ts'

/** Asks a run to end. */
export const stop: Command = {
  usage: 'rollcall stop <id> [--reason TEXT] [--yes] [--wait] [--json]',
  options: {
    ...watch_options,
    reason: { type: 'string' },
    yes: { type: 'boolean', short: 'y' },
    wait: { type: 'boolean' },
  },
  async run(context) {
    const { source, run } = await oneRun(context, 'stop')
    if (hasEnded(run)) throw alreadyEnded(run)
    if (run.kind === 'handler')
      throw usageError(
        'A handler run ends by itself.',
        `Pause its workflow: rollcall stop ${run.workflow_id}`,
      )
    await confirm(
      context,
      `${clean(run.name)} (${run.kind} ${shortId(run.id)}) is ${run.state}. Stop it? [y/N] `,
    )
    const reason = textOf(context.values, 'reason')
    try {
      if (run.kind === 'bot') {
        await source.call('stop', {
          body: { bot_id: run.id, ...(reason && { reason }) },
          signal: context.signal,
        })
      } else if (run.kind === 'flow') {
        await source.call(`executions/${run.id}/cancel`, { body: {}, signal: context.signal })
      } else {
        await source.call(`workflows/${run.id}/pause`, { body: {}, signal: context.signal })
      }
    } catch (error) {
      if (!(error instanceof RollcallError) || error.status !== 409) throw error
      const now = await findRun(source, run.id, undefined, context.signal)
      throw hasEnded(now) ? alreadyEnded(now) : error
    }
    if (context.values.wait === true && run.kind !== 'workflow') return follow(context, [run])
    if (context.is_json)
      emit(context, 'result', { run_id: run.id, seen: run.state, exit_code: exit.completed })
    else
      print(
        context,
        `${run.kind} ${shortId(run.id)} was ${run.state}: ${run.kind === 'workflow' ? 'it is paused' : 'it was asked to stop'}.`,
      )
    return exit.completed
  },
}

/** Does a run again that has failed. */
export const retry: Command = {
  usage: 'rollcall retry <id> [--from start|failed_prompt] [--watch] [--json]',
  options: { ...watch_options, from: { type: 'string' }, watch: { type: 'boolean' } },
  async run(context) {
    const { source, run } = await oneRun(context, 'retry')
    const from = textOf(context.values, 'from') ?? 'failed_prompt'
    if (from !== 'start' && from !== 'failed_prompt') throw usageError('--from is start or failed_prompt.')
    // Should the answer be lost, the same call makes no second run.
    const headers = { 'idempotency-key': randomUUID() }
    const { signal } = context
    let id: string
    if (run.kind === 'bot') {
      const { owner_id, workflow_thread_id } = await source.detail(run, signal)
      const body = { retry_of: workflow_thread_id, ...(context.values.token ? {} : { owner_id }) }
      id = (await source.call<{ bot_id: string }>('join', { body, headers, signal })).bot_id
    } else if (run.kind === 'flow') {
      id = (
        await source.call<{ id: string }>(`executions/${run.id}/retry`, { body: { from }, headers, signal })
      ).id
    } else {
      id = run.workflow_id ?? run.id
      await source.call(`workflows/${id}/retry`, { body: {}, headers, signal })
    }
    if (context.values.watch === true) {
      say(context, `Retried as ${id}.`)
      return follow(context, [await findRun(source, id, undefined, signal)])
    }
    if (context.is_json) emit(context, 'result', { run_id: id, retry_of: run.id, exit_code: exit.completed })
    else print(context, id)
    return exit.completed
  },
}

async function oneRun(context: Context, command: string) {
  const [word, ...more] = context.positionals
  if (!word || more.length > 0) throw usageError(`${command} takes one id.`, 'rollcall ls shows ids.')
  const source = context.source()
  return { source, run: await findRun(source, word, kindsOf(context.values), context.signal) }
}

function alreadyEnded(run: RunRow): CommandError {
  const ago = duration(Date.now() - Date.parse(run.finished_at ?? run.state_since))
  return new CommandError(
    exit.failed,
    'already_ended',
    `It already ended ${run.state} ${ago} ago: there is nothing to stop.`,
  )
}

async function confirm(context: Context, question: string): Promise<void> {
  if (context.values.yes === true) return
  const { stdin, stderr } = context.terminal
  if (!stdin.isTTY || context.is_json) throw usageError('Nobody can be asked here.', 'Say --yes.')
  const lines = createInterface({ input: stdin, output: stderr })
  try {
    const answer = await lines.question(question, { signal: context.signal })
    if (!/^y(es)?$/i.test(answer.trim())) throw new CommandError(exit.failed, 'kept', 'It keeps running.')
  } finally {
    lines.close()
  }
}
