import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { z } from 'zod'
import { signGuestToken } from './guest_token.ts'
import { type Guest, type Hint, Meeting, RoomError } from './meeting.ts'

export type RoomOptions = {
  /** The gateway: where Realtime is, and where the room is served under /room. */
  api_url: string
  jwt_secret: string
  /** The `kid` under which the JWKS holds the secret. */
  kid?: string
  publishable_key: string
  /** Sends the room's broadcasts. */
  secret_key: string
}

export type Room = {
  /** Serves everything under /room. */
  fetch(request: Request): Promise<Response>
  /** Resolves when nothing is under way any more. */
  close(): Promise<void>
}

const Text = (max: number) =>
  z
    .string()
    .trim()
    .min(1)
    .max(max)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
    .regex(/^[^\u0000-\u0008\u000b-\u001f\u007f]*$/, 'must not have control characters')

const EnterRequest = z.object({
  name: Text(80).default('Guest'),
  kind: z.enum(['person', 'bot']).default('person'),
  passcode: Text(80).nullish(),
})
const SayRequest = z.object({ text: Text(4000) })
const ChoiceRequest = z.object({ guest_id: z.uuid() })

/** An id is what join accepts: 1 to 255 characters without control characters, blanks or `?#&=/`. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const RoomId = z.string().regex(/^[^\u0000-\u0020\u007f\u0085\u00a0?#&=/]{1,255}$/)

const page = readFileSync(join(import.meta.dirname, 'room.html'), 'utf8')

/**
 * The meeting platform of the demo: rooms in memory, made on the first visit (`?lobby=off` for no lobby,
 * `?passcode=` to want one), with a page for people and a JSON API that people and bots share.
 */
