import type { RealtimeChannel } from '@supabase/supabase-js'

export type Heard = {
  event: string
  payload: Record<string, unknown>
  meta?: { id: string; replayed?: boolean }
}

/** Subscribes; resolves with the first status and, if it failed, why. */
export function subscribe(channel: RealtimeChannel): Promise<{ status: string; reason: string | undefined }> {
  return new Promise((resolve) => {
    channel.subscribe((status, error) => resolve({ status, reason: error?.message }))
  })
}

/** Every broadcast that the channel hears from now on. Call it before subscribing. */
export function listen(channel: RealtimeChannel): Heard[] {
  const heard: Heard[] = []
  channel.on('broadcast', { event: '*' }, (message) => heard.push(message as unknown as Heard))
  return heard
}

/** Every system message's text. Call it before subscribing. */
export function systemMessages(channel: RealtimeChannel): string[] {
  const messages: string[] = []
  channel.on('system', {}, ({ message }: { message: string }) => messages.push(message))
  return messages
}

export type RawSocket = {
  /** Everything received so far; binary frames as buffers. */
  frames: (string | Buffer)[]
  closed: Promise<number>
  send(frame: unknown): void
  close(): void
}

/** A bare WebSocket, for what the library hides. */
export function openRawSocket(api_url: string, vsn: string, api_key: string): Promise<RawSocket> {
  const url = `${api_url.replace('http', 'ws')}/realtime/v1/websocket?apikey=${api_key}&vsn=${vsn}`
  const socket = new WebSocket(url)
  socket.binaryType = 'arraybuffer'
  const frames: RawSocket['frames'] = []
  socket.onmessage = ({ data }) =>
    frames.push(typeof data === 'string' ? data : Buffer.from(data as ArrayBuffer))
  const closed = new Promise<number>((resolve) => {
    socket.onclose = ({ code }) => resolve(code)
  })
  return new Promise((resolve, reject) => {
    socket.onerror = () => reject(new Error('the socket did not open'))
    socket.onopen = () =>
      resolve({
        frames,
        closed,
        send: (frame) => socket.send(frame instanceof Uint8Array ? frame : JSON.stringify(frame)),
        close: () => socket.close(),
      })
  })
}
