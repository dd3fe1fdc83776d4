/** A message with its own event: its body travels as it is, whatever the receiver's protocol version. */
export type UserBroadcast = {
  event: string
  encoding: 'json' | 'binary'
  /** JSON text or the bytes themselves. */
  body: Buffer
  meta?: { id: string; replayed?: true }
}

/** A message that came as a text frame or over HTTP: the payload is passed on as the sender wrote it. */
export type PlainBroadcast = { payload: Record<string, unknown> }

export type Broadcast = UserBroadcast | PlainBroadcast

/** Public and private channels of one name are separate spaces. */
export function spaceOf(topic: string, is_private: boolean): string {
  return `${is_private ? 'private' : 'public'}:${topic}`
}
