import ipaddr from 'ipaddr.js'
import { publicUrlProblem } from '../contract/public_url.ts'
import { type AnswerBody, type AnswerHead, AnswerReader } from './http_answer.ts'
import type { Sockets, Target } from './sockets.ts'

export interface PinnedRequest {
  method: string
  headers: Record<string, string>
  /** Null: none, not even an empty one. */
  body: string | null
  /** How much of the answer's body is read, in bytes; 0: nothing of it. */
  max_body_bytes: number
}

export interface PinnedAnswer extends AnswerHead, AnswerBody {}

export interface PinnedFields {
  /** It was not sent, since its target may not be called. */
  refused?: boolean
  /** Something of it may have left. */
  sent?: boolean
}

/** A request without an answer. */
export class PinnedError extends Error {
  override name = 'PinnedError'
  readonly refused: boolean
  readonly sent: boolean

  constructor(message: string, { refused = false, sent = false }: PinnedFields = {}) {
    super(message)
    this.refused = refused
    this.sent = sent
  }
}

export interface PinnedOptions {
  sockets: Sockets
  /** For everything together: the name, the connection and the answer. */
  timeout_ms: number
  /** Lets targets be private, and plain http: for local development. */
  allow_private: boolean
  /** Ends it early. */
  signal?: AbortSignal
}

/** How far a request has come. */
interface Progress {
  sent: boolean
  head: AnswerHead | null
}

/**
 * Sends a request to a URL that somebody else has given. The connection goes to the very address that was checked, so
 * a name that leads to a public address now and to a private one a moment later gains nothing; redirects are not
 * followed. `fetch` can not be told where to connect, so the HTTP/1.1 that this takes is here. Throws PinnedError.
 */
export async function requestPinned(
  url: string,
  request: PinnedRequest,
  options: PinnedOptions,
): Promise<PinnedAnswer> {
  if (!URL.canParse(url)) throw new PinnedError('Not sent. Not a URL.', { refused: true })
  const over = new AbortController()
  const progress: Progress = { sent: false, head: null }
  let late: () => void = () => {}
  let give_up: () => void = () => {}
  const ended = new Promise<PinnedAnswer>((done, fail) => {
    late = () => {
      // A head that came is an answer, whatever became of its body.
      if (progress.head !== null) done({ ...progress.head, body: new Uint8Array(), body_problem: 'cut' })
      else fail(new PinnedError(`No answer within ${options.timeout_ms / 1000} s.`, progress))
    }
    give_up = () => fail(new PinnedError('It was given up.', progress))
  })
  const timer = setTimeout(() => late(), options.timeout_ms)
  options.signal?.addEventListener('abort', give_up)
  if (options.signal?.aborted) give_up()
  const work = send(new URL(url), request, options, progress, over.signal)
  try {
    return await Promise.race([work, ended])
  } catch (error) {
    throw error instanceof PinnedError ? error : new PinnedError(reason(error), progress)
  } finally {
    clearTimeout(timer)
    options.signal?.removeEventListener('abort', give_up)
    over.abort()
    // What still goes on after a time-out fails, and nobody needs to know.
    work.catch(() => {})
    ended.catch(() => {})
  }
}

async function send(
  url: URL,
  request: PinnedRequest,
  options: PinnedOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<PinnedAnswer> {
  const target = await checkedTarget(url, options)
  signal.throwIfAborted()
  const connection = await options.sockets.open(target, signal)
  const close = () => connection.close()
  signal.addEventListener('abort', close)
  try {
    signal.throwIfAborted()
    progress.sent = true
    // Whoever answers early need not read it to its end: the answer counts.
    connection.writable
      .getWriter()
      .write(bytesOf(url, request))
      .catch(() => {})
    const reader = new AnswerReader(connection.readable.getReader())
    const head = await reader.head()
    if (head === null) throw new PinnedError('The connection was closed without an answer.', progress)
    if (typeof head === 'string') throw new PinnedError(head, progress)
    progress.head = head
    if (request.max_body_bytes === 0) return { ...head, body: new Uint8Array(), body_problem: null }
    return { ...head, ...(await reader.body(head, request.max_body_bytes)) }
  } finally {
    close()
  }
}

function bytesOf(url: URL, { method, headers, body }: PinnedRequest): Uint8Array {
  const content = new TextEncoder().encode(body ?? '')
  const lines = Object.entries({
    host: url.host,
    ...headers,
    ...(body === null ? {} : { 'content-length': String(content.length) }),
    connection: 'close',
  }).map(([name, value]) => `${name}: ${value}\r\n`)
  const head = new TextEncoder().encode(
    `${method} ${url.pathname}${url.search} HTTP/1.1\r\n${lines.join('')}\r\n`,
  )
  const bytes = new Uint8Array(head.length + content.length)
  bytes.set(head)
  bytes.set(content, head.length)
  return bytes
}

async function checkedTarget(url: URL, { sockets, allow_private }: PinnedOptions): Promise<Target> {
  const secure = url.protocol === 'https:'
  const problem = allow_private
    ? secure || url.protocol === 'http:'
      ? null
      : 'The URL must begin with https:// or http://.'
    : publicUrlProblem(url.href)
  if (problem !== null) throw new PinnedError(`Not sent. ${problem}`, { refused: true })
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const addresses = isAddress(host) ? [host] : await sockets.resolve(host)
  // IPv4 first: not every network that runs this has a way out over IPv6.
  const address = addresses.find((one) => ipaddr.IPv4.isValid(one)) ?? addresses[0]
  if (address === undefined) throw new PinnedError(`The name ${host} does not resolve.`)
  // One private address among public ones is as good a sign as any that something is tried.
  if (!allow_private && !addresses.every(isPublic)) {
    throw new PinnedError(`Not sent. The name ${host} leads to a private address.`, { refused: true })
  }
  return { address, port: Number(url.port || (secure ? 443 : 80)), server_name: secure ? host : null }
}

function isAddress(host: string): boolean {
  return ipaddr.IPv4.isValidFourPartDecimal(host) || ipaddr.IPv6.isValid(host)
}

function isPublic(address: string): boolean {
  return publicUrlProblem(`https://${ipaddr.IPv6.isValid(address) ? `[${address}]` : address}/`) === null
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
