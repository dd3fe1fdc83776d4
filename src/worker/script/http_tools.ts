import { PinnedError, requestPinned } from '../pinned_request.ts'
import type { Sockets } from '../sockets.ts'
import { type ErrorClass, ScriptFailure } from './script_failure.ts'

/** The largest answer that is read, in bytes. */
const MAX_ANSWER = 1024 * 1024

/** How deep an answer may be nested: deeper ones can be neither told to a script nor stored. */
const MAX_DEPTH = 100

/** A shorter secret is not looked for in answers: it would be found in every other word. */
const MIN_SECRET = 4

/** `{{secret.NAME}}` in the value of a header. */
const SECRET = /\{\{\s*secret\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}/g

const METHODS = ['POST', 'PUT', 'PATCH', 'DELETE']

/** What the connection says of itself is not the script's to say. */
const OURS = [
  'accept-encoding',
  'connection',
  'content-length',
  'expect',
  'host',
  'idempotency-key',
  'keep-alive',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]

export interface HttpAnswer {
  status: number
  headers: Record<string, string>
  /** Parsed where it is JSON, else text. */
  body: unknown
}

export interface HttpOptions {
  sockets: Sockets
  /** Lets targets be private, and plain http: for local development. */
  allow_private: boolean
  /** The secrets, by name; read only where a header names one. */
  secrets(): Promise<Record<string, string>>
  /** For everything together, in ms. */
  timeout_ms: number
  /** Ends it early. */
  signal: AbortSignal
}

/** Http.get of a script: `{ url, headers?, query? }`. Throws ScriptFailure for anything but a 2xx answer. */
export function getTool(request: Record<string, unknown>, options: HttpOptions): Promise<HttpAnswer> {
  return call('GET', request, null, options)
}

/**
 * Asks a service something by GET under the idempotency key of a mutation: `{ url, headers? }`. Throws ScriptFailure for
 * anything but a 2xx answer.
 */
export function askTool(
  request: Record<string, unknown>,
  idempotency_key: string,
  options: HttpOptions,
): Promise<HttpAnswer> {
  return call('GET', request, idempotency_key, options)
}

/**
 * Http.send of a script: `{ url, method, headers?, body? }`, with the idempotency key as a header. Throws ScriptFailure:
 * `request_sent: false` if it certainly never left, `http_status` for what was answered, and `answer` where the call
 * succeeded and only its answer makes no sense.
 */
export function sendTool(
  request: Record<string, unknown>,
  idempotency_key: string,
  options: HttpOptions,
): Promise<HttpAnswer> {
  const method = String(request.method ?? 'POST').toUpperCase()
  if (!METHODS.includes(method)) {
    return Promise.reject(notSent('logic', `Http.send takes ${METHODS.join(', ')}, not "${method}".`))
  }
  return call(method, request, idempotency_key, options)
}

async function call(
  method: string,
  request: Record<string, unknown>,
  idempotency_key: string | null,
  options: HttpOptions,
): Promise<HttpAnswer> {
  const started = performance.now()
  const url = urlOf(request)
  const host = url.host
  const { headers, body } = contentOf(method, request)
  const { filled, secrets } = await filledHeaders(headers, options)
  const timeout_ms = options.timeout_ms - (performance.now() - started)
  if (timeout_ms <= 0) throw notSent('network', `${host}: there was no time left to call it.`)
  let answer: Awaited<ReturnType<typeof requestPinned>>
  try {
    answer = await requestPinned(
      url.href,
      {
        method,
        headers: {
          accept: '*/*',
          'user-agent': 'rollcall-automations/1',
          ...filled,
          'accept-encoding': 'identity',
          ...(idempotency_key === null ? {} : { 'idempotency-key': idempotency_key }),
        },
        body,
        max_body_bytes: MAX_ANSWER,
      },
      {
        sockets: options.sockets,
        allow_private: options.allow_private,
        timeout_ms,
        signal: options.signal,
      },
    )
  } catch (error) {
    if (!(error instanceof PinnedError)) throw error
    const message = `${method} ${host}: ${error.message}`
    throw new ScriptFailure(error.refused ? 'logic' : 'network', message, {
      service: host,
      request_sent: error.sent,
      http_status: null,
    })
  }
  return read(method, host, answer, secrets)
}

function read(
  method: string,
  service: string,
  answer: Awaited<ReturnType<typeof requestPinned>>,
  secrets: string[],
): HttpAnswer {
  const what = `${method} ${service}`
  const { status, body, body_problem } = answer
  const headers = Object.fromEntries(
    Object.entries(answer.headers).map(([name, value]) => [name, withoutSecrets(value, secrets)]),
  )
  const fields = { service, request_sent: true, http_status: status }
  if (status < 200 || status > 299) {
    const more = status < 400 ? ' Redirects are not followed.' : ''
    throw new ScriptFailure(classOf(status), `${what}: answered ${status}.${more}`, fields)
  }
  // It succeeded, whatever is wrong with what was said about it.
  const known = { ...fields, answer: { status, headers, body: null } }
  if (body_problem === 'too large')
    throw new ScriptFailure('logic', `${what}: the answer is larger than 1 MB.`, known)
  if (body_problem === 'cut') throw new ScriptFailure('network', `${what}: the answer was cut off.`, known)
  const text = withoutSecrets(new TextDecoder().decode(body).replaceAll('\0', '\uFFFD'), secrets)
  if (!/\bjson\b/i.test(headers['content-type'] ?? '')) return { status, headers, body: text }
  if (text.trim() === '') return { status, headers, body: null }
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    throw new ScriptFailure('logic', `${what}: the answer says that it is JSON, and is not.`, known)
  }
  if (isDeeper(parsed, MAX_DEPTH))
    throw new ScriptFailure('logic', `${what}: the answer is nested more than ${MAX_DEPTH} deep.`, known)
  return { status, headers, body: parsed }
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((inner) => isDeeper(inner, levels - 1))
}

