import { z } from 'zod'
import { Attribution } from './errors.ts'

/** What its owner wants of a workflow. */
export const WorkflowStatus = z.enum(['draft', 'active', 'disabled', 'archived'])
export type WorkflowStatus = z.infer<typeof WorkflowStatus>

/** What is shown of a workflow: its status together with what the system found. */
export const WorkflowState = z.enum(['draft', 'ready', 'active', 'paused', 'error', 'fixing', 'archived'])
export type WorkflowState = z.infer<typeof WorkflowState>

/** What its owner may do in a state. */
export const WorkflowAction = z.enum([
  'talk',
  'activate',
  'test',
  'pause',
  'resume',
  'archive',
  'unarchive',
  'view',
  'retry',
  'acknowledge',
  'wait',
])
export type WorkflowAction = z.infer<typeof WorkflowAction>

/** Where a workflow went wrong. */
export const WorkflowStage = z.enum(['producer', 'prepare', 'mutate', 'next', 'reconcile', 'maintenance'])
export type WorkflowStage = z.infer<typeof WorkflowStage>

const Time = z.string()
const Json = z.unknown()

/** Why a workflow does not go on. */
export const WorkflowError = z.object({
  code: z.string().nullable(),
  message: z.string(),
  run_id: z.string().nullable(),
  stage: WorkflowStage.nullable(),
  attribution: Attribution.nullable(),
  meaning: z.string().nullable(),
  next_step: z.string().nullable(),
  retryable: z.boolean().nullable(),
  at: Time.nullable(),
})
export type WorkflowError = z.infer<typeof WorkflowError>

/** When a producer runs: `interval` (`5m`) or `cron`, in the time zone of the workflow. */
export const ProducerSchedule = z.object({
  producer: z.string(),
  interval: z.string().nullable(),
  cron: z.string().nullable(),
  next_run_at: Time.nullable(),
  last_run_at: Time.nullable(),
})
export type ProducerSchedule = z.infer<typeof ProducerSchedule>

/** Something that the owner should see. */
export const WorkflowNotification = z.object({
  id: z.string(),
  type: z.enum(['error', 'escalated', 'maintenance_failed', 'script_message']),
  payload: Json,
  created_at: Time,
  acknowledged_at: Time.nullable(),
  resolved_at: Time.nullable(),
})
export type WorkflowNotification = z.infer<typeof WorkflowNotification>

/** What a person can say of a mutation of which nobody knows whether it happened. */
export const Resolution = z.enum(['failed', 'skipped', 'applied', 'ask_again'])
export type Resolution = z.infer<typeof Resolution>

export const MutationStatus = z.enum(['in_flight', 'applied', 'failed', 'needs_reconcile', 'indeterminate'])
export type MutationStatus = z.infer<typeof MutationStatus>

/** A side effect of which nobody knows yet whether it happened. */
export const UnresolvedMutation = z.object({
  id: z.string(),
  run_id: z.string(),
  tool: z.string(),
  params: Json,
  status: MutationStatus,
  error: z.string().nullable(),
  reconcile_attempts: z.int(),
  next_reconcile_at: Time.nullable(),
  actions: z.array(Resolution),
})
export type UnresolvedMutation = z.infer<typeof UnresolvedMutation>

/** A version of the script without its code. `2.1`: the first fix of the second version. */
export const ScriptSummary = z.object({
  id: z.string(),
  version: z.string(),
  comment: z.string().nullable(),
  summary: z.string().nullable(),
  /** The operator who saved it for its owner. */
  actor: z.string().nullable(),
  created_at: Time,
})
export type ScriptSummary = z.infer<typeof ScriptSummary>

/** What an agent does for a workflow: writing its script, or repairing it. */
export const WorkflowTask = z.object({
  id: z.string(),
  type: z.enum(['planner', 'maintainer']),
  state: z.enum(['queued', 'waiting', 'finished', 'error']),
  title: z.string().nullable(),
  error: z.string().nullable(),
})
export type WorkflowTask = z.infer<typeof WorkflowTask>

/** A workflow as lists show it. */
export const WorkflowSummary = z.object({
  workflow_id: z.string(),
  id: z.string(),
  owner_id: z.string(),
  title: z.string(),
  status: WorkflowStatus,
  state: WorkflowState,
  actions: z.array(WorkflowAction),
  error: WorkflowError.nullable(),
  maintenance: z.boolean(),
  maintenance_fix_count: z.int(),
  pending_retry_run_id: z.string().nullable(),
  active_script_id: z.string().nullable(),
  active_script: ScriptSummary.nullable(),
  time_zone: z.string(),
  next_due_at: Time.nullable(),
  run_requested_at: Time.nullable(),
  backoff_until: Time.nullable(),
  transient_failures: z.int(),
  version: z.int(),
  /** The private Realtime channel of its changes. */
  topic: z.string(),
  created_at: Time,
  updated_at: Time,
})
export type WorkflowSummary = z.infer<typeof WorkflowSummary>

/** A workflow: what its owner wants, what the system found, and what can be done. */
export const Workflow = WorkflowSummary.extend({
  task: WorkflowTask.nullable(),
  chat_id: z.string().nullable(),
  schedules: z.array(ProducerSchedule),
  notifications: z.array(WorkflowNotification),
  unresolved_mutation: UnresolvedMutation.nullable(),
  secret_names: z.array(z.string()),
})
export type Workflow = z.infer<typeof Workflow>

/** The 200 of `GET /functions/v1/workflows/:id`. */
export const WholeWorkflow = Workflow.extend({
  /** All versions, newest first. */
  scripts: z.array(ScriptSummary),
})
export type WholeWorkflow = z.infer<typeof WholeWorkflow>

/** The 202 of `POST /functions/v1/workflows/:id/run`. */
export const RequestedRun = Workflow.extend({
  /** That what it sends is really sent. */
  note: z.string(),
})
export type RequestedRun = z.infer<typeof RequestedRun>

/** The 201 of `POST /functions/v1/workflows`. */
export const NewWorkflow = Workflow.extend({
  /** The first script, where code was sent. */
  script_id: z.string().nullish(),
  /** What the agent does first, where a message was sent. */
  task_id: z.string().nullish(),
})
export type NewWorkflow = z.infer<typeof NewWorkflow>

/** The 200 of `GET /functions/v1/workflows`: newest first, `next_cursor` null at the end. */
export const WorkflowList = z.object({
  items: z.array(WorkflowSummary),
  next_cursor: z.string().nullable(),
})
export type WorkflowList = z.infer<typeof WorkflowList>
