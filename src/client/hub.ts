import type { SupabaseClient } from '@supabase/supabase-js'
import { backoff, channel_steps_ms, read_steps_ms } from './backoff.ts'
import { type Hint, hangUp, joinChannel } from './channel.ts'
import { type Connection, STALE_AFTER_MS, verdict } from './connection.ts'
import { RollcallError } from './errors.ts'
import { type Identity, identify, onSession } from './identity.ts'
import { Pace } from './pace.ts'
import { reconcileAfter, repeat_steps_ms } from './reconcile.ts'
import { isOnline, listenToWakeups } from './wakeups.ts'

/** Somebody who wants to know what is new. */
export type Reader = {
  /** Where the one run that it is about is heard of, such as `bot:<bot_id>`; undefined for many. */
  readonly topic: string | undefined
  /** Reads on; `count` hears of each request. Answers whether anything was new. */
  read(signal: AbortSignal, count: () => void): Promise<boolean>
  /** Whether a hint tells of something that was not read yet. */
  isBehind(hint: Hint): boolean
  /** Takes what a hint tells where that is whole and exactly what comes next. Answers whether it did. */
  hear?(hint: Hint): boolean
  /** It can not go on. */
  fail(error: RollcallError): void
}

/** A request of a read that has no answer by then is given up (ms). */
const REQUEST_TIMEOUT_MS = 20_000

type Life = { over: AbortController; stops: (() => void)[] }

/**
 * The link of one client and owner: one channel that rings, and reads when it rings, however many readers there are.
 * It exists while somebody reads.
 */
export class Hub {
  readonly #supabase: SupabaseClient
  readonly #owner_id: string | undefined
  readonly #readers = new Set<Reader>()
  readonly #listeners = new Set<(connection: Connection) => void>()
  readonly #pace = new Pace()

  #life: Life | undefined
  #user_id: string | undefined
  #topic: string | undefined
  #leave: (() => Promise<void>) | undefined
  /** Ends when the former channel is gone, whose topic can not be joined before. */
  #left: Promise<unknown> = Promise.resolve()
  #channel_timer: ReturnType<typeof setTimeout> | undefined
  #channel_failures = 0
  #joined_at: number | undefined

  #read_timer: ReturnType<typeof setTimeout> | undefined
  #read_at = Number.POSITIVE_INFINITY
  #is_reading = false
  #is_urgent = false
  /** After reads that failed: hints do not make the next one sooner. */
  #not_before = 0
  #read_failures = 0
  #repeats = 0
  #announced: Hint | undefined
  #hints_arrive = false

  #connection: Connection = 'polling'
  #stale_timer: ReturnType<typeof setTimeout> | undefined
  #last_good_read = 0
  #has_read = false
  #signed_out = false
  #reachable = true
  #hears = false

  constructor(supabase: SupabaseClient, owner_id: string | undefined) {
    this.#supabase = supabase
    this.#owner_id = owner_id
  }

