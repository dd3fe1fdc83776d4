import { randomBytes, randomUUID } from 'node:crypto'

/** Where a guest stands: two open states and four final ones. */
export type Standing = 'waiting' | 'admitted' | 'rejected' | 'evicted' | 'left' | 'ended'

export type GuestKind = 'person' | 'bot'

export type Guest = {
  id: string
  /** What the guest's own requests carry; only the guest knows it. */
  secret: string
  name: string
  kind: GuestKind
  standing: Standing
  /** Messages up to this one were said before the guest was in the room. */
  admitted_after: number
  /** Messages after this one were said when the guest was out again; null while they are in or waiting. */
  left_after: number | null
  /** When the guest last asked for anything, in ms since the epoch. */
  seen_at: number
}

/** One thing that somebody said; `seq` counts from 1 without gaps. */
export type Message = {
  seq: number
  guest_id: string
  name: string
  kind: GuestKind
  text: string
  at: string
}

/** What there is to tell: to all in the room, or to one guest. */
export type Hint =
  | { to: 'room'; event: 'message'; payload: Message }
  | { to: 'room'; event: 'roster'; payload: Record<string, never> }
  | { to: Guest; event: 'standing'; payload: { standing: Standing } }

/** A refusal, with the HTTP status that says it. */
export class RoomError extends Error {
  readonly status: 400 | 401 | 403 | 404 | 409 | 410 | 422
  readonly code: string
  constructor(status: RoomError['status'], code: string, message: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

/** Background tabs may run their timers once a minute only: silence means gone after a bit more than that. */
const GONE_AFTER_MS = 90_000

/** One meeting in a room, from the first visit to its end. It alone knows who waits, who is in and who is out. */
export class Meeting {
  readonly id = randomUUID()
  readonly lobby: boolean
  readonly passcode: string | null
  ended = false
  readonly #guests = new Map<string, Guest>()
  readonly #messages: Message[] = []
  readonly #tell: (hint: Hint) => void
  readonly #now: () => number

  constructor(
    options: { lobby: boolean; passcode: string | null },
    tell: (hint: Hint) => void,
    now: () => number = Date.now,
  ) {
    this.lobby = options.lobby
    this.passcode = options.passcode
    this.#tell = tell
    this.#now = now
  }

  /** Someone comes to the door. Without a lobby, or as the first person, they are in at once. */
  enter(name: string, kind: GuestKind, passcode: string | null): Guest {
    if (this.ended) throw new RoomError(410, 'meeting_ended', 'The meeting has ended.')
    if (this.passcode !== null && passcode !== this.passcode) {
      throw new RoomError(403, 'wrong_passcode', 'The passcode is missing or wrong.')
    }
    const first = kind === 'person' && !this.inside().some((guest) => guest.kind === 'person')
    const guest: Guest = {
      id: randomUUID(),
      secret: randomBytes(24).toString('base64url'),
      name,
      kind,
      standing: 'waiting',
      // Nothing yet: who waits hears nothing.
      admitted_after: Number.POSITIVE_INFINITY,
      left_after: null,
      seen_at: this.#now(),
    }
    this.#guests.set(guest.id, guest)
    if (!this.lobby || first) this.#admit(guest)
    else this.#tellRoster()
    return guest
  }

  /** The guest whose secret this is; being asked about counts as a sign of life. */
  guestOf(secret: string): Guest | null {
    const guest = [...this.#guests.values()].find((candidate) => candidate.secret === secret)
    if (!guest) return null
    guest.seen_at = this.#now()
    this.#forgetSilent()
    return guest
  }

  inside(): Guest[] {
    this.#forgetSilent()
    return [...this.#guests.values()].filter((guest) => guest.standing === 'admitted')
  }

  waiting(): Guest[] {
    this.#forgetSilent()
    return [...this.#guests.values()].filter((guest) => guest.standing === 'waiting')
  }

  /** What was said since the guest came in and after `seq`. */
  heardBy(guest: Guest, seq: number): Message[] {
    const first = Math.max(seq, guest.admitted_after)
    return this.#messages.slice(first, guest.left_after ?? this.#messages.length)
  }

  say(guest: Guest, text: string): Message {
    if (guest.standing !== 'admitted') {
      throw new RoomError(403, 'not_in_the_room', 'Only who is in the room can speak.')
    }
    const message: Message = {
      seq: this.#messages.length + 1,
      guest_id: guest.id,
      name: guest.name,
      kind: guest.kind,
      text,
      at: new Date(this.#now()).toISOString(),
    }
    this.#messages.push(message)
    this.#tell({ to: 'room', event: 'message', payload: message })
    return message
  }

  admit(host: Guest, guest_id: string): void {
    this.#admit(this.#chosen(host, guest_id, 'waiting'))
  }

  reject(host: Guest, guest_id: string): void {
    this.#move(this.#chosen(host, guest_id, 'waiting'), 'rejected')
  }

  evict(host: Guest, guest_id: string): void {
    this.#move(this.#chosen(host, guest_id, 'admitted'), 'evicted')
  }

  leave(guest: Guest): void {
    if (guest.standing === 'waiting' || guest.standing === 'admitted') this.#move(guest, 'left')
  }

  end(host: Guest): void {
    this.#checkHost(host)
    this.ended = true
    for (const guest of [...this.waiting(), ...this.inside()]) this.#move(guest, 'ended')
  }

  #admit(guest: Guest): void {
    guest.admitted_after = this.#messages.length
    this.#move(guest, 'admitted')
  }

  #move(guest: Guest, standing: Standing): void {
    guest.standing = standing
    if (standing !== 'admitted') guest.left_after = this.#messages.length
    this.#tell({ to: guest, event: 'standing', payload: { standing } })
    this.#tellRoster()
  }

  #tellRoster(): void {
    this.#tell({ to: 'room', event: 'roster', payload: {} })
  }

  #chosen(host: Guest, guest_id: string, standing: Standing): Guest {
    this.#checkHost(host)
    const guest = this.#guests.get(guest_id)
    if (!guest) throw new RoomError(404, 'guest_not_found', 'No such guest.')
    if (guest.standing !== standing) {
      throw new RoomError(409, 'standing_changed', `The guest is ${guest.standing}, not ${standing}.`)
    }
    return guest
  }

  /** Every person in the room is a host; bots never are. */
  #checkHost(guest: Guest): void {
    if (guest.standing === 'admitted' && guest.kind === 'person') return
    throw new RoomError(403, 'not_a_host', 'Only a person in the room can do that.')
  }

  #forgetSilent(): void {
    const silent_since = this.#now() - GONE_AFTER_MS
    for (const guest of this.#guests.values()) {
      if (guest.seen_at < silent_since) this.leave(guest)
    }
  }
}
