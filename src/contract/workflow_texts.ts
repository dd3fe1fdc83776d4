import { z } from 'zod'
import { ScriptSummary } from './workflows.ts'

const Time = z.string()

/** The 200 of `GET /workflows/:id/scripts`: newest first. */
export const ScriptList = z.object({ items: z.array(ScriptSummary) })
export type ScriptList = z.infer<typeof ScriptList>

/** The 200 of `GET /workflows/:id/scripts/:id`. */
export const Script = ScriptSummary.extend({
  workflow_id: z.string(),
  code: z.string(),
  config: z.record(z.string(), z.unknown()),
})
export type Script = z.infer<typeof Script>

/** The 201 of `POST /workflows/:id/script`. */
export const SavedScript = z.object({ script_id: z.string(), version: z.string() })
export type SavedScript = z.infer<typeof SavedScript>

/** What was said about a workflow, by its owner, by the agent, or by an event. */
export const WorkflowMessage = z.object({
  id: z.string(),
  role: z.enum(['user', 'assistant', 'event']),
  type: z
    .enum(['error', 'maintenance_started', 'maintenance_fixed', 'maintenance_escalated', 'script'])
    .nullable(),
  content: z.string(),
  payload: z.unknown(),
  /** Only of errors: somebody has seen it. */
  acknowledged_at: Time.nullable(),
  /** Only of errors: it is over. */
  resolved_at: Time.nullable(),
  created_at: Time,
})
export type WorkflowMessage = z.infer<typeof WorkflowMessage>

/** The 200 of `GET /workflows/:id/messages`: newest first, `next_cursor` null at the end. */
export const WorkflowMessageList = z.object({
  items: z.array(WorkflowMessage),
  next_cursor: z.string().nullable(),
})
export type WorkflowMessageList = z.infer<typeof WorkflowMessageList>

/** The 201 of `POST /workflows/:id/messages`. */
export const AddedMessage = z.object({ message_id: z.string(), task_id: z.string() })
export type AddedMessage = z.infer<typeof AddedMessage>

/** The 200 of `POST /workflows/:id/secrets`: the names that are set; values are never shown. */
export const SecretNames = z.object({ secret_names: z.array(z.string()) })
export type SecretNames = z.infer<typeof SecretNames>
