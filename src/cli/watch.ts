import { createInterface } from 'node:readline/promises'
import { setTimeout as setTimer } from 'node:timers/promises'
import { createLive, type Live, type LiveSnapshot } from '../client/live/live.ts'
import type { OpenRun } from '../client/live/open_runs.ts'
import { hasEnded, type RunRow, type Transition } from '../client/live/run.ts'
import { type Command, type Context, emit, print, say, spanOf, textOf } from './context.ts'
import { CommandError, type ExitCode, exit, usageError, worst } from './exit_codes.ts'
import { kindsOf } from './filter.ts'
import { findRun } from './find_run.ts'
import { duration, shortId } from './format.ts'
import { frame, runLine, transitionLine } from './frame.ts'
import { outcomeOf } from './outcome.ts'
import { canRedraw, Screen } from './terminal.ts'
import { clean } from './text.ts'

/** Follows runs until they have ended. */
export const watch: Command = {
  usage: `rollcall watch [<id>...] [--kind K] [--until state] [--timeout 30m] [--interval 2s] [--give-up 5m] [--compact]
               [--no-exit-status] [--json]`,
  options: {
    kind: { type: 'string', multiple: true },
    until: { type: 'string' },
    timeout: { type: 'string' },
    interval: { type: 'string' },
    'give-up': { type: 'string' },
    compact: { type: 'boolean' },
    'no-exit-status': { type: 'boolean' },
  },
  async run(context) {
    const source = sourceFor(context)
    const kinds = kindsOf(context.values)
    const found =
      context.positionals.length > 0
        ? await patiently(context, () =>
            Promise.all(context.positionals.map((word) => findRun(source, word, kinds, context.signal))),
          )
        : await pick(context)
    return follow(context, found)
  },
}

/** Options that watch shares with stop --wait and retry --watch. */
export const watch_options = watch.options

function sourceFor(context: Context) {
  return context.source({ polling: spanOf(context.values, 'interval') !== undefined })
}

/** Progress is told this often where lines are not redrawn (ms). */
const PROGRESS_MS = 10_000

/** Shows runs until all of them have ended, or are where --until says. */
export async function follow(context: Context, found: readonly RunRow[]): Promise<ExitCode> {
  const interval_ms = spanOf(context.values, 'interval')
  const timeout_ms = spanOf(context.values, 'timeout')
  const give_up_ms = spanOf(context.values, 'give-up') ?? 300_000
  const until = textOf(context.values, 'until')
  const source = sourceFor(context)
  const every = interval_ms ?? 5000
  const live = createLive({
    source,
    with_list: false,
    flush_ms: 100,
    reconcile_ms: { hearing: every, deaf: every },
  })
  const runs = new Map(found.map((row) => [row.id, row]))
  const reporter = reporterFor(context, live, runs)
  try {
    return await new Promise<ExitCode>((resolve, reject) => {
      let failing_since: number | undefined
      const timers = [
        setInterval(() => reporter.tick(), 1000),
        ...(timeout_ms === undefined ? [] : [setTimeout(() => end(exit.timeout), timeout_ms)]),
      ]
      const end = (code: ExitCode) => {
        for (const timer of timers) clearInterval(timer)
        live.stop()
        resolve(code)
      }
      const fail = (error: CommandError) => {
        for (const timer of timers) clearInterval(timer)
        live.stop()
        reject(error)
      }
      const onAbort = () => end(exit.interrupted)
      if (context.signal.aborted) return onAbort()
      context.signal.addEventListener('abort', onAbort, { once: true })

      const look = () => {
        const snapshot = live.snapshot()
        reporter.show(snapshot)
        const problem = problemOf(snapshot)
        if (problem) return fail(problem)
        if (snapshot.failures === 0) failing_since = undefined
        else failing_since ??= Date.now()
        const all = [...snapshot.open.values()]
        const ends = all.map((open) => endOf(open, until))
        if (all.length === runs.size && ends.every((code) => code !== null)) end(worst(ends as ExitCode[]))
      }
      timers.push(
        setInterval(() => {
          if (failing_since !== undefined && Date.now() - failing_since > give_up_ms) {
            fail(gaveUp(give_up_ms))
          }
        }, 250),
      )
      live.subscribe(look)
      live.start()
      for (const id of runs.keys()) live.openRun(id)
      reporter.show(live.snapshot())
    }).then((code) => {
      reporter.close(code)
      return context.values['no-exit-status'] === true && (code === exit.failed || code === exit.stopped)
        ? exit.completed
        : code
    })
  } catch (error) {
    reporter.abandon()
    throw error
  }
}

/** The end of a run for this command; null while it goes on. A workflow never ends by itself. */
function endOf({ row, timeline, detail, error }: OpenRun, until: string | undefined): ExitCode | null {
  if (error?.status === 404) return exit.not_found
  // The last frame shows all of it.
  if (!row || ((!timeline || !detail) && !error)) return null
  if (until !== undefined) {
    const is_there = row.state === until || row.meeting_status === until
    if (is_there || timeline?.transitions.some(({ to_status }) => to_status === until)) return exit.completed
    return hasEnded(row) ? exit.failed : null
  }
  if (!hasEnded(row)) return null
  if (timeline && timeline.transitions.length > 0 && !isWhole(row, timeline.transitions)) return null
  return outcomeOf(row)
}

