import { hasEnded, type RunRow, type RunsPlace } from '../client/live/run.ts'
import { type Command, type Context, emit, print, say, textOf } from './context.ts'
import { type ExitCode, exit, usageError } from './exit_codes.ts'
import { filter_options, filterOf } from './filter.ts'
import { duration, shortId } from './format.ts'
import { drawLine } from './frame.ts'
import { dim, glyph, toneOfRun } from './style.ts'
import { clean, pad, width } from './text.ts'

/** One table of runs, newest first. */
export const ls: Command = {
  usage: `rollcall ls [--kind bot|handler|workflow|flow] [--state S,..] [--stuck] [--code C] [--stage S] [--since 24h]
            [--search TEXT] [--limit 50] [--json]`,
  options: { ...filter_options, limit: { type: 'string' } },
  async run(context) {
    const limit = Number(textOf(context.values, 'limit') ?? 50)
    if (!Number.isInteger(limit) || limit < 1 || limit > 10_000)
      throw usageError('--limit is a whole number from 1 to 10000.')
    const { runs, has_more, as_of } = await readRuns(context, limit)
    if (context.is_json) {
      for (const run of runs) emit(context, 'snapshot', { run_id: run.id, run })
      emit(context, 'result', { exit_code: exit.completed, n: runs.length, has_more })
      return exit.completed
    }
    if (runs.length === 0) say(context, 'No runs match.')
    else for (const line of table(runs, context, as_of)) print(context, line)
    if (has_more) say(context, `There are more: --limit ${limit * 2}, or a narrower filter.`)
    return exit.completed
  },
}

/** What does not go on by itself, and by which rule. */
export const stuck: Command = {
  usage: 'rollcall stuck [--kind K] [--json]',
  options: { kind: filter_options.kind },
  async run(context): Promise<ExitCode> {
    const source = context.source()
    const filter = { ...filterOf(context.values), stuck: true }
    const [{ items, next, as_of }, counts] = await Promise.all([
      source.list(filter, null, 200, context.signal),
      source.counts({ ...(filter.kind && { kind: filter.kind }) }, context.signal),
    ])
    const rules = new Map(counts.stuck_rules.map(({ kind, rule, words }) => [`${kind} ${rule}`, words]))
    if (context.is_json) {
      for (const run of items) {
        emit(context, 'snapshot', { run_id: run.id, run, words: rules.get(`${run.kind} ${run.stuck_rule}`) })
      }
      emit(context, 'result', { exit_code: exit.completed, n: items.length, has_more: next !== null })
      return exit.completed
    }
    if (items.length === 0) say(context, 'Nothing is stuck.')
    for (const run of items) {
      for (const line of table([run], context, as_of, false)) print(context, line)
      const words = rules.get(`${run.kind} ${run.stuck_rule}`) ?? run.stuck_rule ?? ''
      print(context, dim(`  ${clean(words)}`, context.style))
    }
    if (next) say(context, 'There are more.')
    return exit.completed
  },
}

async function readRuns(
  context: Context,
  limit: number,
): Promise<{ runs: RunRow[]; has_more: boolean; as_of: string }> {
  const source = context.source()
  const filter = filterOf(context.values)
  const runs: RunRow[] = []
  let before: RunsPlace | null = null
  let as_of = ''
  // A rare filter makes short pages: they are bounded, and so is how many of them are asked for.
  for (let page = 0; page < 100 && runs.length < limit; page++) {
    const answer = await source.list(filter, before, Math.min(200, limit - runs.length), context.signal)
    runs.push(...answer.items)
    as_of = answer.as_of
    before = answer.next
    if (before === null) break
  }
  return { runs, has_more: before !== null, as_of }
}

/** Aligned columns; on a terminal no line is wider than it. */
function table(runs: readonly RunRow[], context: Context, as_of: string, has_head = true): string[] {
  const now = Date.parse(as_of)
  const heads = ['STATE', 'NAME', 'ID', 'KIND', 'PROGRESS', 'IN STATE', 'ATTEMPT', 'CREATED', 'ERROR']
  const cells = runs.map((run) => [
    run.stuck_rule ? `${clean(run.state)} (stuck)` : clean(run.state),
    clean(run.name),
    shortId(run.id),
    run.kind,
    run.progress_total === null ? '' : `${run.progress_done ?? 0}/${run.progress_total}`,
    hasEnded(run)
      ? duration(Date.parse(run.finished_at as string) - Date.parse(run.created_at))
      : duration(now - Date.parse(run.state_since)),
    run.attempt > 1 ? String(run.attempt) : '',
    run.created_at.slice(0, 19).replace('T', ' '),
    run.error_code ? clean(`${run.error_stage ?? ''} ${run.error_code}`).trim() : '',
  ])
  // The first four are always there, the others where somebody has something to say.
  const columns = heads.map((_, i) => i).filter((i) => i < 4 || cells.some((row) => row[i] !== ''))
  const widths = columns.map((i) =>
    Math.min(
      i === 1 ? 40 : 60,
      Math.max(has_head ? (heads[i] as string).length : 0, ...cells.map((row) => width(row[i] as string))),
    ),
  )
  const cols = context.terminal.stdout.isTTY ? (context.terminal.stdout.columns ?? 80) : 10_000
  const options = { ...context.style, cols, rows: 0, now }
  const draw = (row: readonly string[], mark: string) =>
    columns
      .map((i, n) => pad(row[i] as string, widths[n] as number))
      .join('  ')
      .replace(/^/, mark)
  const lines = cells.map((row, n) => {
    const tone = toneOfRun(runs[n] as RunRow)
    const line = draw(row, '')
    const state = (row[0] as string).length
    return drawLine(
      [
        { text: `${glyph(tone, options)} `, tone },
        { text: line.slice(0, state), tone },
        { text: line.slice(state) },
      ],
      options,
    )
  })
  return has_head ? [drawLine([{ text: draw(heads, '  '), style: 'dim' }], options), ...lines] : lines
}
