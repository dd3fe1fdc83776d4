/** A scripted person in the local room. */
export type Visitor = {
  name: string
  /** Who waits in the lobby now. */
  waiting(): Promise<{ guest_id: string; name: string }[]>
  admit(guest_id: string): Promise<void>
  say(text: string): Promise<void>
  /** Ends the meeting for everybody. */
  end(): Promise<void>
}

/** Enters a room as a person. @throws when the room refuses. */
export async function visit(room_url: string, name: string): Promise<Visitor> {
  const { secret } = await ask<{ secret: string }>(room_url, { body: { name } })
  type View = { waiting: { guest_id: string; name: string }[] }
  const view = () => ask<View>(`${room_url}/me`, { secret })
  const act = async (path: string, body: object) => {
    await ask(`${room_url}/${path}`, { secret, body })
  }
  return {
    name,
    waiting: async () => (await view()).waiting,
    admit: (guest_id) => act('admit', { guest_id }),
    say: (text) => act('messages', { text }),
    end: () => act('end', {}),
  }
}

async function ask<T>(url: string, options: { secret?: string; body?: object }): Promise<T> {
  const response = await fetch(url, {
    method: options.body ? 'POST' : 'GET',
    headers: {
      'content-type': 'application/json',
      ...(options.secret && { authorization: `Bearer ${options.secret}` }),
    },
    body: options.body ? JSON.stringify(options.body) : null,
    signal: AbortSignal.timeout(10_000),
  })
  const answer = (await response.json()) as T & { message?: string }
  if (!response.ok) throw new Error(`The room answers ${response.status}: ${answer.message ?? url}`)
  return answer
}
