import type { RunKind, RunsFilter } from '../client/live/run.ts'
import { run_kinds } from '../client/live/run.ts'

export type Window = '1h' | '24h' | '7d' | 'all' | 'custom'

/** What of the runs is looked at. All of it is in the URL. */
export interface View {
  kind: RunKind | null
  states: readonly string[]
  stuck: boolean
  /** Only what failed in the last hour. */
  failed_lately: boolean
  stage: string
  code: string
  search: string
  window: Window
  /** Of a custom window: ISO 8601, or empty. */
  since: string
  until: string
}

export const everything: View = {
  kind: null,
  states: [],
  stuck: false,
  failed_lately: false,
  stage: '',
  code: '',
  search: '',
  window: '24h',
  since: '',
  until: '',
}

export const windows: { window: Window; name: string; words: string; hours: number }[] = [
  { window: '1h', name: 'Last hour', words: 'in the last hour', hours: 1 },
  { window: '24h', name: 'Last 24 hours', words: 'in the last 24 h', hours: 24 },
  { window: '7d', name: 'Last 7 days', words: 'in the last 7 days', hours: 168 },
  { window: 'all', name: 'All time', words: 'at any time', hours: 0 },
  { window: 'custom', name: 'Custom …', words: 'in the chosen time', hours: 0 },
]

export function readView(query: URLSearchParams): View {
  const kind = query.get('kind')
  const window = query.get('window')
  return {
    kind: run_kinds.find((known) => known === kind) ?? null,
    states: (query.get('state') ?? '').split(',').filter((state) => state !== ''),
    stuck: query.has('stuck'),
    failed_lately: query.has('failed_lately'),
    stage: query.get('stage') ?? '',
    code: query.get('code') ?? '',
    search: query.get('q') ?? '',
    window: windows.find((known) => known.window === window)?.window ?? everything.window,
    since: query.get('since') ?? '',
    until: query.get('until') ?? '',
  }
}

/** As it stands behind `#/`; empty for everything. */
export function writeView(view: View): string {
  const query = new URLSearchParams()
  if (view.kind) query.set('kind', view.kind)
  if (view.states.length > 0) query.set('state', view.states.join(','))
  if (view.stuck) query.set('stuck', '1')
  if (view.failed_lately) query.set('failed_lately', '1')
  if (view.stage) query.set('stage', view.stage)
  if (view.code) query.set('code', view.code)
  if (view.search) query.set('q', view.search)
  if (view.window !== everything.window) query.set('window', view.window)
  if (view.window === 'custom' && view.since) query.set('since', view.since)
  if (view.window === 'custom' && view.until) query.set('until', view.until)
  const text = query.toString().replaceAll('%2C', ',').replaceAll('%3A', ':')
  return text === '' ? '' : `?${text}`
}

/** Whether it narrows more than by kind and time. */
export function isNarrowed(view: View): boolean {
  return (
    view.states.length > 0 ||
    view.stuck ||
    view.failed_lately ||
    view.stage !== '' ||
    view.code !== '' ||
    view.search !== ''
  )
}

/** What is stuck or failed lately is meant whenever it began: its time window is its own. */
export function toFilter(view: View, now: number, failed_states: readonly string[]): RunsFilter {
  const filter: RunsFilter = {}
  if (view.kind) filter.kind = view.kind
  if (view.stage) filter.stage = view.stage
  if (view.code) filter.code = view.code
  if (view.search.trim()) filter.search = view.search.trim()
  if (view.states.length > 0) filter.state = view.states
  if (view.stuck) filter.stuck = true
  if (view.failed_lately) {
    filter.state = failed_states
    filter.ended_since = new Date(now - 3_600_000).toISOString()
  }
  if (view.stuck || view.failed_lately) return filter
  const hours = windows.find(({ window }) => window === view.window)?.hours ?? 0
  if (hours > 0) filter.since = new Date(now - hours * 3_600_000).toISOString()
  if (view.window === 'custom' && isTime(view.since)) filter.since = new Date(view.since).toISOString()
  if (view.window === 'custom' && isTime(view.until)) filter.until = new Date(view.until).toISOString()
  return filter
}

function isTime(text: string): boolean {
  return text !== '' && !Number.isNaN(Date.parse(text))
}
