/** What the room answers a guest. */
export type RoomView = {
  guest_id: string
  standing: string
  token: string
  host: boolean
  inside: { guest_id: string; name: string; kind: string }[]
  waiting: { guest_id: string; name: string; kind: string }[]
  messages: { seq: number; guest_id: string; name: string; kind: string; text: string; at: string }[]
}

export type RoomAnswer<T = { code: string; message: string }> = { status: number; body: T }

/** Someone at the door of a room or inside, over the JSON API that the page uses. */
export type RoomGuest = RoomView & {
  secret: string
  api_url: string
  publishable_key: string
  topics: { room: string; guest: string }
  look(after?: number): Promise<RoomView>
  act(path: string, body?: unknown): Promise<RoomAnswer>
  say(text: string): Promise<RoomAnswer>
}

async function ask<T>(url: string, body?: unknown, secret?: string): Promise<RoomAnswer<T>> {
  const response = await fetch(url, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { 'content-type': 'application/json', ...(secret && { authorization: `Bearer ${secret}` }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  return { status: response.status, body: (await response.json()) as T }
}

/** What knocking at a room's door answers. */
export function knock(room_url: string, body: Record<string, unknown>): Promise<RoomAnswer> {
  return ask(room_url, body)
}

/** Enters a room, or its lobby. */
export async function enter(room_url: string, name: string, more: object = {}): Promise<RoomGuest> {
  const { status, body } = await ask<RoomGuest>(room_url, { name, ...more })
  if (status !== 201) throw new Error(`The door answers ${status}: ${JSON.stringify(body)}`)
  const base = room_url.split('?')[0]
  return {
    ...body,
    async look(after = 0) {
      return (await ask<RoomView>(`${base}/me?after=${after}`, undefined, body.secret)).body
    },
    act: (path, request = {}) => ask(`${base}/${path}`, request, body.secret),
    say: (text) => ask(`${base}/messages`, { text }, body.secret),
  }
}
