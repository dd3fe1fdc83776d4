import type { Timeline, Transition } from '../client/live/run.ts'
import { type Command, type Context, emit, print, safeJson } from './context.ts'
import { exit, usageError } from './exit_codes.ts'
import { kindsOf } from './filter.ts'
import { findRun } from './find_run.ts'
import { duration } from './format.ts'
import { frame } from './frame.ts'
import { dim, inTone, toneOf } from './style.ts'
import { clean, cleanLines, pad } from './text.ts'

/** Everything about one run. */
export const show: Command = {
  usage: 'rollcall show <id> [--kind K] [--json] [--raw]',
  options: { kind: { type: 'string', multiple: true }, raw: { type: 'boolean' } },
  async run(context) {
    const [word, ...more] = context.positionals
    if (!word || more.length > 0) throw usageError('show takes one id.', 'rollcall ls shows ids.')
    const source = context.source()
    const row = await findRun(source, word, kindsOf(context.values), context.signal)
    const [timeline, detail, catalog] = await Promise.all([
      source.timeline(row.id, context.signal),
      source.detail(row, context.signal),
      source.catalog(context.signal),
    ])
    if (context.values.raw === true) {
      print(context, safeJson(detail, 2))
      return exit.completed
    }
    if (context.is_json) {
      emit(context, 'snapshot', { run_id: row.id, run: row, detail })
      for (const transition of timeline.transitions)
        emit(context, 'transition', { run_id: row.id, ...transition })
      emit(context, 'result', { run_id: row.id, state: row.state, exit_code: exit.completed })
      return exit.completed
    }
    const cols = context.terminal.stdout.isTTY ? (context.terminal.stdout.columns ?? 80) : 120
    const open = { id: row.id, row, timeline: null, detail, error: null, is_loading: false }
    const model = { runs: [open], connection: '', catalog, compact: false, is_over: true }
    const lines = frame(model, { ...context.style, cols, rows: 10_000, now: Date.parse(timeline.as_of) })
    for (const line of lines.slice(0, -1)) print(context, line)
    facts(context, {
      id: row.id,
      created: row.created_at,
      started: row.started_at,
      finished: row.finished_at,
      'retry of': timeline.retry_of,
      'retried by': timeline.retried_by,
      deadline: row.deadline_at,
      heartbeat: row.last_heartbeat_at,
      container: row.container_status,
    })
    history(context, timeline)
    const message = detail.error_details ?? (detail.error as { details?: unknown } | null)?.details
    if (message)
      for (const line of cleanLines(JSON.stringify(message, null, 2)).slice(0, 60))
        print(context, dim(`  ${line}`, context.style))
    print(context, lines.at(-1) as string)
    return exit.completed
  },
}

function facts(context: Context, all: Record<string, string | null>): void {
  for (const [name, value] of Object.entries(all)) {
    if (value !== null) print(context, `  ${dim(pad(name, 11), context.style)}${clean(value)}`)
  }
}

function history(context: Context, { transitions, omitted, rejections }: Timeline): void {
  if (omitted > 0) print(context, `  … ${omitted} earlier transitions`)
  const entries = [
    ...transitions.map((transition) => ({
      at: transition.created_at,
      line: transitionWords(transition, context),
    })),
    ...rejections.map((rejection) => ({
      at: rejection.created_at,
      line: dim(
        `${clean(rejection.machine)} ${clean(rejection.from_status)} -> ${clean(rejection.to_status)} refused: ${clean(rejection.code)}`,
        context.style,
      ),
    })),
  ].sort((a, b) => Date.parse(a.at) - Date.parse(b.at))
  for (const { at, line } of entries) print(context, `  ${new Date(at).toISOString()}  ${line}`)
}

function transitionWords(transition: Transition, { style }: Context): string {
  const { machine, from_status, to_status, duration_ms, p50_ms, p95_ms, source, reason, implied } = transition
  const usual =
    p50_ms === null || p95_ms === null ? '' : ` (typical ${duration(p50_ms)} .. ${duration(p95_ms)})`
  const spent = duration_ms === null ? '' : `  for ${duration(duration_ms)}${usual}`
  const why = [source, reason, implied ? 'implied' : null].filter((word) => word).join(', ')
  const state = inTone(toneOf(to_status), clean(to_status), style)
  return `${clean(machine)} ${from_status ? `${clean(from_status)} -> ` : ''}${state}${dim(`${spent}  ${clean(why)}`, style)}`
}
