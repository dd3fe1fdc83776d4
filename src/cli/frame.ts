import type { OpenRun } from '../client/live/open_runs.ts'
import { hasEnded, type RunRow, type Transition } from '../client/live/run.ts'
import type { Catalog } from '../client/live/source.ts'
import { duration, shortId, ticking } from './format.ts'
import { bold, dim, glyph, inTone, type Style, type Tone, toneOf, toneOfRun } from './style.ts'
import { clean, fitTo, pad, width } from './text.ts'

/** Everything that a frame shows. */
export interface FrameModel {
  runs: readonly OpenRun[]
  /** `live`, `polling`, `reconnecting (3)` ... */
  connection: string
  catalog: Catalog | null
  /** One line per run even where there is only one. */
  compact: boolean
  /** The last frame: nothing is going on any more. */
  is_over: boolean
}

export interface FrameOptions extends Style {
  cols: number
  rows: number
  /** The server's time (ms). */
  now: number
}

/** A line of cells: each is cleaned, fitted to what is left of the line, and only then colored. */
type Cell = { text: string; tone?: Tone; style?: 'dim' | 'bold' }

/** A frame of a watch: at most rows - 1 lines, none of them wider than cols. */
export function frame(model: FrameModel, options: FrameOptions): string[] {
  const max = Math.max(1, options.rows - 1)
  const [only] = model.runs
  const lines =
    model.runs.length === 1 && only && !model.compact
      ? single(only, model, options)
      : many(model, options, max)
  if (lines.length <= max) return lines
  return [
    ...lines.slice(0, max - 1),
    drawLine([{ text: `… ${lines.length - max + 1} more lines`, style: 'dim' }], options),
  ]
}

function single(open: OpenRun, model: FrameModel, options: FrameOptions): string[] {
  const { row } = open
  if (!row)
    return [
      drawLine([{ text: open.error?.message ?? `Looking for ${shortId(open.id)} …`, style: 'dim' }], options),
    ]
  const tone = toneOfRun(row)
  const age = options.now - Date.parse(row.state_since)
  const lines: string[] = []
  const words = hasEnded(row) ? `${row.state} after ${duration(total(row))}` : `${row.state} ${ticking(age)}`
  const name: Cell = { text: row.name, style: 'bold' }
  // Where there is little room the state comes first: it is what somebody looks for.
  const cells: Cell[] =
    options.cols < 60
      ? [{ text: `${words}  `, tone }, name]
      : [name, { text: `   ${row.kind} ${shortId(row.id)}   ` }, { text: words, tone }]
  if (row.meeting_status && !hasEnded(row))
    cells.push({ text: `  meeting ${row.meeting_status}`, style: 'dim' })
  lines.push(
    drawLine([{ text: `${glyph(tone, options)} `, tone }, ...cells], options, {
      text: model.connection,
      style: 'dim',
    }),
  )
  if (row.stuck_rule)
    lines.push(
      drawLine([{ text: `  stuck: ${row.stuck_rule.replaceAll('_', ' ')}`, tone: 'attention' }], options),
    )
  if (row.stop_requested_at && !hasEnded(row)) {
    const since = options.now - Date.parse(row.stop_requested_at)
    lines.push(drawLine([{ text: `  stop requested ${ticking(since)} ago`, tone: 'waiting' }], options))
  }
  if (row.error_code) lines.push(...errorLines(row, model, options))
  else if (row.reason)
    lines.push(drawLine([{ text: `  ${row.reason.replaceAll('_', ' ')}`, style: 'dim' }], options))
  if (row.progress_total !== null) lines.push(progressLine(open, row, options))
  lines.push(...transitionLines(open, row, options))
  lines.push(...stepLines(open, options))
  lines.push(drawLine([{ text: footer(row, model), style: 'dim' }], options))
  return lines
}

function errorLines(row: RunRow, model: FrameModel, options: FrameOptions): string[] {
  const known = model.catalog?.error_codes.find(({ code }) => code === row.error_code)
  return [
    drawLine(
      [
        { text: `  ${row.error_stage ? `stage ${row.error_stage}   ` : ''}code ` },
        { text: row.error_code ?? '', tone: 'bad' },
      ],
      options,
    ),
    drawLine(
      [
        { text: `  ${row.error_message ?? ''}` },
        ...(known ? [{ text: `   Next: ${known.next_step}`, style: 'dim' as const }] : []),
      ],
      options,
    ),
  ]
}

function progressLine(open: OpenRun, row: RunRow, options: FrameOptions): string {
  const done = row.progress_done ?? 0
  const totals = row.progress_total ?? 0
  if (totals === 0) return drawLine([{ text: '  no steps', style: 'dim' }], options)
  const bar = progressBar(done, totals, Math.min(20, Math.max(5, options.cols - 40)), options)
  const step = stepNow(open, options.now)
  return drawLine(
    [
      { text: `  ${bar}`, tone: row.error_code ? 'bad' : toneOf(row.state) },
      { text: `  ${done}/${totals}` },
      ...(row.progress_label && !hasEnded(row)
        ? [{ text: `   step ${Math.min(done + 1, totals)} ${quoted(row.progress_label, options)}` }]
        : []),
      ...(step ? [{ text: `   ${step}`, style: 'dim' as const }] : []),
    ],
    options,
  )
}

