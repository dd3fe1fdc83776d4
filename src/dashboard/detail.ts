import type { OpenRun } from '../client/live/open_runs.ts'
import type { RunRow } from '../client/live/run.ts'
import type { Catalog } from '../client/live/source.ts'

/** What GET of a run answers, read with care: an older or newer project may leave anything out. */
export type Json = Record<string, unknown>

export interface Step {
  prompt: string
  response: string | null
  error: string | null
  duration_ms: number | null
  state: 'done' | 'failed' | 'now' | 'open'
}

export interface Failure {
  stage: string | null
  code: string
  message: string | null
  meaning: string | null
  next_step: string | null
  attribution: string | null
  details: unknown
}

export interface MutationDetail {
  id: string
  tool: string
  status: string
  error: string | null
  params: unknown
  /** What may be said of it; an older project does not tell. */
  actions?: string[]
}

export interface HandlerDetail {
  handler_type: string
  phase: string
  cost_microusd: number
  logs: { at: string; level: string; text: string }[]
  mutation: MutationDetail | null
  events: { topic: string; message_id: string; status: string }[]
}

/** The whole name; that of the row is cut. */
export function nameOf(row: RunRow, detail: Json | null): string {
  return text(detail?.title) ?? text(detail?.bot_name) ?? text(detail?.flow_name) ?? row.name
}

/** Why a run failed, with what its code means; null if it did not. */
export function failureOf(row: RunRow, detail: Json | null, catalog: Catalog | null): Failure | null {
  if (row.error_code === null && row.error_message === null) return null
  const told = object(detail?.error)
  const code = row.error_code ?? 'UNKNOWN'
  const known = catalog?.error_codes.find((entry) => entry.code === code)
  return {
    stage: row.error_stage,
    code,
    message: text(told?.message) ?? text(detail?.error) ?? row.error_message,
    meaning: text(told?.meaning) ?? text(detail?.meaning) ?? known?.meaning ?? null,
    next_step: text(told?.next_step) ?? text(detail?.next_step) ?? known?.next_step ?? null,
    attribution: text(told?.attribution) ?? text(detail?.attribution) ?? known?.attribution ?? null,
    details: told?.details ?? detail?.error_details ?? null,
  }
}

/** The prompts of an execution with what came of them. */
export function stepsOf(row: RunRow, detail: Json | null): Step[] {
  if (row.kind !== 'flow' || !Array.isArray(detail?.prompts)) return []
  const results = new Map<unknown, Json>(
    list(detail.prompt_results).map((result) => [object(result)?.index, object(result) ?? {}]),
  )
  const at = row.progress_done ?? 0
  return detail.prompts.map((prompt: unknown, index): Step => {
    const result = results.get(index)
    const error = text(result?.error)
    const has_failed = error !== null || (row.state === 'failed' && index === at)
    const is_done = result !== undefined && error === null
    return {
      prompt: text(prompt) ?? text(object(prompt)?.title) ?? text(object(prompt)?.prompt) ?? '',
      response: text(result?.response),
      error: error ?? (has_failed ? row.error_message : null),
      duration_ms: typeof result?.duration_ms === 'number' ? result.duration_ms : null,
      state: is_done
        ? 'done'
        : has_failed
          ? 'failed'
          : row.finished_at === null && index === at
            ? 'now'
            : 'open',
    }
  })
}

/** What else the run is known by, to be copied. */
export function namesOf(row: RunRow, detail: Json | null): [name: string, value: string][] {
  const named: [string, unknown][] = [
    ['Workflow thread', detail?.workflow_thread_id],
    ['Platform', detail?.platform],
    ['Meeting', detail?.native_meeting_id],
    ['Meeting URL', detail?.meeting_url],
    ['Container', detail?.container_id],
    ['Flow', detail?.flow_id],
    ['Script', object(detail?.active_script)?.version],
    ['Time zone', row.kind === 'workflow' ? detail?.time_zone : null],
    ['Session', row.session_id],
    ['Owner', detail?.owner_id],
  ]
  return named.flatMap(([name, value]) => (typeof value === 'string' ? [[name, value]] : []))
}

/** The handler run within the session that was read. */
export function handlerOf({ id, detail }: OpenRun): HandlerDetail | null {
  const found = list(detail?.handler_runs).find((run) => object(run)?.id === id)
  return found ? (found as HandlerDetail) : null
}

/** What a workflow wants of its owner. */
export function needsOf(detail: Json | null) {
  const notifications = list(detail?.notifications).flatMap((told) => {
    const { id, type, payload, created_at } = object(told) ?? {}
    const message = text(object(payload)?.message)
    return message ? [{ id: String(id), type: String(type), message, created_at: String(created_at) }] : []
  })
  return { mutation: object(detail?.unresolved_mutation) as MutationDetail | null, notifications }
}

function object(value: unknown): Json | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : null
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

function text(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null
}
