/** More than any head of an answer needs, in bytes. */
const MAX_HEAD = 64 * 1024

/** The beginning of an answer. */
export interface AnswerHead {
  status: number
  /** Names in lower case; of several lines of a name, joined. */
  headers: Record<string, string>
}

export interface AnswerBody {
  body: Uint8Array
  /** Why it is not whole; null if it is. */
  body_problem: 'cut' | 'too large' | null
}

/** Reads one HTTP/1.1 answer from a connection, without trusting it. */
export class AnswerReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  /** What came and was not used yet. */
  #rest: Uint8Array = new Uint8Array()
  #is_in_body = false
  #is_cut = false

  constructor(reader: ReadableStreamDefaultReader<Uint8Array>) {
    this.#reader = reader
  }

  /** The head; null if the connection was closed before its end, a sentence where it is no HTTP. */
  async head(): Promise<AnswerHead | string | null> {
    for (;;) {
      const text = await this.#until('\r\n\r\n', MAX_HEAD)
      if (text === null) return this.#rest.length > MAX_HEAD ? 'The head of the answer is too long.' : null
      const [first = '', ...lines] = text.split('\r\n')
      const status = Number(/^HTTP\/1\.[01] ([1-5]\d\d)(?: |$)/.exec(first)?.[1])
      if (Number.isNaN(status)) return 'The answer is not HTTP.'
      // An interim answer, such as 103: the real one follows.
      if (status >= 200) return { status, headers: headersIn(lines) }
    }
  }

  /** The body that follows a head, as far as it goes. */
  async body({ status, headers }: AnswerHead, max_bytes: number): Promise<AnswerBody> {
    this.#is_in_body = true
    if (status === 204 || status === 304) return { body: new Uint8Array(), body_problem: null }
    const body = new Bytes(max_bytes)
    const end = (problem: AnswerBody['body_problem']): AnswerBody => ({
      body: body.joined(),
      body_problem: body.is_full ? 'too large' : problem,
    })
    if (/\bchunked\s*$/i.test(headers['transfer-encoding'] ?? '')) {
      for (;;) {
        const line = await this.#until('\r\n', 1024)
        const size = /^[0-9a-f]+/i.test(line ?? '') ? Number.parseInt(line ?? '', 16) : Number.NaN
        if (Number.isNaN(size)) return end('cut')
        if (size === 0) return end(null)
        const is_whole = await this.#take(size, body)
        if (body.is_full || !is_whole || (await this.#until('\r\n', 2)) !== '') return end('cut')
      }
    }
    const length = headers['content-length']
    if (length !== undefined && /^\d+$/.test(length)) {
      return end((await this.#take(Number(length), body)) ? null : 'cut')
    }
    await this.#take(Number.POSITIVE_INFINITY, body)
    // Ended by the end of the connection, unless that was its breaking.
    return end(this.#is_cut ? 'cut' : null)
  }

  /** What comes before a mark, which is taken too; null if the connection ends or too much comes before it does. */
  async #until(mark: string, max_bytes: number): Promise<string | null> {
    for (;;) {
      const at = placeOf(mark, this.#rest)
      if (at >= 0 && at <= max_bytes) {
        const text = new TextDecoder('latin1').decode(this.#rest.subarray(0, at))
        this.#rest = this.#rest.subarray(at + mark.length)
        return text
      }
      if (this.#rest.length > max_bytes || !(await this.#more())) return null
    }
  }

  /** Moves so many bytes into a body; false if there are fewer, or the body is full. */
  async #take(count: number, body: Bytes): Promise<boolean> {
    for (let left = count; left > 0; ) {
      if (this.#rest.length === 0 && !(await this.#more())) return false
      const part = this.#rest.subarray(0, Math.min(left, this.#rest.length))
      this.#rest = this.#rest.subarray(part.length)
      left -= part.length
      body.add(part)
      if (body.is_full) return false
    }
    return true
  }

  async #more(): Promise<boolean> {
    try {
      const { done, value } = await this.#reader.read()
      if (done || value === undefined) return false
      const joined = new Uint8Array(this.#rest.length + value.length)
      joined.set(this.#rest)
      joined.set(value, this.#rest.length)
      this.#rest = joined
      return true
    } catch (error) {
      // Of a body that was under way what came is kept; before it the reason is wanted.
      if (!this.#is_in_body) throw error
      this.#is_cut = true
      return false
    }
  }
}

/** What was read of a body, up to a limit. */
class Bytes {
  is_full = false
  readonly #max_bytes: number
  #bytes = new Uint8Array(4096)
  #length = 0

  constructor(max_bytes: number) {
    this.#max_bytes = max_bytes
  }

  add(part: Uint8Array): void {
    if (this.#length + part.length > this.#max_bytes) {
      this.is_full = true
      return
    }
    const length = this.#length + part.length
    if (length > this.#bytes.length) {
      // In one piece, however small the parts are in which it comes.
      const larger = new Uint8Array(Math.max(length, 2 * this.#bytes.length))
      larger.set(this.joined())
      this.#bytes = larger
    }
    this.#bytes.set(part, this.#length)
    this.#length = length
  }

  joined(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }
}

/** Where a mark of ASCII begins; -1 if it is not there. */
function placeOf(mark: string, bytes: Uint8Array): number {
  const codes = Array.from(mark, (letter) => letter.charCodeAt(0))
  for (let at = bytes.indexOf(codes[0] ?? 0); at >= 0; at = bytes.indexOf(codes[0] ?? 0, at + 1)) {
    if (codes.every((code, index) => bytes[at + index] === code)) return at
  }
  return -1
}

function headersIn(lines: string[]): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const line of lines) {
    const [, name = '', value = ''] = /^([^\s:]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? []
    const key = name.toLowerCase()
    // A name such as __proto__ is nobody's header.
    if (key === '' || key.startsWith('__')) continue
    headers[key] = headers[key] === undefined ? value : `${headers[key]}, ${value}`
  }
  return headers
}
