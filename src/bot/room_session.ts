import { setTimeout as pause } from 'node:timers/promises'
import { createClient, type RealtimeChannel, type SupabaseClient } from '@supabase/supabase-js'
import { z } from 'zod'

const Message = z.object({ seq: z.int(), name: z.string(), text: z.string(), at: z.string() })

const View = z.object({
  guest_id: z.string(),
  standing: z.enum(['waiting', 'admitted', 'rejected', 'evicted', 'left', 'ended']),
  /** Whether the guest is or was in the room. */
  was_in: z.boolean(),
  token: z.string(),
  inside: z.array(z.object({ guest_id: z.string(), kind: z.enum(['person', 'bot']) })),
  messages: z.array(Message),
})

const Entry = View.extend({
  secret: z.string(),
  api_url: z.url(),
  publishable_key: z.string(),
  topics: z.object({ room: z.string(), guest: z.string() }),
  urls: z.object({ me: z.url(), leave: z.url() }),
})

export type Message = z.infer<typeof Message>
type View = z.infer<typeof View>
type Entry = z.infer<typeof Entry>

/** Why a stay is over. */
export type Over = Exclude<View['standing'], 'waiting' | 'admitted'>

/** What the room has to tell a bot. */
export type RoomListener = {
  onWaiting(): void
  /** Also when the bot hears of it only after the end. */
  onAdmitted(): void
  onOver(how: Over): void
  /** Each message once, in order. */
  onMessage(message: Message): void
  /** Who is in now: everybody, the bot too, and the people among them. */
  onPeople(count: number, people: number): void
  /** The room has not answered for two minutes. */
  onLost(): void
}

/** The room would not have the bot: `status` is its HTTP answer, null when there was none within a minute. */
export class EntryError extends Error {
  readonly status: number | null
  constructor(status: number | null, message: string) {
    super(message)
    this.status = status
  }
}

const ENTER_WITHIN_MS = 60_000
const READ_EVERY_MS = 2_000
const LOST_AFTER_MS = 120_000

/** Knocks at the door of a room. @throws {EntryError} when it is refused or nobody answers. */
export async function enterRoom(
  meeting_url: string,
  guest: { name: string; passcode: string | null },
  signal: AbortSignal,
): Promise<Entry> {
  const deadline = Date.now() + ENTER_WITHIN_MS
  for (let wait_ms = 250; ; wait_ms = Math.min(wait_ms * 2, 5_000)) {
    const answer = await request(meeting_url, { ...guest, kind: 'bot' })
    if (answer.status === 201) return Entry.parse(answer.body)
    const passing = answer.status === null || answer.status >= 500 || answer.status === 429
    if (!passing || Date.now() + wait_ms > deadline || signal.aborted) {
      throw new EntryError(answer.status, String(answer.body.message ?? 'The room does not answer.'))
    }
    await pause(wait_ms)
  }
}

/**
 * A bot's stay in a room, from the lobby on. What Realtime pushes is a hint; what counts is what the room
 * answers, asked at every hint and every two seconds.
 */
export class RoomSession {
  readonly #entry: Entry
  readonly #name: string
  readonly #listener: RoomListener
  readonly #client: SupabaseClient
  readonly #timer: NodeJS.Timeout
  #view: View
  #last_seq = 0
  #answered_at = Date.now()
  #reading: Promise<void> | null = null
  #read_again = false
  #guest_channel: RealtimeChannel | null = null
  #room_channel: RealtimeChannel | null = null
  #closed = false

