import { z } from 'zod'
import { MutationStatus } from './workflows.ts'

const Time = z.string()
const Json = z.unknown()

/** Why a handler run is, or is not, running. */
export const HandlerRunStatus = z.enum([
  'active',
  'paused:transient',
  'paused:approval',
  'paused:reconciliation',
  'failed:logic',
  'failed:internal',
  'crashed',
  'committed',
])
export type HandlerRunStatus = z.infer<typeof HandlerRunStatus>

/** How far a handler run got; it only goes forward. */
export const HandlerRunPhase = z.enum([
  'pending',
  'executing',
  'preparing',
  'prepared',
  'mutating',
  'mutated',
  'emitting',
  'committed',
])
export type HandlerRunPhase = z.infer<typeof HandlerRunPhase>

export const ErrorType = z.enum(['auth', 'permission', 'network', 'logic', 'internal', 'unknown'])
export type ErrorType = z.infer<typeof ErrorType>

/** One handler, once. */
export const HandlerRun = z.object({
  id: z.string(),
  handler_type: z.enum(['producer', 'consumer']),
  handler_name: z.string(),
  phase: HandlerRunPhase,
  status: HandlerRunStatus,
  mutation_outcome: z.enum(['success', 'failure', 'skipped']).nullable(),
  retry_of: z.string().nullable(),
  error: z.string().nullable(),
  error_type: ErrorType.nullable(),
  cost_microusd: z.number(),
  started_at: Time,
  ended_at: Time.nullable(),
})
export type HandlerRun = z.infer<typeof HandlerRun>

export const SessionStatus = z.enum(['running', 'success', 'failed'])
export type SessionStatus = z.infer<typeof SessionStatus>

/** One run of a workflow: its script at work, from a claim to its end, with the handlers that ran. */
export const WorkflowRun = z.object({
  id: z.string(),
  workflow_id: z.string(),
  script_id: z.string(),
  /** `2.1` */
  script_version: z.string(),
  trigger: z.enum(['schedule', 'manual', 'event', 'retry']),
  status: SessionStatus,
  result: z.enum(['completed', 'suspended', 'failed', 'maintenance', 'transient']).nullable(),
  error: z.string().nullable(),
  error_type: z.string().nullable(),
  cost_microusd: z.number(),
  handler_run_count: z.int(),
  retry_of: z.string().nullable(),
  started_at: Time,
  ended_at: Time.nullable(),
  handler_runs: z.array(HandlerRun),
})
export type WorkflowRun = z.infer<typeof WorkflowRun>

/** The 200 of `GET /workflows/:id/runs`: newest first, `next_cursor` null at the end. */
export const WorkflowRunList = z.object({ items: z.array(WorkflowRun), next_cursor: z.string().nullable() })
export type WorkflowRunList = z.infer<typeof WorkflowRunList>

/** A side effect: what was asked of the other side, and what came of it. */
export const WorkflowMutation = z.object({
  id: z.string(),
  tool: z.string(),
  params: Json,
  reconcile: Json,
  status: MutationStatus,
  result: Json,
  error: z.string().nullable(),
  reconcile_attempts: z.int(),
  next_reconcile_at: Time.nullable(),
  resolved_by: z.string().nullable(),
  resolved_at: Time.nullable(),
})
export type WorkflowMutation = z.infer<typeof WorkflowMutation>

/** A handler run with all that it did. */
export const WholeHandlerRun = HandlerRun.extend({
  prepare_result: Json,
  publications: Json,
  state_before: Json,
  state_after: Json,
  details: Json,
  logs: Json,
  mutation: WorkflowMutation.nullable(),
  /** The events that it reserved or consumed, and those that it published. */
  events: z.array(
    z.object({
      topic: z.string(),
      message_id: z.string(),
      payload: Json,
      status: z.enum(['pending', 'reserved', 'consumed', 'skipped']),
      attempt_number: z.int(),
    }),
  ),
})
export type WholeHandlerRun = z.infer<typeof WholeHandlerRun>

/** The 200 of `GET /workflows/:id/runs/:id`. */
export const WholeWorkflowRun = WorkflowRun.extend({ handler_runs: z.array(WholeHandlerRun) })
export type WholeWorkflowRun = z.infer<typeof WholeWorkflowRun>