/** Whether what was read of the history reaches to the end that the row has. */
function isWhole(row: RunRow, transitions: readonly Transition[]): boolean {
  return transitions.some(({ to_status }) => to_status === row.state)
}

/** What no waiting would cure. */
function problemOf(snapshot: LiveSnapshot): CommandError | null {
  if (snapshot.connection === 'signed_out') {
    return new CommandError(
      exit.auth,
      'unauthorized',
      'The token is not valid, or not any more.',
      'Set ROLLCALL_TOKEN or SUPABASE_KEY anew.',
    )
  }
  const refused = [snapshot.errors.changes, ...Array.from(snapshot.open.values(), ({ error }) => error)].find(
    (error) => error?.status === 403,
  )
  if (refused) return new CommandError(exit.auth, refused.code, refused.message, refused.hint)
  return null
}

function gaveUp(give_up_ms: number): CommandError {
  return new CommandError(
    exit.gave_up,
    'gave_up',
    `The project did not answer for ${duration(give_up_ms)}.`,
    'The run goes on without being watched: watch it again.',
  )
}

/** Repeats what fails in a way that passes, until --give-up. */
async function patiently<T>(context: Context, work: () => Promise<T>): Promise<T> {
  const give_up_ms = spanOf(context.values, 'give-up') ?? 300_000
  const started_at = Date.now()
  for (let failures = 1; ; failures++) {
    try {
      return await work()
    } catch (error) {
      const status = (error as { status?: number }).status
      const passes = status === 0 || status === 429 || (status ?? 0) >= 500
      if (!passes) throw error
      const left_ms = started_at + give_up_ms - Date.now()
      if (left_ms <= 0) throw gaveUp(give_up_ms)
      say(context, `reconnecting (${failures})`)
      const wait_ms = Math.min(30_000, 1000 * 2 ** (failures - 1), left_ms)
      await pause(wait_ms, context.signal)
      if (context.signal.aborted) throw new CommandError(exit.interrupted, 'interrupted', 'Interrupted.')
    }
  }
}

/** Waits; the signal ends it. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await setTimer(ms, undefined, { signal }).catch(() => {})
}

/** Shows what is going on and lets somebody choose. */
async function pick(context: Context): Promise<RunRow[]> {
  const { stdin, stdout, stderr } = context.terminal
  if (!stdin.isTTY || !stdout.isTTY || context.is_json) {
    throw usageError('watch takes the ids of runs where nobody can be asked.', 'rollcall ls shows ids.')
  }
  const kinds = kindsOf(context.values)
  const source = sourceFor(context)
  const states = ['pending', 'starting', 'running', 'active']
  const { items, as_of } = await source.list(
    { state: states, ...(kinds && { kind: kinds }) },
    null,
    20,
    context.signal,
  )
  if (items.length === 0)
    throw new CommandError(
      exit.not_found,
      'nothing_runs',
      'Nothing is running.',
      'rollcall ls shows what has ended.',
    )
  const options = { ...context.style, cols: stdout.columns ?? 80, rows: 24, now: Date.parse(as_of) }
  for (const [i, run] of items.entries())
    stderr.write(`${String(i + 1).padStart(3)} ${runLine(run, { ...options, cols: options.cols - 4 })}\n`)
  const lines = createInterface({ input: stdin, output: stderr })
  try {
    const answer = await lines.question('Which ones? (1,3 or a for all) ', { signal: context.signal })
    if (/^a(ll)?$/i.test(answer.trim())) return items
    const chosen = answer
      .split(/[\s,]+/)
      .filter((word) => word !== '')
      .map((word) => items[Number(word) - 1])
    if (chosen.length === 0 || chosen.includes(undefined)) throw usageError(`"${answer}" names none of them.`)
    return chosen as RunRow[]
  } finally {
    lines.close()
  }
}

/** How a watch tells what it sees. */
interface Reporter {
  show(snapshot: LiveSnapshot): void
  /** A second has passed. */
  tick(): void
  close(code: ExitCode): void
  /** Ends without a result: the error is told by somebody else. */
  abandon(): void
}

function reporterFor(context: Context, live: Live, runs: ReadonlyMap<string, RunRow>): Reporter {
  if (context.is_json) return lineReporter(context, live, runs, true)
  return canRedraw(context.terminal)
    ? screenReporter(context, live, runs)
    : lineReporter(context, live, runs, false)
}

/** `live`, `polling`, and where reads fail `reconnecting (3)`. */
export function connectionWord({
  connection,
  failures,
}: Pick<LiveSnapshot, 'connection' | 'failures'>): string {
  return failures > 0 ? `reconnecting (${failures})` : connection
}