  constructor(entry: Entry, name: string, listener: RoomListener) {
    this.#entry = entry
    this.#view = entry
    this.#name = name
    this.#listener = listener
    this.#client = createClient(entry.api_url, entry.publishable_key, {
      accessToken: async () => this.#view.token,
      auth: { persistSession: false },
    })
    this.#timer = setInterval(() => this.#read(), READ_EVERY_MS)
    this.#apply(entry)
    void this.#listen()
  }

  /** Leaves the room and lets go of everything. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearInterval(this.#timer)
    await this.#reading
    // What was said until the very end belongs to the transcript.
    await this.#readOnce()
    await request(this.#entry.urls.leave, {}, this.#entry.secret)
    await this.#client.removeAllChannels()
    await this.#client.realtime.disconnect()
  }

  #read(): void {
    if (this.#closed) return
    if (this.#reading) {
      this.#read_again = true
      return
    }
    this.#reading = this.#readOnce().finally(() => {
      this.#reading = null
      if (this.#read_again) {
        this.#read_again = false
        this.#read()
      }
    })
  }

  async #readOnce(): Promise<void> {
    const answer = await request(
      `${this.#entry.urls.me}?after=${this.#last_seq}`,
      undefined,
      this.#entry.secret,
    )
    if (answer.status === 200) {
      this.#answered_at = Date.now()
      this.#apply(View.parse(answer.body))
      await this.#listen()
    } else if (answer.status === 401 || answer.status === 404) {
      // The room was started anew and knows nobody any more.
      this.#apply({ ...this.#view, standing: 'ended', messages: [] })
    } else if (Date.now() - this.#answered_at > LOST_AFTER_MS) {
      this.#listener.onLost()
    }
  }

  #apply(view: View): void {
    const before = view === this.#entry ? null : this.#view
    this.#view = view
    const changed = view.standing !== before?.standing
    if (changed && view.standing === 'waiting') this.#listener.onWaiting()
    if (view.was_in && !before?.was_in) this.#listener.onAdmitted()
    for (const message of view.messages) this.#hear(message)
    if (view.standing === 'admitted') {
      const people = view.inside.filter((guest) => guest.kind === 'person')
      this.#listener.onPeople(view.inside.length, people.length)
    } else if (changed && view.standing !== 'waiting') {
      this.#listener.onOver(view.standing)
    }
  }

  #hear(message: Message): void {
    if (message.seq <= this.#last_seq) return
    this.#last_seq = message.seq
    this.#listener.onMessage(message)
  }

  /** Joins the channels that the bot may hear and is not on; also again after the server closed one. */
  async #listen(): Promise<void> {
    // First, so that a private join carries a token that says whether the bot is in.
    await this.#client.realtime.setAuth()
    if (this.#closed) return
    if (isGone(this.#guest_channel)) {
      this.#guest_channel = this.#client
        .channel(this.#entry.topics.guest, { config: { private: true } })
        .on('broadcast', { event: 'standing' }, () => this.#read())
        .subscribe((status) => status === 'SUBSCRIBED' && this.#read())
    }
    if (this.#view.standing === 'admitted' && isGone(this.#room_channel)) {
      const presence = { key: this.#entry.guest_id }
      const channel = this.#client.channel(this.#entry.topics.room, { config: { private: true, presence } })
      this.#room_channel = channel
        .on('broadcast', { event: 'roster' }, () => this.#read())
        .on('broadcast', { event: 'message' }, ({ payload }) => this.#hearPush(payload))
        .subscribe((status) => {
          if (status !== 'SUBSCRIBED') return
          void channel.track({ name: this.#name, kind: 'bot' })
          this.#read()
        })
    }
  }

  /** The next message may come by push alone; after a gap the room is asked. */
  #hearPush(payload: unknown): void {
    const message = Message.safeParse(payload)
    if (message.success && message.data.seq === this.#last_seq + 1) this.#hear(message.data)
    else this.#read()
  }
}

function isGone(channel: RealtimeChannel | null): boolean {
  return channel === null || channel.state === 'closed'
}

async function request(
  url: string,
  body: Record<string, unknown> | undefined,
  secret?: string,
): Promise<{ status: number | null; body: Record<string, unknown> }> {
  try {
    const response = await fetch(url, {
      method: body === undefined ? 'GET' : 'POST',
      headers: {
        accept: 'application/json',
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(secret === undefined ? {} : { authorization: `Bearer ${secret}` }),
      },
      body: body === undefined ? null : JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    })
    const answer: unknown = await response.json().catch(() => null)
    return { status: response.status, body: (answer ?? {}) as Record<string, unknown> }
  } catch {
    return { status: null, body: {} }
  }
}
