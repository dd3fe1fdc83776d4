import OpenAI, { APIConnectionError, APIError } from 'openai'
import { z } from 'zod'
import { AgentError } from './agent_error.ts'
import { withoutSecrets } from './log.ts'
import type { AgentSettings } from './settings.ts'

/** The largest answer that is kept, in bytes. */
export const MAX_ANSWER_BYTES = 256 * 1024

/** The largest body that is read: the answer escaped as JSON, and what stands around it. */
const MAX_BODY_BYTES = 2 * 1024 * 1024

const MAX_COMPLAINT = 300

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant'
  content: string
}

export interface ChatRequest {
  messages: ChatMessage[]
  model?: string | undefined
  temperature?: number | undefined
  timeout_s: number
  /** Ends the request early: the answer is wanted no more. */
  signal?: AbortSignal
}

export interface ChatAnswer {
  text: string
  usage: Record<string, unknown> | null
}

const Reply = z.object({
  choices: z.array(z.object({ message: z.object({ content: z.string().nullish() }) })).min(1),
  usage: z.record(z.string(), z.unknown()).nullish(),
})

/**
 * One answer of an OpenAI-compatible chat API, without streaming and without attempts of its own: who asks counts them.
 * Throws AgentError; an abort of `signal` throws its reason.
 */
export async function chat(agent: AgentSettings, request: ChatRequest): Promise<ChatAnswer> {
  const { model, messages, temperature } = request
  const reply = await complete(
    agent,
    { model: model ?? agent.model, messages, ...(temperature === undefined ? {} : { temperature }) },
    request,
  )
  return answerIn(agent, reply)
}

/** What the chat API answers to a request, whatever it is. Throws as `chat` does. */
export async function complete(
  agent: AgentSettings,
  body: Omit<OpenAI.ChatCompletionCreateParamsNonStreaming, 'stream'>,
  { timeout_s, signal }: { timeout_s: number; signal?: AbortSignal },
): Promise<unknown> {
  const late = AbortSignal.timeout(timeout_s * 1000)
  try {
    return await clientOf(agent, timeout_s).chat.completions.create(
      { ...body, stream: false },
      { signal: signal === undefined ? late : AbortSignal.any([late, signal]) },
    )
  } catch (error) {
    signal?.throwIfAborted()
    if (late.aborted) {
      throw new AgentError('AGENT_TIMEOUT', `The agent did not answer within ${timeout_s} s.`, {
        passing: true,
      })
    }
    throw agentErrorOf(agent, error)
  }
}

function clientOf(agent: AgentSettings, timeout_s: number): OpenAI {
  return new OpenAI({
    baseURL: agent.url,
    // Without one the library would look for another's key in the environment.
    apiKey: agent.key ?? 'none',
    defaultHeaders: agent.key === null ? { authorization: null } : {},
    organization: null,
    project: null,
    maxRetries: 0,
    timeout: timeout_s * 1000,
    logLevel: 'off',
    fetch: boundedFetch,
  })
}

class TooLarge extends Error {
  override name = 'TooLarge'
}

/** Reads the whole body under the request's signal, and no more of it than can be used. */
async function boundedFetch(url: string | URL | Request, init?: RequestInit): Promise<Response> {
  // A redirect would carry the conversation somewhere nobody named.
  const response = await fetch(url, { ...init, redirect: 'manual' })
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  const reader = response.body?.getReader()
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true }
    if (done || value === undefined) break
    size += value.length
    if (size > MAX_BODY_BYTES) {
      await reader?.cancel().catch(() => {})
      throw new TooLarge()
    }
    chunks.push(value)
  }
  const headers = new Headers(response.headers)
  headers.delete('content-encoding')
  headers.delete('content-length')
  const empty = [101, 204, 205, 304].includes(response.status)
  return new Response(empty ? null : new Blob(chunks), { status: response.status, headers })
}

function answerIn(agent: AgentSettings, reply: unknown): ChatAnswer {
  const parsed = Reply.safeParse(reply)
  if (!parsed.success) {
    throw new AgentError('AGENT_BAD_ANSWER', 'The agent gave an answer of another form.')
  }
  const { choices, usage } = parsed.data
  const text = storable(agent, choices[0]?.message.content ?? '')
  if (text.trim() === '') throw new AgentError('AGENT_BAD_ANSWER', 'The agent gave an empty answer.')
  checkSize(text)
  return { text, usage: usage ?? null }
}

/** The agent's words without its key, and without what Postgres can not keep: a NUL, half a surrogate pair. */
export function storable(agent: AgentSettings, text: string): string {
  return hideKey(agent, text.toWellFormed().replaceAll('\0', '\uFFFD'))
}

/** Throws AgentError where an answer is larger than can be kept. */
export function checkSize(text: string): void {
  if (new TextEncoder().encode(text).length > MAX_ANSWER_BYTES) throw tooLarge()
}

function tooLarge(): AgentError {
  return new AgentError('AGENT_BAD_ANSWER', 'The answer of the agent is larger than 256 KB.')
}

function agentErrorOf(agent: AgentSettings, error: unknown): AgentError {
  if (error instanceof APIConnectionError) {
    if (error.cause instanceof TooLarge) return tooLarge()
    return new AgentError('AGENT_UNREACHABLE', `The agent can not be reached at ${placeOf(agent)}.`, {
      passing: true,
    })
  }
  if (!(error instanceof APIError) || typeof error.status !== 'number') {
    return new AgentError('AGENT_BAD_ANSWER', 'The agent gave an answer that is not JSON.')
  }
  const { status } = error
  const message = `The agent answered ${status}${complaintIn(agent, error)}`
  const again = { status, passing: true, retry_after_s: retryAfter(error.headers) }
  if (status === 429) return new AgentError('AGENT_RATE_LIMITED', message, again)
  if (status === 408) return new AgentError('AGENT_TIMEOUT', message, again)
  if (status >= 500) return new AgentError('AGENT_UNREACHABLE', message, again)
  if (status === 409) return new AgentError('AGENT_REFUSED', message, again)
  if (status >= 400) return new AgentError('AGENT_REFUSED', message, { status })
  return new AgentError('AGENT_BAD_ANSWER', message, { status })
}

/** The agent's own words, if it said any. */
function complaintIn(agent: AgentSettings, error: APIError): string {
  const said = (error.error as { message?: unknown } | undefined)?.message
  if (typeof said !== 'string' || said.trim() === '') return '.'
  const words = withoutSecrets(hideKey(agent, said.toWellFormed()))
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they have no place in a sentence
    .replaceAll(/[\u0000-\u001f\s]+/g, ' ')
    .trim()
    .slice(0, MAX_COMPLAINT)
    .toWellFormed()
  return `: ${words}`
}

function hideKey(agent: AgentSettings, text: string): string {
  return agent.key === null ? text : text.replaceAll(agent.key, '[secret]')
}

/** The address without what may be secret in it. */
function placeOf({ url }: AgentSettings): string {
  return URL.canParse(url) ? new URL(url).host : 'AGENT_API_URL'
}

/** `retry-after` in seconds: a number or a date; null for none. */
function retryAfter(headers: Headers | undefined): number | null {
  const text = headers?.get('retry-after')?.trim()
  if (!text) return null
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null
}