function screenReporter(context: Context, live: Live, runs: ReadonlyMap<string, RunRow>): Reporter {
  let is_over = false
  const screen = new Screen(context.terminal.stdout, ({ cols, rows }) => {
    const snapshot = live.snapshot()
    const open = Array.from(runs, ([id, row]): OpenRun => {
      const run = snapshot.open.get(id) ?? {
        id,
        row: null,
        timeline: null,
        detail: null,
        error: null,
        is_loading: true,
      }
      return run.row ? run : { ...run, row }
    })
    return frame(
      {
        runs: open,
        connection: is_over ? '' : connectionWord(snapshot),
        catalog: snapshot.catalog,
        compact: context.values.compact === true,
        is_over,
      },
      { ...context.style, cols, rows, now: live.now() },
    )
  })
  const over = () => {
    is_over = true
    screen.close()
  }
  return {
    show: () => screen.draw(),
    tick: () => screen.draw(),
    close(code) {
      over()
      if (code === exit.interrupted) say(context, resumeWords(runs))
      if (code === exit.timeout) say(context, `Time is up. ${resumeWords(runs)}`)
    },
    abandon: over,
  }
}

function resumeWords(runs: ReadonlyMap<string, RunRow>): string {
  return `Still going on? rollcall watch ${Array.from(runs.keys(), shortId).join(' ')}`
}

/** One line per transition, or one JSON object; nothing that moves a cursor. */
function lineReporter(
  context: Context,
  live: Live,
  runs: ReadonlyMap<string, RunRow>,
  is_json: boolean,
): Reporter {
  const seen = new Map<string, Set<string>>()
  const told_progress = new Map<string, { at: number; done: number | null }>()
  let connection = ''

  function tellRun({ id, row, timeline }: OpenRun): void {
    if (!row || !timeline) return
    let known = seen.get(id)
    if (!known) {
      known = new Set(timeline.transitions.map(({ machine, seq }) => `${machine} ${seq}`))
      seen.set(id, known)
      if (is_json) emit(context, 'snapshot', { run_id: id, run: row })
      else print(context, snapshotLine(row, live.now()))
    }
    const before = new Map<string, Transition>()
    for (const transition of timeline.transitions) {
      const last = before.get(transition.machine)
      before.set(transition.machine, transition)
      const key = `${transition.machine} ${transition.seq}`
      if (known.has(key)) continue
      known.add(key)
      const before_ms = last ? Date.parse(transition.created_at) - Date.parse(last.created_at) : null
      if (is_json) emit(context, 'transition', { run_id: id, ...transition, before_ms })
      else print(context, transitionLine(transition, row.name, before_ms))
    }
    tellProgress(row)
  }

  function tellProgress(row: RunRow): void {
    if (row.progress_total === null || hasEnded(row)) return
    const told = told_progress.get(row.id)
    if (told && (told.done === row.progress_done || Date.now() - told.at < PROGRESS_MS)) return
    told_progress.set(row.id, { at: Date.now(), done: row.progress_done })
    if (!told && row.progress_done === 0) return
    const { progress_done: done, progress_total: total } = row
    if (is_json) emit(context, 'progress', { run_id: row.id, done, total, label: row.progress_label })
    else
      print(
        context,
        `${new Date(live.now()).toISOString()} ${shortId(row.id)} ${row.kind} ${clean(row.name).replaceAll(' ', '-')} ${done}/${total}`,
      )
  }

  return {
    show(snapshot) {
      for (const open of snapshot.open.values()) tellRun(open)
      const word = connectionWord(snapshot)
      if (word === connection) return
      const is_trouble = snapshot.failures > 0 || connection.startsWith('reconnecting')
      connection = word
      if (is_json)
        emit(context, 'connection', { connection: snapshot.connection, failures: snapshot.failures })
      else if (is_trouble) say(context, word)
    },
    tick() {},
    close(code) {
      const all = [...live.snapshot().open.values()]
      const results = all.map(({ id, row, error }) => ({
        run_id: id,
        state: row?.state ?? null,
        error_code: row?.error_code ?? error?.code ?? null,
        error_message: row?.error_message ?? error?.message ?? null,
      }))
      if (is_json) {
        const [only] = results
        emit(context, 'result', { ...(results.length === 1 && only), exit_code: code, runs: results })
      } else if (code === exit.interrupted || code === exit.timeout) say(context, resumeWords(runs))
      else
        for (const { row } of all)
          if (row?.error_message) say(context, clean(`${row.error_code}: ${row.error_message}`))
    },
    abandon() {},
  }
}

function snapshotLine(row: RunRow, now: number): string {
  const age = hasEnded(row) ? '' : ` for ${duration(now - Date.parse(row.state_since)).replaceAll(' ', '')}`
  const parts = [
    row.kind,
    clean(row.name).trim().replaceAll(/\s+/g, '-'),
    `${clean(row.state)}${age}`,
    row.error_code ?? '',
  ]
  return [new Date(now).toISOString(), shortId(row.id), ...parts].filter((part) => part !== '').join(' ')
}