/** What a service has repeated of what it was sent is not for the script to see. */
function withoutSecrets(text: string, secrets: string[]): string {
  let blotted = text
  for (const secret of secrets) {
    if (secret.length < MIN_SECRET) continue
    for (const form of [secret, JSON.stringify(secret).slice(1, -1)])
      blotted = blotted.replaceAll(form, '[secret]')
  }
  return blotted
}

/** Whose fault an answer is. */
function classOf(status: number): ErrorClass {
  if (status === 401) return 'auth'
  if (status === 403) return 'permission'
  return status === 408 || status === 429 || status >= 500 ? 'network' : 'logic'
}

function urlOf({ url, query }: Record<string, unknown>): URL {
  if (typeof url !== 'string' || !URL.canParse(url)) throw notSent('logic', 'A call needs a url.')
  const parsed = new URL(url)
  if (parsed.username !== '' || parsed.password !== '') {
    throw notSent('logic', 'A url carries no credentials: put {{secret.NAME}} in a header.')
  }
  if (query === undefined || query === null) return parsed
  if (typeof query !== 'object' || Array.isArray(query)) throw notSent('logic', 'query must be an object.')
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined) parsed.searchParams.append(name, String(one))
    }
  }
  return parsed
}

function contentOf(
  method: string,
  request: Record<string, unknown>,
): { headers: Record<string, string>; body: string | null } {
  const given = request.headers ?? {}
  if (typeof given !== 'object' || Array.isArray(given)) throw notSent('logic', 'headers must be an object.')
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(given as Record<string, unknown>)) {
    const key = name.toLowerCase()
    if (!/^[a-z0-9!#$%&'*+.^_`|~-]+$/.test(key)) throw notSent('logic', `"${name}" is no name of a header.`)
    if (OURS.includes(key)) throw notSent('logic', `The header ${key} is not for scripts to set.`)
    if (value !== null && value !== undefined) headers[key] = String(value)
  }
  if (method === 'GET') return { headers, body: null }
  const { body } = request
  if (body === undefined || body === null) return { headers, body: '' }
  const type = typeof body === 'string' ? 'text/plain; charset=utf-8' : 'application/json'
  headers['content-type'] ??= type
  return { headers, body: typeof body === 'string' ? body : JSON.stringify(body) }
}

async function filledHeaders(
  headers: Record<string, string>,
  { secrets }: HttpOptions,
): Promise<{ filled: Record<string, string>; secrets: string[] }> {
  const names = Object.values(headers).flatMap((value) =>
    [...value.matchAll(SECRET)].map(([, name = '']) => name),
  )
  const known = names.length > 0 ? await secrets() : {}
  for (const name of names) {
    if (!Object.hasOwn(known, name)) {
      throw notSent('auth', `The secret ${name} is not set: set it, then resume the workflow.`)
    }
  }
  const entries = Object.entries(headers).map(([name, value]) => {
    const filled = value.replaceAll(SECRET, (_, secret: string) => (known[secret] ?? '').trim())
    // A line break would begin another header; what is beyond a byte can not be sent.
    if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(filled)) {
      throw notSent(
        value === filled ? 'logic' : 'auth',
        `The header ${name} has characters that no header can have.`,
      )
    }
    return [name, filled]
  })
  return { filled: Object.fromEntries(entries), secrets: names.map((name) => (known[name] ?? '').trim()) }
}

function notSent(error_class: ErrorClass, message: string): ScriptFailure {
  return new ScriptFailure(error_class, message, { request_sent: false, http_status: null })
}
