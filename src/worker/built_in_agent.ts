import type { ChatAnswer, ChatMessage } from './chat.ts'
import { pause } from './pause.ts'

/** So that progress can be watched, in ms. */
const THINKING_MS = 400

const MAX_QUOTE = 160

/**
 * Stands in for an agent on the local stack where none is configured. It understands nothing and says so: each answer
 * names it and repeats the beginning of the prompt.
 */
export async function builtInAnswer(messages: ChatMessage[]): Promise<ChatAnswer> {
  await pause(THINKING_MS)
  const prompts = messages.filter((message) => message.role === 'user')
  const prompt = (prompts.at(-1)?.content ?? '').replaceAll(/\s+/g, ' ').trim()
  const quote =
    prompt.length > MAX_QUOTE ? `${prompt.slice(0, MAX_QUOTE).toWellFormed().trimEnd()} ...` : prompt
  return {
    text: `[Built-in agent: no model, set AGENT_API_URL for a real one] Prompt ${prompts.length}: "${quote}"`,
    usage: { model: 'rollcall-built-in' },
  }
}
