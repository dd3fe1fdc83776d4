import ipaddr from 'ipaddr.js'
import { publicUrlProblem } from '../contract/public_url.ts'
import type { Sockets, Target } from './sockets.ts'

/** More than any head of an answer needs, in characters. */
const MAX_HEAD = 64 * 1024

/** What a receiver answered. Its body is never read. */
export interface PostAnswer {
  status: number
  /** What its Retry-After asks for, in seconds; null without one. */
  retry_after_s: number | null
}

/** A POST without an answer. `refused`: it was not sent, since its target may not be called. */
export class PostError extends Error {
  override name = 'PostError'
  readonly refused: boolean

  constructor(message: string, refused = false) {
    super(message)
    this.refused = refused
  }
}

export interface PostOptions {
  sockets: Sockets
  /** For everything together: the name, the connection and the head of the answer. */
  timeout_ms: number
  /** Lets targets be private, and plain http: for local development. */
  allow_private: boolean
}

/**
 * Posts to a URL that somebody else has given. The connection goes to the very address that was checked, so a name
 * that leads to a public address now and to a private one a moment later gains nothing; redirects are not followed.
 * `fetch` can not be told where to connect, so the few lines of HTTP/1.1 that this takes are here. Throws PostError.
 */
export async function postPinned(
  url: string,
  headers: Record<string, string>,
  body: string,
  options: PostOptions,
): Promise<PostAnswer> {
  if (!URL.canParse(url)) throw new PostError('Not sent. Not a URL.', true)
  const over = new AbortController()
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new PostError(`No answer within ${options.timeout_ms / 1000} s.`)),
      options.timeout_ms,
    )
  })
  const work = post(new URL(url), headers, body, options, over.signal)
  try {
    return await Promise.race([work, late])
  } catch (error) {
    throw error instanceof PostError ? error : new PostError(reason(error))
  } finally {
    clearTimeout(timer)
    over.abort()
    // What still goes on after a time-out fails, and nobody needs to know.
    work.catch(() => {})
  }
}

async function post(
  url: URL,
  headers: Record<string, string>,
  body: string,
  options: PostOptions,
  signal: AbortSignal,
): Promise<PostAnswer> {
  const target = await checkedTarget(url, options)
  signal.throwIfAborted()
  const connection = await options.sockets.open(target, signal)
  const close = () => connection.close()
  signal.addEventListener('abort', close)
  try {
    signal.throwIfAborted()
    // Whoever answers early need not read it to its end: the answer counts.
    connection.writable
      .getWriter()
      .write(request(url, headers, body))
      .catch(() => {})
    return await readAnswer(connection.readable.getReader())
  } finally {
    close()
  }
}

function request(url: URL, headers: Record<string, string>, body: string): Uint8Array {
  const content = new TextEncoder().encode(body)
  const lines = Object.entries({
    host: url.host,
    ...headers,
    'content-length': String(content.length),
    connection: 'close',
  }).map(([name, value]) => `${name}: ${value}\r\n`)
  const head = new TextEncoder().encode(`POST ${url.pathname}${url.search} HTTP/1.1\r\n${lines.join('')}\r\n`)
  const bytes = new Uint8Array(head.length + content.length)
  bytes.set(head)
  bytes.set(content, head.length)
  return bytes
}

async function checkedTarget(url: URL, { sockets, allow_private }: PostOptions): Promise<Target> {
  const problem = allow_private ? null : publicUrlProblem(url.href)
  if (problem !== null) throw new PostError(`Not sent. ${problem}`, true)
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const addresses = isAddress(host) ? [host] : await sockets.resolve(host)
  // IPv4 first: not every network that runs this has a way out over IPv6.
  const address = addresses.find((one) => ipaddr.IPv4.isValid(one)) ?? addresses[0]
  if (address === undefined) throw new PostError(`The name ${host} does not resolve.`)
  // One private address among public ones is as good a sign as any that something is tried.
  if (!allow_private && !addresses.every(isPublic)) {
    throw new PostError(`Not sent. The name ${host} leads to a private address.`, true)
  }
  const secure = url.protocol === 'https:'
  return { address, port: Number(url.port || (secure ? 443 : 80)), server_name: secure ? host : null }
}

function isAddress(host: string): boolean {
  return ipaddr.IPv4.isValidFourPartDecimal(host) || ipaddr.IPv6.isValid(host)
}

function isPublic(address: string): boolean {
  return publicUrlProblem(`https://${ipaddr.IPv6.isValid(address) ? `[${address}]` : address}/`) === null
}

async function readAnswer(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<PostAnswer> {
  const decoder = new TextDecoder('latin1')
  let head = ''
  for (;;) {
    const end = head.indexOf('\r\n\r\n')
    if (end < 0) {
      const { done, value } = await reader.read()
      if (done) throw new PostError('The connection was closed without an answer.')
      head += decoder.decode(value, { stream: true })
      if (head.length > MAX_HEAD) throw new PostError('The head of the answer is too long.')
      continue
    }
    const [first = '', ...lines] = head.slice(0, end).split('\r\n')
    const status = Number(/^HTTP\/1\.[01] ([1-5]\d\d)(?: |$)/.exec(first)?.[1])
    if (Number.isNaN(status)) throw new PostError('The answer is not HTTP.')
    if (status >= 200) return { status, retry_after_s: retryAfter(lines) }
    // An interim answer, such as 103: the real one follows.
    head = head.slice(end + 4)
  }
}

function retryAfter(lines: string[]): number | null {
  const text = lines.flatMap((line) => /^retry-after:\s*(.*?)\s*$/i.exec(line)?.[1] ?? [])[0]
  if (text === undefined) return null
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000
  return Number.isFinite(seconds) && seconds > 0 ? seconds : null
}

/** A failure in words that tell the owner of the receiver what to look at. */
function reason(error: unknown): string {
  const { code, name, message } = error as { code?: string; name?: string; message?: string }
  if (code === 'ECONNREFUSED' || name === 'ConnectionRefused') return 'The connection was refused.'
  if (
    ['ECONNRESET', 'EPIPE'].includes(code ?? '') ||
    ['ConnectionReset', 'BrokenPipe'].includes(name ?? '')
  ) {
    return 'The connection was cut.'
  }
  return `The receiver can not be reached: ${message}`.slice(0, 300)
}