/** The part that is done: never full before the end, and never longer than the bar. */
export function progressBar(
  done: number,
  all: number,
  columns: number,
  { ascii }: Pick<Style, 'ascii'>,
): string {
  const share = all > 0 ? Math.min(1, Math.max(0, done / all)) : 0
  const filled = share === 1 ? columns : Math.min(columns - 1, Math.floor(share * columns))
  return (ascii ? '#' : '█').repeat(filled) + (ascii ? '-' : '░').repeat(columns - filled)
}

/** How long the present step has taken, and how long 95 % of the earlier ones did. */
function stepNow(open: OpenRun, now: number): string | null {
  const { row, detail } = open
  if (!row || hasEnded(row) || row.kind !== 'flow' || typeof detail?.progressed_at !== 'string') return null
  const results = steps(open)
  const took = results.map(({ duration_ms }) => duration_ms ?? 0).sort((a, b) => a - b)
  const p95 = took.length >= 3 ? took[Math.ceil(took.length * 0.95) - 1] : undefined
  return `${ticking(now - Date.parse(detail.progressed_at))}${p95 === undefined ? '' : `  (p95 ${duration(p95)})`}`
}

function transitionLines(open: OpenRun, row: RunRow, options: FrameOptions): string[] {
  const machine = row.kind === 'flow' ? 'flow_execution' : row.kind === 'handler' ? 'handler_run' : row.kind
  const transitions = (open.timeline?.transitions ?? []).filter(
    (transition) => transition.machine === machine,
  )
  return transitions.map((transition) => {
    const is_now = transition.duration_ms === null && !hasEnded(row)
    const tone = is_now
      ? toneOfRun(row)
      : transition.duration_ms === null
        ? toneOf(transition.to_status)
        : 'ok'
    const ms = is_now ? options.now - Date.parse(transition.created_at) : transition.duration_ms
    const state: Cell = { text: pad(clean(transition.to_status), 22) }
    return drawLine(
      [
        { text: `  ${glyph(tone, options)} `, tone },
        is_now ? { ...state, style: 'bold' } : state,
        { text: ms === null ? '' : `${duration(ms).padStart(9)}${is_now ? ' …' : '  '}` },
        ...(transition.p50_ms !== null && ms !== null
          ? [{ text: `  (p50 ${duration(transition.p50_ms)})`, style: 'dim' as const }]
          : []),
        ...(transition.reason ? [{ text: `  ${transition.reason}`, style: 'dim' as const }] : []),
      ],
      options,
    )
  })
}

type Step = {
  index: number
  prompt: string
  response: string | null
  error: string | null
  duration_ms: number | null
}

function steps({ detail }: OpenRun): Step[] {
  const results = detail?.prompt_results
  return Array.isArray(results) ? (results as Step[]) : []
}

function stepLines(open: OpenRun, options: FrameOptions): string[] {
  return steps(open).map(({ index, prompt, response, error, duration_ms }) => {
    const tone = error === null ? 'ok' : 'bad'
    const said = error ?? response ?? ''
    return drawLine(
      [
        { text: `  ${String(index + 1).padStart(2)} ` },
        { text: `${glyph(tone, options)} `, tone },
        { text: pad(clean(String(prompt ?? '')), 22) },
        { text: duration_ms === null ? '' : duration(duration_ms).padStart(9) },
        { text: said ? `   ${quoted(said, options)}` : '', style: 'dim' },
      ],
      options,
    )
  })
}

function footer(row: RunRow, { is_over }: FrameModel): string {
  const id = shortId(row.id)
  if (!is_over && !hasEnded(row)) {
    const ends = row.allowed_actions.some((action) => action === 'stop' || action === 'cancel')
    return `^C stops watching, not the run.${ends ? `   rollcall stop ${id}` : ''}`
  }
  return [
    `rollcall show ${id}`,
    ...(row.allowed_actions.includes('retry') ? [`rollcall retry ${id}`] : []),
  ].join(' · ')
}

function many({ runs, connection }: FrameModel, options: FrameOptions, max: number): string[] {
  const rows = runs.map(({ row }) => row).filter((row) => row !== null)
  const counted = counts(rows)
  const missing = runs.length - rows.length
  const lines = [
    drawLine(
      [
        ...counted.flatMap(([state, n], i): Cell[] => [
          { text: i === 0 ? '' : '  ' },
          { text: `${n} ${state}`, tone: toneOf(state) },
        ]),
        ...(missing > 0 ? [{ text: `  ${missing} not found yet`, style: 'dim' as const }] : []),
      ],
      options,
      { text: connection, style: 'dim' },
    ),
  ]
  const ordered = [...rows].sort((a, b) => rank(a) - rank(b) || (a.created_at < b.created_at ? 1 : -1))
  const room = max - 1
  const shown = ordered.length <= room ? ordered : ordered.slice(0, Math.max(0, room - 1))
  for (const row of shown) lines.push(runLine(row, options))
  const rest = ordered.slice(shown.length)
  if (rest.length > 0 && lines.length < max) {
    const words = counts(rest).map(([state, n]) => `${n} ${state}`)
    lines.push(drawLine([{ text: `… ${rest.length} more (${words.join(', ')})`, style: 'dim' }], options))
  }
  return lines
}

