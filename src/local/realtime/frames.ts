import type { Broadcast, UserBroadcast } from './broadcast.ts'

/** Versions of the wire protocol: objects as text, or arrays as text plus binary frames. */
export type Vsn = '1.0.0' | '2.0.0'

export type Frame = string | Buffer

export type ClientMessage = {
  join_ref: string | null
  ref: string | null
  topic: string
  event: string
  payload: Record<string, unknown>
  /** Set when the message came as a binary user broadcast. */
  broadcast?: UserBroadcast
}

export type ServerMessage = {
  join_ref: string | null
  ref: string | null
  topic: string
  event: string
  payload: unknown
}

const user_broadcast_push = 3
const user_broadcast = 4
const json_encoding = 1

/** Reads the client's version; undefined for one that the service does not speak. */
export function parseVsn(text: string | null): Vsn | undefined {
  if (text === null || text.startsWith('1.0.')) return '1.0.0'
  return text.startsWith('2.0.') ? '2.0.0' : undefined
}

/**
 * Reads a frame from a client.
 * @throws when it is no message of that version.
 */
export function decodeFrame(vsn: Vsn, data: Buffer, is_binary: boolean): ClientMessage {
  if (is_binary && vsn === '2.0.0') return decodeUserBroadcastPush(data)
  const message: unknown = JSON.parse(data.toString('utf8'))
  if (vsn === '2.0.0') {
    if (!Array.isArray(message) || message.length < 5) throw new Error('expected a 2.0.0 array')
    const [join_ref, ref, topic, event, payload] = message
    return checked({ join_ref, ref, topic, event, payload })
  }
  if (!isObject(message)) throw new Error('expected a 1.0.0 object')
  const { join_ref, ref, topic, event, payload } = message
  return checked({ join_ref, ref, topic, event, payload })
}

function checked(message: Record<string, unknown>): ClientMessage {
  const { topic, event, payload } = message
  if (typeof topic !== 'string' || typeof event !== 'string')
    throw new Error('a message needs a topic and an event')
  return {
    join_ref: refOf(message.join_ref),
    ref: refOf(message.ref),
    topic,
    event,
    payload: isObject(payload) ? payload : {},
  }
}

function refOf(ref: unknown): string | null {
  return ref === null || ref === undefined ? null : String(ref)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Kind 3: seven bytes of kind, sizes and encoding, then the fields, then the body. */
function decodeUserBroadcastPush(data: Buffer): ClientMessage {
  if (data[0] !== user_broadcast_push || data.length < 7)
    throw new Error(`unexpected binary frame of kind ${data[0]}`)
  const sizes = data.subarray(1, 6)
  let at = 7
  const [join_ref = '', ref = '', topic = '', event = ''] = Array.from(sizes, (size) => {
    at += size
    return data.toString('utf8', at - size, at)
  })
  return {
    join_ref: join_ref || null,
    ref: ref || null,
    topic,
    event: 'broadcast',
    payload: {},
    broadcast: { event, encoding: data[6] === json_encoding ? 'json' : 'binary', body: data.subarray(at) },
  }
}

/** Writes a message of the server. */
export function encodeMessage(vsn: Vsn, message: ServerMessage): string {
  const { join_ref, ref, topic, event, payload } = message
  if (vsn === '2.0.0') return JSON.stringify([join_ref, ref, topic, event, payload])
  return JSON.stringify({ topic, event, payload, ref })
}

/** Writes a broadcast; undefined when this version has no form for it. */
export function encodeBroadcast(vsn: Vsn, topic: string, broadcast: Broadcast): Frame | undefined {
  if ('payload' in broadcast) {
    return encodeMessage(vsn, {
      join_ref: null,
      ref: null,
      topic,
      event: 'broadcast',
      payload: broadcast.payload,
    })
  }
  return vsn === '2.0.0' ? encodeUserBroadcast(topic, broadcast) : encodeUserBroadcastAsText(topic, broadcast)
}

/** Kind 4: five bytes of kind, sizes and encoding, then the fields, then the body. */
function encodeUserBroadcast(
  topic: string,
  { event, encoding, body, meta }: UserBroadcast,
): Buffer | undefined {
  const fields = [topic, event, meta ? JSON.stringify(meta) : ''].map((field) => Buffer.from(field, 'utf8'))
  if (fields.some(({ length }) => length > 255)) return undefined
  const sizes = fields.map(({ length }) => length)
  return Buffer.concat([
    Buffer.from([user_broadcast, ...sizes, encoding === 'json' ? json_encoding : 0]),
    ...fields,
    body,
  ])
}

function encodeUserBroadcastAsText(
  topic: string,
  { event, encoding, body, meta }: UserBroadcast,
): string | undefined {
  if (encoding === 'binary') return undefined
  const tail = meta ? `,"meta":${JSON.stringify(meta)}` : ''
  // The body is JSON text already: parsing it to write it again would only cost time and precision.
  const payload = `{"event":${JSON.stringify(event)},"payload":${body.toString('utf8')},"type":"broadcast"${tail}}`
  return `{"topic":${JSON.stringify(topic)},"event":"broadcast","payload":${payload},"ref":null}`
}