export function createRoom(options: RoomOptions): Room {
  const meetings = new Map<string, Meeting>()
  const sending = new Set<Promise<unknown>>()
  const page_headers = {
    'content-security-policy': contentSecurityPolicy(page, options.api_url),
    'referrer-policy': 'no-referrer',
  }
  const key = { jwt_secret: options.jwt_secret, kid: options.kid ?? 'local' }

  const send = (meeting: Meeting, hint: Hint) => {
    const topic = hint.to === 'room' ? `room:${meeting.id}` : `room:${meeting.id}:${hint.to.id}`
    const messages = [{ topic, event: hint.event, payload: hint.payload, private: true }]
    // Only a hint: who misses it reads on at the next look, so a failure is nobody's problem.
    const sent = fetch(`${options.api_url}/realtime/v1/api/broadcast`, {
      method: 'POST',
      headers: { apikey: options.secret_key, 'content-type': 'application/json' },
      body: JSON.stringify({ messages }),
      signal: AbortSignal.timeout(5_000),
    })
      .then((response) => response.body?.cancel())
      .catch(() => {})
    sending.add(sent)
    void sent.finally(() => sending.delete(sent))
  }

  const open = (id: string, query: URLSearchParams) => {
    const passcode = query.get('passcode') || null
    const meeting: Meeting = new Meeting({ lobby: query.get('lobby') !== 'off', passcode }, (hint) =>
      send(meeting, hint),
    )
    meetings.set(id, meeting)
    return meeting
  }

  const meetingOf = (c: Context) => {
    const meeting = meetings.get(roomId(c))
    if (!meeting) throw new RoomError(404, 'room_not_found', 'Nobody has been in this room yet.')
    return meeting
  }

  const guestOf = (c: Context) => {
    const meeting = meetingOf(c)
    const secret = /^Bearer (.+)$/i.exec(c.req.header('authorization') ?? '')?.[1] ?? ''
    const guest = meeting.guestOf(secret)
    if (!guest) throw new RoomError(401, 'unknown_guest', 'This is no guest of the meeting.')
    return { meeting, guest }
  }

  /** All that a guest needs to know of the room now. */
  const viewFor = async (meeting: Meeting, guest: Guest, after: number) => ({
    guest_id: guest.id,
    standing: guest.standing,
    // A guest who looks rarely may see the end before the beginning.
    was_in: Number.isFinite(guest.admitted_after),
    ...(await signGuestToken(meeting.id, guest, key)),
    host: guest.standing === 'admitted' && guest.kind === 'person',
    inside: guest.standing === 'admitted' ? meeting.inside().map(shown) : [],
    waiting: guest.standing === 'admitted' && guest.kind === 'person' ? meeting.waiting().map(shown) : [],
    messages: meeting.heardBy(guest, after),
  })

  const api = new Hono()
  api.onError((error, c) => {
    if (error instanceof RoomError) return c.json({ code: error.code, message: error.message }, error.status)
    return c.json({ code: 'internal', message: error.message }, 500)
  })
  api.notFound((c) => c.json({ code: 'not_found', message: 'There is nothing at this address.' }, 404))
  api.use(bodyLimit({ maxSize: 64 * 1024 }))

  api.get('/room', (c) => c.html(page, 200, page_headers))
  api.get('/room/', (c) => c.redirect('/room'))
  api.get('/room/assets/supabase.js', (c) =>
    c.body(supabaseBundle(), 200, { 'content-type': 'text/javascript', 'cache-control': 'no-cache' }),
  )

  api.get('/room/:id', (c) => {
    const id = roomId(c)
    if (c.req.header('accept')?.includes('text/html')) return c.html(page, 200, page_headers)
    const meeting = meetings.get(id)
    return c.json({
      room_id: id,
      open: meeting !== undefined && !meeting.ended,
      lobby: meeting?.lobby ?? true,
      wants_passcode: meeting ? meeting.passcode !== null : false,
      inside: meeting?.inside().length ?? 0,
    })
  })

  api.post('/room/:id', async (c) => {
    const id = roomId(c)
    const request = parse(EnterRequest, await json(c))
    const query = new URL(c.req.url).searchParams
    const found = meetings.get(id)
    // People may meet again in a room; a bot that comes after the end came too late.
    const meeting = found && !(found.ended && request.kind === 'person') ? found : open(id, query)
    const guest = meeting.enter(request.name, request.kind, request.passcode ?? query.get('passcode'))
    const url = `${options.api_url}/room/${encodeURIComponent(id)}`
    return c.json(
      {
        room_id: id,
        secret: guest.secret,
        api_url: options.api_url,
        publishable_key: options.publishable_key,
        topics: { room: `room:${meeting.id}`, guest: `room:${meeting.id}:${guest.id}` },
        urls: { me: `${url}/me`, messages: `${url}/messages`, leave: `${url}/leave` },
        ...(await viewFor(meeting, guest, 0)),
      },
      201,
    )
  })

  api.get('/room/:id/me', async (c) => {
    const { meeting, guest } = guestOf(c)
    const after = Number(c.req.query('after') ?? 0)
    if (!Number.isSafeInteger(after) || after < 0) {
      throw new RoomError(422, 'invalid_request', 'after: must be the seq of a message, or 0.')
    }
    return c.json(await viewFor(meeting, guest, after))
  })
  api.post('/room/:id/messages', async (c) => {
    const { meeting, guest } = guestOf(c)
    return c.json(meeting.say(guest, parse(SayRequest, await json(c)).text), 201)
  })
  for (const act of ['admit', 'reject', 'evict'] as const) {
    api.post(`/room/:id/${act}`, async (c) => {
      const { meeting, guest } = guestOf(c)
      meeting[act](guest, parse(ChoiceRequest, await json(c)).guest_id)
      return c.json({ ok: true })
    })
  }
  for (const act of ['leave', 'end'] as const) {
    api.post(`/room/:id/${act}`, (c) => {
      const { meeting, guest } = guestOf(c)
      meeting[act](guest)
      return c.json({ ok: true })
    })
  }

  return {
    fetch: async (request) => api.fetch(request),
    async close() {
      await Promise.all(sending)
    },
  }
}

function shown(guest: Guest): { guest_id: string; name: string; kind: string } {
  return { guest_id: guest.id, name: guest.name, kind: guest.kind }
}

function roomId(c: Context): string {
  const id = RoomId.safeParse(c.req.param('id'))
  if (!id.success) throw new RoomError(404, 'room_not_found', 'A room has a name without blanks or ?#&=/.')
  return id.data
}

async function json(c: Context): Promise<unknown> {
  try {
    return await c.req.json()
  } catch {
    throw new RoomError(400, 'invalid_json', 'The body must be a JSON object.')
  }
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new RoomError(422, 'invalid_request', `${issue?.path.join('.') || 'body'}: ${issue?.message}`)
}

/** supabase-js for browsers, as its package brings it. */
function supabaseBundle(): string {
  const module_path = fileURLToPath(import.meta.resolve('@supabase/supabase-js'))
  return readFileSync(join(module_path, '../../dist/umd/supabase.js'), 'utf8')
}

/** The page's own inline script and style, the library served here, and the gateway's Realtime. */
function contentSecurityPolicy(html: string, api_url: string): string {
  const hashes = (tag: string) =>
    [...html.matchAll(new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`, 'g'))].map(
      ([, text]) =>
        `'sha256-${createHash('sha256')
          .update(text ?? '')
          .digest('base64')}'`,
    )
  return [
    "default-src 'none'",
    `script-src 'self' ${hashes('script').join(' ')}`,
    `style-src ${hashes('style').join(' ')}`,
    `connect-src 'self' ${api_url.replace(/^http/, 'ws')}`,
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
}
