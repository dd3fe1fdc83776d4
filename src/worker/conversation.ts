import type { ChatMessage } from './chat.ts'

/** What an agent is shown of a conversation at most, beside the prompt itself, in characters. */
const MAX_CHARACTERS = 400_000

export interface Pair {
  prompt: string
  response: string
}

/** How a flow wants its prompts answered. */
export interface FlowAgent {
  model?: string | undefined
  system?: string | undefined
  temperature?: number | undefined
  /** Text put before the first prompt. */
  memory?: string | undefined
}

/** The last pairs that fit: whole ones, the newest first to stay. */
export function lastPairs(pairs: Pair[]): Pair[] {
  let characters = 0
  let from = pairs.length
  for (const { prompt, response } of pairs.toReversed()) {
    characters += prompt.length + response.length
    if (characters > MAX_CHARACTERS) break
    from--
  }
  return pairs.slice(from)
}

/** What the agent is sent for a prompt: the system text, the conversation so far, and the prompt. */
export function messagesFor({ system, memory }: FlowAgent, pairs: Pair[], prompt: string): ChatMessage[] {
  const messages: ChatMessage[] = [
    ...pairs.flatMap((pair): ChatMessage[] => [
      { role: 'user', content: pair.prompt },
      { role: 'assistant', content: pair.response },
    ]),
    { role: 'user', content: prompt },
  ]
  const [first] = messages
  if (memory && first) first.content = `${memory}\n\n${first.content}`
  return system ? [{ role: 'system', content: system }, ...messages] : messages
}
