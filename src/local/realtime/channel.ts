import { isDeepStrictEqual } from 'node:util'
import { type Extension, ProbeError, probeRead, probeWrite } from './authorization.ts'
import { type Broadcast, spaceOf } from './broadcast.ts'
import { type ClientMessage, encodeBroadcast, encodeMessage, type Frame, type Vsn } from './frames.ts'
import type { Listener } from './hub.ts'
import type { JoinConfig } from './join_config.ts'
import { limits } from './limits.ts'
import type { PresenceDiff } from './presence.ts'
import { parseReplay, readReplay } from './replay.ts'
import type { Services } from './services.ts'
import { checkExpiry, type Token, TokenError } from './token.ts'
import { UnreliableDelivery } from './unreliable_delivery.ts'

/** The reason of a refused join, as the client reads it. */
export class JoinRefused extends Error {
  override name = 'JoinRefused'
}

export type ChannelOptions = {
  services: Services
  vsn: Vsn
  /** With its prefix `realtime:`. */
  topic: string
  join_ref: string | null
  config: JoinConfig
  token: Token
  headers: Record<string, string>
  send(frame: Frame): void
  cut(): void
  /** The channel ended by itself. */
  gone(channel: Channel): void
}

/** Undefined where nobody has asked the policies yet. */
type Permissions = { read: Partial<Record<Extension, boolean>>; write: Partial<Record<Extension, boolean>> }

type Reply = { status: 'ok' | 'error'; response: unknown }

/** One joined channel of one socket. */
export class Channel implements Listener {
  readonly join_ref: string | null
  readonly topic: string
  readonly vsn: Vsn
  readonly #options: ChannelOptions
  readonly #name: string
  readonly #space: string
  readonly #timers = new Set<NodeJS.Timeout>()
  readonly #unreliable: UnreliableDelivery | undefined
  readonly #is_deaf: boolean
  #token: Token
  #expiry_timer: NodeJS.Timeout | undefined
  #permissions: Permissions = { read: {}, write: {} }
  #presence_enabled: boolean
  #tracked: Record<string, unknown> | undefined
  #presence_calls = { count: 0, until: 0 }
  #replayed = new Set<string>()
  #forget_ready = () => {}
  #hears_now = true
  #is_open = false