/** Failed and stuck ones first, then what goes on, then what is well. */
function rank(row: RunRow): number {
  const tone = toneOfRun(row)
  return ['bad', 'attention', 'waiting', 'working', 'queued', 'unknown', 'ok'].indexOf(tone)
}

function counts(rows: readonly RunRow[]): [string, number][] {
  const by_state = new Map<string, number>()
  for (const { state } of rows) by_state.set(state, (by_state.get(state) ?? 0) + 1)
  return [...by_state].sort((a, b) => b[1] - a[1])
}

/** One run in one line: glyph, state, name, id, bar, how long in its state, error code. */
export function runLine(row: RunRow, options: FrameOptions): string {
  const tone = toneOfRun(row)
  const since = hasEnded(row) ? duration(total(row)) : ticking(options.now - Date.parse(row.state_since))
  const name_columns = Math.max(8, Math.min(32, options.cols - 54))
  const bar =
    row.progress_total !== null && row.progress_total > 0
      ? `${progressBar(row.progress_done ?? 0, row.progress_total, 8, options)} ${row.progress_done ?? 0}/${row.progress_total}`
      : ''
  return drawLine(
    [
      { text: `${glyph(tone, options)} `, tone },
      { text: pad(clean(row.state), 12), tone },
      { text: ` ${pad(clean(row.name), name_columns)}` },
      { text: ` ${shortId(row.id)} ` },
      { text: pad(bar, 14), tone },
      { text: since.padStart(9) },
      { text: row.stuck_rule ? `  stuck: ${row.stuck_rule.replaceAll('_', ' ')}` : '', tone: 'attention' },
      { text: row.error_code ? `  ${row.error_code}` : '', tone: 'bad' },
    ],
    options,
  )
}

/** From creation to the end (ms); so far where it has not ended by the row's word. */
function total(row: RunRow): number {
  return Date.parse(row.finished_at ?? row.state_since) - Date.parse(row.created_at)
}

function quoted(text: string, { ascii }: Pick<Style, 'ascii'>): string {
  const line = clean(text)
  return ascii ? `"${line}"` : `“${line}”`
}

/** Cells in one line of at most `cols` columns, and a last one at its right end where there is room. */
export function drawLine(cells: readonly Cell[], options: FrameOptions, right?: Cell): string {
  const ellipsis = options.ascii ? '~' : '…'
  const right_text = right ? clean(right.text) : ''
  const right_columns = right_text === '' ? 0 : width(right_text) + 2
  const columns = options.cols - (right_columns > options.cols / 2 ? 0 : right_columns)
  let used = 0
  let line = ''
  for (const cell of cells) {
    const cleaned = clean(options.ascii ? cell.text.replaceAll('…', '...').replaceAll('·', '-') : cell.text)
    const text = fitTo(cleaned, columns - used, ellipsis)
    used += width(text)
    line += styled(text, cell, options)
    if (text !== cleaned) break
  }
  if (right && columns < options.cols) {
    line +=
      ' '.repeat(Math.max(2, options.cols - used - width(right_text))) + styled(right_text, right, options)
  }
  return line.replace(/ +$/, '')
}

function styled(text: string, { tone, style }: Cell, options: FrameOptions): string {
  if (text === '') return ''
  if (tone) return inTone(tone, text, options)
  if (style === 'dim') return dim(text, options)
  return style === 'bold' ? bold(text, options) : text
}

/** `2026-11-21T00:31:02.114Z 8ff34739 bot daily-standup starting -> running 8.6s`, without any control. */
export function transitionLine(
  transition: Pick<
    Transition,
    'machine' | 'from_status' | 'to_status' | 'created_at' | 'error_code' | 'subject_id'
  >,
  name: string,
  before_ms: number | null,
): string {
  const at = new Date(transition.created_at).toISOString()
  const parts = [
    at,
    shortId(transition.subject_id),
    transition.machine,
    clean(name).trim().replaceAll(/\s+/g, '-') || '-',
    transition.from_status
      ? `${transition.from_status} -> ${transition.to_status}`
      : `-> ${transition.to_status}`,
    before_ms === null ? '' : duration(before_ms).replaceAll(' ', ''),
    transition.error_code ?? '',
  ]
  return parts
    .map((part) => clean(part))
    .filter((part) => part !== '')
    .join(' ')
}
