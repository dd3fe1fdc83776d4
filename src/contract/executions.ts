import { z } from 'zod'
import { BotEvent } from './bots.ts'
import { Attribution } from './errors.ts'
import { FlowAgent, Prompt } from './flows.ts'
import { Cursor, Limit } from './list.ts'

export const ExecutionStatus = z.enum(['running', 'completed', 'failed'])
export type ExecutionStatus = z.infer<typeof ExecutionStatus>

/** What became of one prompt: a response, or an error that says why there is none. */
export const PromptResult = z.object({
  index: z.int(),
  prompt: z.string(),
  response: z.string().nullable(),
  error: z.string().nullable(),
  started_at: z.string(),
  completed_at: z.string(),
  duration_ms: z.int(),
  attempts: z.int(),
  usage: z.record(z.string(), z.unknown()).nullable(),
  /** How many of the first pairs the agent was not shown, since the conversation had become too long. */
  omitted_pairs: z.int().optional(),
})
export type PromptResult = z.infer<typeof PromptResult>

/** An execution without its prompts and responses, as lists show it. */
export const ExecutionSummary = z.object({
  id: z.string(),
  execution_id: z.string(),
  flow_id: z.string(),
  owner_id: z.string(),
  flow_name: z.string(),
  status: ExecutionStatus,
  version: z.int(),
  /** Has a worker ever taken it? */
  started: z.boolean(),
  /** The prompt being answered, from 0; total_prompts when completed. */
  current_prompt_index: z.int(),
  total_prompts: z.int(),
  /** 0 to 1. */
  progress: z.number(),
  /** Cut to 300 characters, as is the response. */
  current_prompt: z.string().nullable(),
  latest_response: z.string().nullable(),
  created_at: z.string(),
  started_at: z.string().nullable(),
  progressed_at: z.string().nullable(),
  completed_at: z.string().nullable(),
  deadline_at: z.string().nullable(),
  retry_of: z.string().nullable(),
  attempt: z.int(),
  prompt_attempts: z.int(),
  not_before: z.string().nullable(),
  lease_owner: z.string().nullable(),
  lease_expires_at: z.string().nullable(),
  error: z.string().nullable(),
  error_code: z.string().nullable(),
  error_details: z.unknown(),
  attribution: Attribution.nullable(),
  retryable: z.boolean().nullable(),
  meaning: z.string().nullable(),
  next_step: z.string().nullable(),
  topic: z.string(),
  allowed_actions: z.array(z.enum(['cancel', 'retry'])),
})
export type ExecutionSummary = z.infer<typeof ExecutionSummary>

/** One run of a flow, with the prompts as they were when it began. */
export const Execution = ExecutionSummary.extend({
  prompts: z.array(Prompt),
  agent: FlowAgent,
  prompt_results: z.array(PromptResult).optional(),
  events: z.array(BotEvent).optional(),
})
export type Execution = z.infer<typeof Execution>

/** What `?include=` may add to an execution; results are there unless it says otherwise. */
export const ExecutionInclude = z.enum(['results', 'events'])
export type ExecutionInclude = z.infer<typeof ExecutionInclude>

const INCLUDES: readonly string[] = ExecutionInclude.options

const Includes = z
  .string()
  .transform((text) => text.split(',').filter((name) => name !== ''))
  .refine((names) => names.every((name) => INCLUDES.includes(name)), {
    message: `include names any of: ${INCLUDES.join(', ')}; nothing leaves the results out.`,
  })
  .transform((names) => [...new Set(names)] as ExecutionInclude[])

/** The query of `GET /functions/v1/executions/:id`. */
export const ExecutionQuery = z.object({ include: Includes.optional(), owner_id: z.guid().optional() })
export type ExecutionQuery = z.output<typeof ExecutionQuery>

/** The query of `GET /functions/v1/executions/active`. */
export const ActiveQuery = z.object({ owner_id: z.guid().optional() })
export type ActiveQuery = z.output<typeof ActiveQuery>

/** The query of `GET /functions/v1/executions/recent`. */
export const RecentQuery = z.object({
  limit: Limit.optional(),
  cursor: Cursor.optional(),
  owner_id: z.guid().optional(),
})
export type RecentQuery = z.output<typeof RecentQuery>

/** The body of `POST /functions/v1/executions/:id/cancel`; it may be left out. */
export const CancelRequest = z.object({ owner_id: z.guid().optional() }).prefault({})
export type CancelRequest = z.output<typeof CancelRequest>

/** The body of `POST /functions/v1/executions/:id/retry`: from the start, or with the earlier results from the prompt that failed. */
export const RetryRequest = z
  .object({ from: z.enum(['start', 'failed_prompt']).default('start'), owner_id: z.guid().optional() })
  .prefault({})
export type RetryRequest = z.output<typeof RetryRequest>

/** The 202 of run, cancel and retry. */
export const ExecutionResponse = ExecutionSummary
export type ExecutionResponse = ExecutionSummary

/** The 200 of active: all running ones, oldest first. */
export const ActiveExecutions = z.object({ items: z.array(ExecutionSummary) })
export type ActiveExecutions = z.infer<typeof ActiveExecutions>

/** The 200 of recent: newest first, `next_cursor` null at the end. */
export const ExecutionList = z.object({
  items: z.array(ExecutionSummary),
  next_cursor: z.string().nullable(),
})
export type ExecutionList = z.infer<typeof ExecutionList>