  /** Reads for somebody from now on. Returns how to end that. */
  add(reader: Reader): () => void {
    this.#readers.add(reader)
    if (this.#life === undefined) this.#begin()
    else this.refresh()
    return () => {
      this.#readers.delete(reader)
      if (this.#readers.size === 0) this.#finish()
    }
  }

  /** A reader wants something else, or there is one more: reads as soon as the pace allows. */
  refresh(): void {
    const life = this.#life
    if (life && this.#is_of_one_run && this.#wanted() !== this.#topic) void this.#connect(life)
    else this.#wake()
  }

  /** Tells the state of the link now, while somebody reads, and each time it changes. Returns how to end that. */
  onConnection(listener: (connection: Connection) => void): () => void {
    // A function of its own: who passes the same one twice is told twice.
    const own = (connection: Connection) => listener(connection)
    this.#listeners.add(own)
    if (this.#life) own(this.#connection)
    return () => this.#listeners.delete(own)
  }

  #begin(): void {
    const life: Life = { over: new AbortController(), stops: [] }
    this.#life = life
    this.#last_good_read = now()
    this.#has_read = false
    this.#read_at = Number.POSITIVE_INFINITY
    this.#not_before = 0
    this.#read_failures = 0
    this.#channel_failures = 0
    this.#signed_out = false
    this.#reachable = isOnline()
    this.#hints_arrive = false
    this.#connection = 'polling'
    for (const listener of this.#listeners) listener(this.#connection)
    life.stops.push(
      listenToWakeups(() => {
        this.#reachable = isOnline()
        this.#judge()
        this.#not_before = 0
        if (isOnline()) this.#wake()
      }),
      onSession(this.#supabase, (user_id) => {
        if (user_id === null) this.#signOut(life)
        else if (this.#signed_out || (this.#user_id ?? user_id) !== user_id) void this.#connect(life)
      }),
    )
    void this.#connect(life)
    // Should that take long, a poll is better than nothing.
    this.#ask(now() + 2000)
  }

  #finish(): void {
    this.#life?.over.abort()
    for (const stop of this.#life?.stops ?? []) stop()
    this.#life = undefined
    this.#drop()
    this.#left = this.#left.then(() => (this.#life ? undefined : hangUp(this.#supabase))).catch(() => {})
    clearTimeout(this.#read_timer)
    clearTimeout(this.#stale_timer)
    this.#user_id = undefined
  }

  // The channel

  get #is_of_one_run(): boolean {
    return this.#topic !== undefined && this.#topic !== 'operators' && !this.#topic.startsWith('owner:')
  }

  /** One run has a topic of its own; whoever watches more hears of everything of the owner. */
  #wanted(identity?: Identity): string | undefined {
    const topics = new Set(Array.from(this.#readers, (reader) => reader.topic))
    const [only] = topics
    if (topics.size === 1 && only !== undefined) return only
    if (this.#owner_id !== undefined) return `owner:${this.#owner_id}`
    if (identity?.kind === 'user') return identity.operator ? 'operators' : `owner:${identity.user_id}`
    return undefined
  }

  /** Subscribes, then reads. */
  async #connect(life: Life): Promise<void> {
    this.#drop()
    const left = this.#left
    const attempt = { replaced: false }
    this.#leave = async () => {
      attempt.replaced = true
    }
    const current = () => this.#life === life && !attempt.replaced
    try {
      await left
      const identity = await identify(this.#supabase)
      if (!current()) return
      if (identity.kind === 'nobody') {
        await this.#sessionError()
        if (current()) this.#signOut(life)
        return
      }
      this.#admit(identity)
      if (!current()) return
      const topic = this.#wanted(identity)
      if (topic === undefined) {
        this.#failReaders(ownerMissing())
        return
      }
      this.#signed_out = false
      this.#topic = topic
      this.#leave = this.#join(topic, life)
    } catch {
      // No channel can be had for now: the reads go on, and say so.
      if (current()) this.#connectLater(life)
    }
    if (this.#life === life) this.#wake()
  }

  #join(topic: string, life: Life): () => Promise<void> {
    this.#joined_at = undefined
    return joinChannel(this.#supabase, topic, {
      hint: (hint) => this.#heard(hint),
      joined: () => {
        this.#joined_at = now()
        this.#wake()
      },
      ready: () => {
        this.#hears = true
        this.#judge()
        this.#wake()
      },
      failed: () => {
        this.#deaf()
        // The library joins again with the token that is set by then.
        identify(this.#supabase).catch(() => {})
      },
      closed: () => {
        this.#deaf()
        // A channel that lasted has put right what was wrong before.
        if (this.#joined_at !== undefined && now() - this.#joined_at > 10_000) this.#channel_failures = 0
        this.#connectLater(life)
      },
    })
  }

  #connectLater(life: Life): void {
    clearTimeout(this.#channel_timer)
    this.#channel_failures += 1
    this.#channel_timer = setTimeout(
      () => this.#connect(life),
      backoff(this.#channel_failures, channel_steps_ms),
    )
    this.#wake()
  }

  /** Leaves the channel, if there is one. */
  #drop(): void {
    clearTimeout(this.#channel_timer)
    this.#channel_timer = undefined
    const leave = this.#leave
    this.#leave = undefined
    this.#topic = undefined
    this.#hears = false
    if (leave) this.#left = Promise.all([this.#left, leave()]).catch(() => {})
  }

  #deaf(): void {
    this.#hears = false
    this.#hints_arrive = false
    this.#judge()
    this.#wake()
  }

  #heard(hint: Hint): void {
    // The readers first: nobody waits for the verdict.
    for (const reader of [...this.#readers]) if (reader.hear?.(hint)) this.#hints_arrive = true
    this.#hears = true
    this.#judge()
    const news = Array.from(this.#readers).some((reader) => reader.isBehind(hint))
    if (!news) return
    this.#announced = hint
    this.#repeats = 0
    this.#wake()
  }

  // Who reads

  #admit(identity: Identity): void {
    const user_id = identity.kind === 'user' ? identity.user_id : undefined
    if (this.#user_id !== undefined && this.#user_id !== user_id) {
      this.#failReaders(
        new RollcallError({
          status: 401,
          code: 'unauthorized',
          message: 'Somebody else has signed in.',
          hint: 'End what the former user watches when they sign out.',
        }),
      )
      return
    }
    this.#user_id = user_id
  }

  /** Nothing is read until somebody signs in; a client with a token of its own does not say when. */
  #signOut(life: Life): void {
    this.#drop()
    this.#signed_out = true
    this.#judge()
    clearTimeout(this.#read_timer)
    this.#read_at = Number.POSITIVE_INFINITY
    this.#connectLater(life)
  }

  /** Without a session because it could not be refreshed is not signed out. */
  async #sessionError(): Promise<void> {
    const { error } = await Promise.resolve()
      .then(() => this.#supabase.auth.getSession())
      .catch(() => ({ error: null }))
    if (error) throw error
  }

  #failReaders(error: RollcallError): void {
    for (const reader of [...this.#readers]) reader.fail(error)
  }

  // The reads: one at a time, as soon as somebody asks and the pace allows

  #wake(): void {
    this.#ask(now())
  }

  #ask(at: number, urgent = false): void {
    if (this.#life === undefined || this.#signed_out) return
    if (at < this.#read_at) {
      this.#read_at = at
      this.#is_urgent ||= urgent
    }
    if (!this.#is_reading) this.#schedule()
  }

  #schedule(): void {
    clearTimeout(this.#read_timer)
    const at = Math.max(this.#read_at, this.#not_before, this.#pace.next(now(), this.#is_urgent))
    if (!Number.isFinite(at)) return
    this.#read_timer = setTimeout(() => this.#read(), Math.max(0, at - now()))
  }

  async #read(): Promise<void> {
    const life = this.#life
    if (life === undefined || this.#is_reading) return
    // A timer may be a little early, and the budget may have been spent since.
    if (this.#pace.next(now(), this.#is_urgent) > now() + 1) {
      this.#schedule()
      return
    }
    this.#is_reading = true
    this.#read_at = Number.POSITIVE_INFINITY
    this.#is_urgent = false
    const announced = this.#announced
    this.#pace.started(now())
    try {
      const found = await this.#readAll(life)
      if (this.#life !== life) return
      this.#succeeded(found, announced)
    } catch (error) {
      if (this.#life === life) this.#failed(error, life)
    } finally {
      this.#is_reading = false
      if (this.#life && Number.isFinite(this.#read_at)) this.#schedule()
    }
  }

  async #readAll(life: Life): Promise<boolean> {
    const attempt = new AbortController()
    const stop = () => attempt.abort(life.over.signal.reason)
    life.over.signal.addEventListener('abort', stop)
    let timer: ReturnType<typeof setTimeout> | undefined
    const count = () => {
      this.#pace.spend(now())
      clearTimeout(timer)
      timer = setTimeout(() => attempt.abort(unanswered()), REQUEST_TIMEOUT_MS)
    }
    try {
      let found = false
      for (const reader of [...this.#readers]) {
        if (this.#readers.has(reader) && (await reader.read(attempt.signal, count))) found = true
      }
      return found
    } finally {
      clearTimeout(timer)
      life.over.signal.removeEventListener('abort', stop)
    }
  }

  #succeeded(found: boolean, announced: Hint | undefined): void {
    this.#read_failures = 0
    this.#reachable = true
    this.#last_good_read = now()
    this.#has_read = true
    if (found) this.#hints_arrive = announced !== undefined
    this.#judge()
    const is_behind = announced !== undefined && this.#isBehind(announced)
    const repeat_ms = is_behind ? repeat_steps_ms[this.#repeats] : undefined
    if (announced === this.#announced && repeat_ms === undefined) this.#announced = undefined
    if (repeat_ms !== undefined) {
      this.#repeats += 1
      this.#ask(now() + repeat_ms, true)
      return
    }
    const { hears, hints_arrive } = { hears: this.#hears, hints_arrive: this.#hints_arrive }
    this.#ask(now() + reconcileAfter({ hears, hints_arrive, found }))
  }

  /** Only a hint that names its event can be compared with what was read. */
  #isBehind(hint: Hint): boolean {
    return hint.event_id !== undefined && Array.from(this.#readers).some((reader) => reader.isBehind(hint))
  }

  #failed(error: unknown, life: Life): void {
    const status = error instanceof RollcallError ? error.status : 0
    if (status === 400 || status === 404 || (status === 401 && this.#owner_id !== undefined)) {
      // Asking again would not help: the project has no such table, say, or does not know the key.
      this.#failReaders(error as RollcallError)
      return
    }
    // Signed out, or a token that has run out: the session knows.
    if (status === 401) this.#connectLater(life)
    this.#reachable = status !== 0 && isOnline()
    this.#judge()
    this.#read_failures += 1
    this.#not_before = now() + backoff(this.#read_failures, read_steps_ms)
    this.#ask(this.#not_before)
  }

  // The verdict

  #judge(): void {
    if (this.#life === undefined) return
    clearTimeout(this.#stale_timer)
    const read_age_ms = now() - this.#last_good_read
    const connection = verdict({
      signed_out: this.#signed_out,
      reachable: this.#reachable,
      // Live is said once everybody has read: who begins with now knows where that is.
      hears: this.#hears && this.#has_read,
      read_age_ms,
    })
    if (read_age_ms <= STALE_AFTER_MS) {
      this.#stale_timer = setTimeout(() => this.#judge(), STALE_AFTER_MS - read_age_ms + 1)
    }
    if (connection === this.#connection) return
    this.#connection = connection
    for (const listener of this.#listeners) listener(connection)
  }
}

function now(): number {
  return performance.now()
}

function unanswered(): RollcallError {
  return new RollcallError({ status: 0, code: 'unreachable', message: 'The project does not answer.' })
}

function ownerMissing(): RollcallError {
  return new RollcallError({
    status: 422,
    code: 'invalid_request',
    message: 'A secret key reads for somebody: say for whom.',
    hint: 'createRollcall(supabase, { owner_id }).',
    details: { issues: [{ path: 'owner_id', message: 'is missing' }] },
  })
}

const hubs = new WeakMap<SupabaseClient, Map<string | undefined, Hub>>()

/** The hub of a client and owner; everybody shares it, since a client has one channel per topic. */
export function hubOf(supabase: SupabaseClient, owner_id: string | undefined): Hub {
  const own = hubs.get(supabase) ?? new Map<string | undefined, Hub>()
  hubs.set(supabase, own)
  const hub = own.get(owner_id) ?? new Hub(supabase, owner_id)
  own.set(owner_id, hub)
  return hub
}
