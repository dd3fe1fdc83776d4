import { ProbeError, probeWrite } from './authorization.ts'
import { type Broadcast, spaceOf } from './broadcast.ts'
import { limits } from './limits.ts'
import type { Services } from './services.ts'
import { type Token, TokenError } from './token.ts'

type Message = { topic: string; event: string; payload: Record<string, unknown>; private: boolean }

type FieldErrors = Record<string, string[]>

const path_pattern = /\/api\/broadcast(?:\/(?<topic>[^/]+)\/events\/(?<event>[^/]+))?\/?$/

const cors = {
  'access-control-allow-origin': '*',
  'access-control-allow-headers':
    'authorization, x-client-info, apikey, content-type, x-supabase-api-version',
  'access-control-allow-methods': 'POST, OPTIONS',
}

/** Broadcasts over HTTP: a batch in the body, or one message whose topic and event are in the path. */
export async function handleBroadcastRequest(services: Services, request: Request): Promise<Response> {
  const url = new URL(request.url)
  const place = path_pattern.exec(url.pathname)
  if (!place) return answer(404, { message: 'not found' })
  if (request.method === 'OPTIONS') return new Response(null, { status: 204, headers: cors })
  if (request.method !== 'POST') return answer(404, { message: 'not found' })
  const token = await authenticate(services, request.headers)
  if (!token) return answer(401, { message: 'Unauthorized' })
  const { topic, event } = place.groups ?? {}
  try {
    if (topic === undefined || event === undefined) return await sendBatch(services, request, token)
    return await sendSingle(services, request, token, decodeURIComponent(topic), decodeURIComponent(event))
  } catch (error) {
    if (error instanceof URIError) return answer(400, { message: 'Bad Request' })
    services.log(`broadcast API: ${String(error)}`)
    return answer(500, { message: 'Unable to authorize broadcast' })
  }
}

async function authenticate({ verify }: Services, headers: Headers): Promise<Token | undefined> {
  const [scheme, bearer] = (headers.get('authorization') ?? '').split(' ')
  const raw = scheme?.toLowerCase() === 'bearer' ? bearer : headers.get('apikey')
  if (!raw) return undefined
  try {
    return await verify(raw)
  } catch (error) {
    if (error instanceof TokenError) return undefined
    throw error
  }
}

async function sendBatch(services: Services, request: Request, token: Token): Promise<Response> {
  let body: unknown
  try {
    body = await request.json()
  } catch {
    return answer(400, { message: 'Bad Request' })
  }
  const list = (body as { messages?: unknown } | null)?.messages
  if (!Array.isArray(list) || list.length === 0)
    return answer(422, { errors: { messages: ["can't be blank"] } })
  const read = list.map(readMessage)
  if (read.some(({ errors }) => Object.keys(errors).length > 0)) {
    return answer(422, { errors: { messages: read.map(({ errors }) => errors) } })
  }
  const messages = read.map(({ message }) => message)
  const allowed = new Map<string, boolean>()
  for (const topic of new Set(
    messages.filter((message) => message.private).map((message) => message.topic),
  )) {
    allowed.set(topic, await mayWrite(services, request, token, topic).catch(() => false))
  }
  for (const { topic, event, payload, private: is_private } of messages) {
    // What may not be written is left out without a word, as on hosted.
    if (is_private && !allowed.get(topic)) continue
    services.hub.broadcast(spaceOf(topic, is_private), { payload: { payload, event, type: 'broadcast' } })
  }
  return answer(202)
}

function readMessage(value: unknown): { message: Message; errors: FieldErrors } {
  const { topic, event, payload, private: is_private } = (value ?? {}) as Record<string, unknown>
  const errors: FieldErrors = {}
  for (const [name, field] of Object.entries({ topic, event })) {
    if (field === undefined || field === null || field === '') errors[name] = ["can't be blank"]
    else if (typeof field !== 'string') errors[name] = ['is invalid']
  }
  if (payload === undefined || payload === null) errors.payload = ["can't be blank"]
  else if (typeof payload !== 'object' || Array.isArray(payload)) errors.payload = ['is invalid']
  else if (JSON.stringify(payload).length > limits.payload_bytes) {
    errors.payload = ['Payload size exceeds tenant limit']
  }
  if (is_private !== undefined && is_private !== null && typeof is_private !== 'boolean')
    errors.private = ['is invalid']
  const message = { topic, event, payload, private: is_private === true } as Message
  return { message, errors }
}

async function sendSingle(
  services: Services,
  request: Request,
  token: Token,
  topic: string,
  event: string,
): Promise<Response> {
  const type = request.headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type && type !== 'application/json' && type !== 'application/octet-stream') {
    return answer(415, { error: 'Unsupported Media Type. Use application/json or application/octet-stream' })
  }
  const body = Buffer.from(await request.arrayBuffer())
  const broadcast = readBroadcast(event, type === 'application/octet-stream', body)
  if (!broadcast) return answer(400, { message: 'Bad Request' })
  if (body.length > limits.payload_bytes) {
    return answer(422, { errors: { payload: ['Payload size exceeds tenant limit'] } })
  }
  const is_private = new URL(request.url).searchParams.get('private') === 'true'
  if (is_private) {
    try {
      if (!(await mayWrite(services, request, token, topic))) return answer(403, { message: 'Unauthorized' })
    } catch (error) {
      if (!(error instanceof ProbeError)) throw error
      services.log(`${topic}: broadcast API: ${error.problem}: ${error.message}`)
      const messages = {
        missing_partition: 'Missing messages partition',
        policy_error: 'RLS policy error',
        query_canceled: 'Query canceled',
        unavailable: 'Tenant database unavailable',
      }
      return answer(422, { message: messages[error.problem] })
    }
  }
  services.hub.broadcast(spaceOf(topic, is_private), broadcast)
  return answer(202)
}

function readBroadcast(event: string, is_binary: boolean, body: Buffer): Broadcast | undefined {
  if (is_binary) return { event, encoding: 'binary', body }
  try {
    const payload: unknown = JSON.parse(body.toString('utf8') || '{}')
    const is_map = typeof payload === 'object' && payload !== null && !Array.isArray(payload)
    return {
      event,
      encoding: 'json',
      body: Buffer.from(JSON.stringify(is_map ? payload : { _json: payload })),
    }
  } catch {
    return undefined
  }
}

async function mayWrite(
  { sql }: Services,
  request: Request,
  { claims }: Token,
  topic: string,
): Promise<boolean> {
  const { broadcast } = await probeWrite(sql, { topic, claims, headers: Object.fromEntries(request.headers) })
  return broadcast
}

function answer(status: number, body?: unknown): Response {
  if (body === undefined) return new Response('', { status, headers: cors })
  return Response.json(body, { status, headers: cors })
}
