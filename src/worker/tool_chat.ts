import type OpenAI from 'openai'
import { z } from 'zod'
import { AgentError } from './agent_error.ts'
import { checkSize, complete, storable } from './chat.ts'
import type { AgentSettings } from './settings.ts'

const ToolCall = z.object({
  id: z.string(),
  type: z.literal('function').default('function'),
  function: z.object({ name: z.string(), arguments: z.string() }),
})
export type ToolCall = z.output<typeof ToolCall>

/** A conversation with an agent that has tools, as the API takes it and as it is stored. */
export const ToolMessage = z.union([
  z.object({ role: z.literal('user'), content: z.string() }),
  z.object({
    role: z.literal('assistant'),
    content: z.string().nullish(),
    tool_calls: z.array(ToolCall).optional(),
  }),
  z.object({ role: z.literal('tool'), tool_call_id: z.string(), content: z.string() }),
])
export type ToolMessage = z.output<typeof ToolMessage>
export type AssistantMessage = Extract<ToolMessage, { role: 'assistant' }>

/** Something that the agent may call, and what it takes as a JSON schema. */
export interface Tool {
  name: string
  description: string
  parameters: Record<string, unknown>
}

export interface ToolChatRequest {
  system: string
  messages: ToolMessage[]
  tools: Tool[]
  timeout_s: number
  /** Ends the request early: the answer is wanted no more. */
  signal: AbortSignal
}

const Reply = z.object({
  choices: z
    .array(
      z.object({
        message: z.object({ content: z.string().nullish(), tool_calls: z.array(ToolCall).nullish() }),
      }),
    )
    .min(1),
})

/** The next message of an agent that may call tools. Throws AgentError; an abort of `signal` throws its reason. */
export async function chatWithTools(
  agent: AgentSettings,
  { system, messages, tools, timeout_s, signal }: ToolChatRequest,
): Promise<AssistantMessage> {
  const reply = await complete(
    agent,
    {
      model: agent.model,
      messages: [{ role: 'system', content: system }, ...messages.map(asSent)],
      tools: tools.map((tool) => ({ type: 'function', function: tool })),
    },
    { timeout_s, signal },
  )
  const parsed = Reply.safeParse(reply)
  if (!parsed.success) {
    throw new AgentError('AGENT_BAD_ANSWER', 'The agent gave an answer of another form.')
  }
  const { content, tool_calls } = parsed.data.choices[0]?.message ?? {}
  const text = storable(agent, content ?? '')
  const calls = (tool_calls ?? []).map(
    (call): ToolCall => ({
      ...call,
      id: storable(agent, call.id),
      function: {
        name: storable(agent, call.function.name),
        arguments: storable(agent, call.function.arguments),
      },
    }),
  )
  if (text.trim() === '' && calls.length === 0) {
    throw new AgentError('AGENT_BAD_ANSWER', 'The agent gave an empty answer.')
  }
  checkSize(text + calls.map((call) => call.function.arguments).join(''))
  return { role: 'assistant', content: text, ...(calls.length > 0 ? { tool_calls: calls } : {}) }
}

/** Some services take no empty text beside tool calls. */
function asSent(message: ToolMessage): OpenAI.ChatCompletionMessageParam {
  if (message.role !== 'assistant') return message
  const { content, tool_calls } = message
  return { role: 'assistant', content: content || null, ...(tool_calls === undefined ? {} : { tool_calls }) }
}
