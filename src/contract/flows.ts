import { z } from 'zod'
import { jsonBytes } from './json.ts'
import { Cursor, Limit } from './list.ts'

/** What a flow holds at most. */
export const MAX_PROMPTS = 200
export const MAX_PROMPT_BYTES = 32 * 1024
export const MAX_PROMPTS_BYTES = 900 * 1024

function bytes(text: string): number {
  return new TextEncoder().encode(text).length
}

const PromptText = z
  .string()
  .refine((text) => text.trim() !== '', 'A prompt needs words.')
  .refine((text) => bytes(text) <= MAX_PROMPT_BYTES, 'A prompt has at most 32 KB.')

/** One thing that the agent is asked: a text, or a text with a title. */
export const Prompt = z.union([
  PromptText,
  z.strictObject({ prompt: PromptText, title: z.string().max(255).optional() }),
])
export type Prompt = z.infer<typeof Prompt>

/** The prompts of a flow, in order. */
export const Prompts = z
  .array(Prompt)
  .min(1, 'A flow has at least one prompt.')
  .max(MAX_PROMPTS, `A flow has at most ${MAX_PROMPTS} prompts.`)
  .refine((prompts) => jsonBytes(prompts) <= MAX_PROMPTS_BYTES, 'All prompts together have at most 900 KB.')

const AgentText = z.string().refine((text) => bytes(text) <= MAX_PROMPT_BYTES, 'Has at most 32 KB.')

/** How the prompts are answered. All of it is optional. */
export const FlowAgent = z.strictObject({
  model: AgentText.min(1).optional(),
  system: AgentText.optional(),
  temperature: z.number().min(0).max(2).optional(),
  /** Text put before the first prompt. */
  memory: AgentText.optional(),
})
export type FlowAgent = z.infer<typeof FlowAgent>

const Name = z
  .string()
  .max(255)
  .refine((name) => name.trim() !== '', 'A flow needs a name.')

/** The body of `POST /functions/v1/flows`. */
export const CreateFlowRequest = z.object({
  name: Name,
  prompts: Prompts,
  agent: FlowAgent.optional(),
  /** For whom; only operators and secret keys may name somebody else. */
  owner_id: z.guid().optional(),
})
export type CreateFlowRequest = z.infer<typeof CreateFlowRequest>

/** The body of `PATCH /functions/v1/flows/:id`: what is absent stays as it is. */
export const UpdateFlowRequest = CreateFlowRequest.partial().refine(
  ({ name, prompts, agent }) => name !== undefined || prompts !== undefined || agent !== undefined,
  'Say what is to change: name, prompts or agent.',
)
export type UpdateFlowRequest = z.infer<typeof UpdateFlowRequest>

/** The body of `POST /functions/v1/flows/:id/run`; it may be left out. */
export const RunFlowRequest = z
  .object({
    /** If given it must be the flow's: whoever shows the flow knows that it is still the same. */
    total_prompts: z.int().min(1).max(MAX_PROMPTS).optional(),
    owner_id: z.guid().optional(),
  })
  .prefault({})
export type RunFlowRequest = z.output<typeof RunFlowRequest>

/** The query of `GET` and `DELETE /functions/v1/flows/:id`. */
export const FlowQuery = z.object({ owner_id: z.guid().optional() })
export type FlowQuery = z.infer<typeof FlowQuery>

/** The query of `GET /functions/v1/flows`. */
export const FlowsQuery = z.object({
  limit: Limit.optional(),
  cursor: Cursor.optional(),
  owner_id: z.guid().optional(),
})
export type FlowsQuery = z.output<typeof FlowsQuery>

/** A flow without its prompts, as lists show it. */
export const FlowSummary = z.object({
  id: z.string(),
  flow_id: z.string(),
  owner_id: z.string(),
  name: z.string(),
  total_prompts: z.int(),
  created_at: z.string(),
  updated_at: z.string(),
})
export type FlowSummary = z.infer<typeof FlowSummary>

/** A flow: a named list of prompts. */
export const Flow = FlowSummary.extend({ prompts: z.array(Prompt), agent: FlowAgent })
export type Flow = z.infer<typeof Flow>

/** The 200 of `GET /functions/v1/flows`: newest first, `next_cursor` null at the end. */
export const FlowList = z.object({ items: z.array(FlowSummary), next_cursor: z.string().nullable() })
export type FlowList = z.infer<typeof FlowList>

/** The 200 of `DELETE /functions/v1/flows/:id`. */
export const DeletedFlow = FlowSummary.extend({ deleted_at: z.string() })
export type DeletedFlow = z.infer<typeof DeletedFlow>