  constructor(options: ChannelOptions) {
    const { topic, join_ref, vsn, config, token, services, send, cut } = options
    this.#options = options
    this.topic = topic
    this.join_ref = join_ref
    this.vsn = vsn
    this.#name = topic.slice('realtime:'.length)
    this.#space = spaceOf(this.#name, config.is_private)
    this.#token = token
    this.#presence_enabled = config.presence_enabled
    const fates = services.chaos?.joined(topic)
    this.#is_deaf = fates?.is_deaf ?? false
    if (fates) {
      this.#unreliable = new UnreliableDelivery({
        next: fates.next,
        send,
        end: (what) => {
          if (what === 'socket') cut()
          else if (what === 'crash') this.#crash()
          else this.#shutDown('Too many messages per second')
        },
      })
    }
  }

  get hears_broadcasts(): boolean {
    return this.#hears_now && (!this.#is_private || this.#permissions.read.broadcast === true)
  }

  already_has(id: string): boolean {
    return this.#replayed.has(id)
  }

  deliverBroadcast(frame: Frame): void {
    if (this.#unreliable) this.#unreliable.deliver(frame)
    else this.#options.send(frame)
  }

  deliverPresence(diff: PresenceDiff): void {
    if (!this.#hears_presence) return
    const { topic } = this
    this.#options.send(
      encodeMessage(this.vsn, { join_ref: null, ref: null, topic, event: 'presence_diff', payload: diff }),
    )
  }

  /**
   * Asks the policies and what is to be replayed. Call the returned function once the client has its answer:
   * from then on the channel listens.
   * @throws JoinRefused
   */
  async join(): Promise<() => void> {
    const { services, config } = this.#options
    await this.#authorizeJoin()
    const replayed = await this.#readReplay()
    this.#replayed = new Set(replayed.flatMap((message) => message.meta?.id ?? []))
    this.#is_open = true
    this.#watchExpiry()
    return () => {
      if (!this.#is_open) return
      services.hub.join(this.#space, this)
      this.#hears_now = !this.#is_deaf
      for (const message of replayed) this.#replay(message)
      if (config.presence_enabled && this.#hears_presence) {
        this.#push('presence_state', services.hub.presences(this.#space))
      }
      if (this.#is_deaf) this.#hearLater()
      else this.#announceReplication()
      if (config.postgres_changes.length > 0) {
        this.#system(
          'postgres_changes',
          'error',
          'postgres_changes is not part of the local Realtime: use broadcast',
        )
      }
    }
  }

  /** Handles what the client sends on this channel. */
  async handle(message: ClientMessage): Promise<void> {
    if (!this.#is_open) return
    const reply = await this.#answer(message)
    if (reply && this.#is_open) {
      const { ref } = message
      const { topic, join_ref } = this
      this.#options.send(
        encodeMessage(this.vsn, { join_ref, ref, topic, event: 'phx_reply', payload: reply }),
      )
    }
  }

  /** Ends without a word to the client. */
  close(): void {
    if (!this.#is_open) return
    this.#is_open = false
    clearTimeout(this.#expiry_timer)
    for (const timer of this.#timers) clearTimeout(timer)
    this.#forget_ready()
    this.#unreliable?.close()
    this.#options.services.hub.leave(this.#space, this)
  }

  get #is_private(): boolean {
    return this.#options.config.is_private
  }

  get #hears_presence(): boolean {
    return !this.#is_private || this.#permissions.read.presence === true
  }

  get #authorization() {
    return { topic: this.#name, claims: this.#token.claims, headers: this.#options.headers }
  }

  get #no_permission(): string {
    return `You do not have permissions to read from this Channel topic: ${this.#name}`
  }

  #answer(message: ClientMessage): Reply | undefined | Promise<Reply | undefined> {
    switch (message.event) {
      case 'broadcast':
        return this.#handleBroadcast(message)
      case 'presence':
        return this.#handlePresence(message.payload)
      case 'access_token':
        return this.#handleToken(message.payload.access_token)
      default:
        return undefined
    }
  }

  async #authorizeJoin(): Promise<void> {
    const { services, config } = this.#options
    if (!this.#is_private) return
    try {
      const extensions: Extension[] = config.presence_enabled ? ['broadcast', 'presence'] : ['broadcast']
      this.#permissions = { read: await probeRead(services.sql, this.#authorization, extensions), write: {} }
    } catch (error) {
      if (!(error instanceof ProbeError)) throw error
      services.log(`${this.#name}: ${error.problem}: ${error.message}`)
      throw new JoinRefused(
        {
          missing_partition: 'MissingPartition: Realtime was unable to find the expected messages partition',
          policy_error: `Unauthorized: ${this.#no_permission}`,
          query_canceled: `QueryCanceled: ${error.message}`,
          unavailable: 'UnableToConnectToProject: Realtime was unable to connect to the project database',
        }[error.problem],
      )
    }
    const { read } = this.#permissions
    if (!read.broadcast && !read.presence) throw new JoinRefused(`Unauthorized: ${this.#no_permission}`)
    if (config.replay !== undefined && !read.broadcast)
      throw new JoinRefused(`Unauthorized: ${this.#no_permission}`)
  }

  async #readReplay() {
    const { services, config } = this.#options
    if (config.replay === undefined) return []
    if (!this.#is_private)
      throw new JoinRefused('UnableToReplayMessages: Replay is not allowed for public channels')
    const request = parseReplay(config.replay)
    if (!request) throw new JoinRefused('UnableToReplayMessages: Replay params are not valid')
    try {
      return await readReplay(services.sql, this.#name, request)
    } catch (error) {
      services.log(`${this.#name}: replay: ${String(error)}`)
      throw new JoinRefused('UnableToReplayMessages: Realtime was unable to replay messages')
    }
  }

  #replay(message: Broadcast): void {
    if ('payload' in message) return
    if (message.encoding === 'binary') {
      const frame = encodeBroadcast(this.vsn, this.topic, message)
      if (frame !== undefined) this.#options.send(frame)
      return
    }
    const { event, body, meta } = message
    this.#push('broadcast', { event, payload: JSON.parse(body.toString('utf8')), type: 'broadcast', meta })
  }

  #announceReplication(): void {
    const { services, config } = this.#options
    if (!config.replication_ready) return
    const deadline = this.#later(limits.replication_ready_ms, () => {
      this.#forget_ready()
      this.#shutDown('Replication connection was not established in time')
    })
    this.#forget_ready = services.feed.whenReady(() => {
      clearTimeout(deadline)
      this.#system('system', 'ok', 'Replication connection established')
    })
  }

  #hearLater(): void {
    this.#later(this.#options.services.chaos?.settings.deaf_ms ?? 0, () => {
      this.#hears_now = true
      this.#announceReplication()
    })
  }

  async #handleBroadcast({ payload, broadcast }: ClientMessage): Promise<Reply | undefined> {
    const { services, config } = this.#options
    if (this.#is_private) {
      try {
        await this.#authorizeWrite()
      } catch (error) {
        services.log(`${this.#name}: broadcast: ${String(error)}`)
        return undefined
      }
      // No answer at all: the sender's acknowledgement times out, as on hosted.
      if (!this.#permissions.write.broadcast) return undefined
    }
    const size = broadcast ? broadcast.body.length : JSON.stringify(payload).length
    if (size > limits.payload_bytes) {
      return config.ack ? { status: 'error', response: 'payload_size_exceeded' } : undefined
    }
    services.hub.broadcast(this.#space, broadcast ?? { payload }, config.self ? undefined : this)
    return config.ack ? { status: 'ok', response: {} } : undefined
  }

  async #authorizeWrite(): Promise<void> {
    if (this.#permissions.write.broadcast !== undefined) return
    this.#permissions.write = await probeWrite(this.#options.services.sql, this.#authorization)
  }

  async #handlePresence(payload: Record<string, unknown>): Promise<Reply | undefined> {
    const { hub, log } = this.#options.services
    const ok: Reply = { status: 'ok', response: {} }
    if (typeof payload.event !== 'string') return ok
    if (this.#exceedsPresenceCalls()) {
      log(
        `${this.#name}: more than ${limits.presence_calls} presence calls in ${limits.presence_window_ms} ms`,
      )
      this.#shutDown('Client presence rate limit exceeded')
      return undefined
    }
    switch (payload.event.toLowerCase()) {
      case 'track':
        return this.#track(payload.payload ?? {})
      case 'untrack':
        hub.untrack(this.#space, this)
        this.#tracked = undefined
        return ok
      default:
        return { status: 'error', response: {} }
    }
  }

  #exceedsPresenceCalls(): boolean {
    const now = performance.now()
    const calls = this.#presence_calls
    if (now > calls.until) this.#presence_calls = { count: 1, until: now + limits.presence_window_ms }
    else if (calls.count >= limits.presence_calls) return true
    else calls.count += 1
    return false
  }

  async #track(payload: unknown): Promise<Reply | undefined> {
    const { services, config } = this.#options
    if (this.#is_private) {
      try {
        await this.#authorizePresence()
      } catch (error) {
        services.log(`${this.#name}: presence: ${String(error)}`)
        return { status: 'error', response: {} }
      }
      if (!this.#permissions.write.presence) return { status: 'error', response: {} }
    }
    if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) {
      return { status: 'error', response: { reason: 'Presence track payload must be a map' } }
    }
    if (JSON.stringify(payload).length > limits.payload_bytes) {
      this.#shutDown('Track message size exceeded')
      return undefined
    }
    if (!isDeepStrictEqual(payload, this.#tracked)) {
      this.#presence_enabled = true
      this.#tracked = { ...payload }
      services.hub.track(this.#space, this, config.presence_key, this.#tracked)
    }
    return { status: 'ok', response: {} }
  }

  /** Tracking enables presence on a channel that joined without it. */
  async #authorizePresence(): Promise<void> {
    if (this.#permissions.read.presence === undefined) {
      const read = await probeRead(this.#options.services.sql, this.#authorization, ['presence'])
      this.#permissions.read = { ...this.#permissions.read, ...read }
    }
    await this.#authorizeWrite()
  }

  async #handleToken(raw: unknown): Promise<undefined> {
    const { services } = this.#options
    // An API key is no user's token: the one of the socket stays.
    if (typeof raw !== 'string' || raw.startsWith('sb_') || raw === this.#token.raw) return undefined
    try {
      this.#token = await services.verify(raw)
      this.#watchExpiry()
      if (this.#is_private) await this.#authorizeAgain()
    } catch (error) {
      if (error instanceof TokenError)
        this.#shutDown(error.problem === 'signature' ? ':signature_error' : error.message)
      else if (error instanceof ProbeError && error.problem === 'policy_error')
        this.#shutDown(this.#no_permission)
      else if (error instanceof ProbeError && error.problem === 'query_canceled') {
        this.#shutDown('Query was cancelled, please try again')
      } else this.#shutDown('Realtime was unable to connect to the project database')
      if (!(error instanceof TokenError)) services.log(`${this.#name}: new token: ${String(error)}`)
    }
    return undefined
  }

  /** @throws ProbeError */
  async #authorizeAgain(): Promise<void> {
    const before = this.#permissions.read
    const extensions: Extension[] = this.#presence_enabled ? ['broadcast', 'presence'] : ['broadcast']
    const read = await probeRead(this.#options.services.sql, this.#authorization, extensions)
    this.#permissions = { read, write: {} }
    const now: Partial<Record<Extension, boolean>> = read
    if (!now.broadcast && !now.presence) this.#shutDown(this.#no_permission)
    else if (extensions.some((extension) => before[extension] && !now[extension])) {
      this.#shutDown(`You no longer have permission to read from this Channel topic: ${this.#name}`)
    }
  }

  #watchExpiry(): void {
    clearTimeout(this.#expiry_timer)
    const { exp } = this.#token.claims
    const wait_ms = Math.min(limits.token_check_ms, Math.max(exp * 1000 - Date.now(), 0))
    this.#expiry_timer = setTimeout(() => {
      try {
        checkExpiry(exp)
        this.#watchExpiry()
      } catch (error) {
        this.#shutDown((error as TokenError).message)
      }
    }, wait_ms)
  }

  /** Says why and closes: a client does not come back by itself after this. */
  #shutDown(message: string): void {
    if (!this.#is_open) return
    this.#system('system', 'error', message)
    this.close()
    const { topic, join_ref } = this
    this.#options.send(
      encodeMessage(this.vsn, { join_ref, ref: join_ref, topic, event: 'phx_close', payload: {} }),
    )
    this.#options.gone(this)
  }

  /** Ends as a crashed process does: the client joins again. */
  #crash(): void {
    if (!this.#is_open) return
    this.close()
    const { topic, join_ref } = this
    const payload = { reason: 'channel_crash' }
    this.#options.send(
      encodeMessage(this.vsn, { join_ref, ref: join_ref, topic, event: 'phx_error', payload }),
    )
    this.#options.gone(this)
  }

  #system(extension: string, status: 'ok' | 'error', message: string): void {
    this.#push('system', { extension, status, message, channel: this.#name })
  }

  #push(event: string, payload: unknown): void {
    const { topic, join_ref } = this
    this.#options.send(encodeMessage(this.vsn, { join_ref, ref: null, topic, event, payload }))
  }

  #later(ms: number, act: () => void): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      act()
    }, ms)
    this.#timers.add(timer)
    return timer
  }
}
