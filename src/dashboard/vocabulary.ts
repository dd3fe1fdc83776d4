import type { RunKind, RunRow } from '../client/live/run.ts'
import type { Catalog } from '../client/live/source.ts'

/** What a state means for whoever looks. The label is always the exact state. */
export type Tone = 'queued' | 'working' | 'waiting' | 'ok' | 'bad' | 'unknown'

const of_kind: Record<RunKind, Record<string, Tone>> = {
  bot: { pending: 'queued', starting: 'working', running: 'working', completed: 'ok', failed: 'bad' },
  handler: {
    active: 'working',
    'paused:transient': 'waiting',
    'paused:approval': 'waiting',
    'paused:reconciliation': 'waiting',
    committed: 'ok',
    'failed:logic': 'bad',
    'failed:internal': 'bad',
    crashed: 'bad',
  },
  workflow: {
    draft: 'queued',
    ready: 'queued',
    active: 'working',
    paused: 'waiting',
    fixing: 'waiting',
    error: 'bad',
    archived: 'queued',
  },
  flow: { running: 'working', completed: 'ok', failed: 'bad' },
}

/** Words of the other machines, as timelines have them. */
const of_machine: Record<string, Record<string, Tone>> = {
  meeting: {
    requested: 'queued',
    joining: 'working',
    awaiting_admission: 'waiting',
    active: 'working',
    stopping: 'waiting',
    completed: 'ok',
    failed: 'bad',
  },
  workflow: { draft: 'queued', active: 'working', disabled: 'waiting', archived: 'queued' },
  script_run: { running: 'working', success: 'ok', failed: 'bad' },
  mutation: {
    in_flight: 'working',
    needs_reconcile: 'waiting',
    indeterminate: 'waiting',
    applied: 'ok',
    failed: 'bad',
  },
  bot: of_kind.bot,
  handler_run: of_kind.handler,
  flow_execution: of_kind.flow,
}

export const kind_names: Record<RunKind, { one: string; many: string }> = {
  bot: { one: 'Bot', many: 'Bots' },
  handler: { one: 'Handler run', many: 'Handler runs' },
  workflow: { one: 'Workflow', many: 'Workflows' },
  flow: { one: 'Flow', many: 'Flows' },
}

/** The machine whose states a kind shows. */
export const kind_machines: Record<RunKind, string> = {
  bot: 'bot',
  handler: 'handler_run',
  workflow: 'workflow',
  flow: 'flow_execution',
}

export const tone_names: Record<Exclude<Tone, 'unknown'>, string> = {
  queued: 'Queued',
  working: 'Working',
  waiting: 'Waiting',
  ok: 'Done',
  bad: 'Failed',
}

/** `unknown` where neither this page nor the catalogue has heard of the state. */
export function toneOfState(kind: RunKind, state: string, catalog: Catalog | null): Tone {
  const tone = of_kind[kind]?.[state]
  if (tone) return tone
  const machine = catalog?.machines.find(({ name }) => name === kind_machines[kind])
  return machine?.states.some((known) => known.state === state) ? 'queued' : 'unknown'
}

/** The tone of a run: a bot that stands in the lobby, or is told to leave, waits. */
export function toneOf(row: RunRow, catalog: Catalog | null): Tone {
  const tone = toneOfState(row.kind, row.state, catalog)
  const waits = row.meeting_status === 'awaiting_admission' || row.meeting_status === 'stopping'
  return tone === 'working' && waits ? 'waiting' : tone
}

export function toneOfTransition(machine: string, state: string): Tone {
  return of_machine[machine]?.[state] ?? 'unknown'
}

/** The states of a kind that have a tone. */
export function statesWithTone(kinds: readonly RunKind[], tone: Tone): string[] {
  const states = kinds.flatMap((kind) =>
    Object.entries(of_kind[kind]).flatMap(([state, its]) => (its === tone ? [state] : [])),
  )
  return [...new Set(states)]
}

/** The states of a kind, in the order of its life. */
export function statesOf(kind: RunKind): string[] {
  return Object.keys(of_kind[kind])
}

const poor_reasons = new Set([
  'awaiting_admission_timeout',
  'awaiting_admission_rejected',
  'evicted',
  'validation_error',
  'left_alone',
])

/** Completed, but not as one would wish. */
export function endedPoorly(row: RunRow): boolean {
  return row.state === 'completed' && row.reason !== null && poor_reasons.has(row.reason)
}

/** A word of the wire as people write it: `awaiting_admission_timeout` is "awaiting admission timeout". */
export function words(word: string): string {
  return word.replaceAll('_', ' ')
}
