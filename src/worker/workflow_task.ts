import { z } from 'zod'
import { ToolMessage } from './tool_chat.ts'

/** An agent's task as it is claimed: a script to be written, or to be repaired. */
export const Task = z.object({
  task_id: z.string(),
  lease_token: z.string(),
  type: z.enum(['planner', 'maintainer']),
  workflow_id: z.string(),
  title: z.string().nullish(),
  time_zone: z.string().nullish(),
  /** The conversation so far, without what the agent is told before it. */
  messages: z.array(ToolMessage),
  script: z.object({ id: z.string(), major: z.number(), minor: z.number(), code: z.string() }).nullable(),
  /** What the maintainer is to repair. */
  failure: z
    .object({
      run_id: z.string(),
      handler_type: z.string(),
      handler_name: z.string(),
      phase: z.string(),
      error: z.string().nullish(),
      error_type: z.string().nullish(),
      logs: z.unknown(),
    })
    .nullable(),
  /** What was said of earlier fixes, the oldest first. */
  comments: z.array(z.string()),
  secret_names: z.array(z.string()),
})
export type Task = z.output<typeof Task>
