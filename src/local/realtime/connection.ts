import type { Duplex } from 'node:stream'
import type { RawData, WebSocket } from 'ws'
import { Channel, JoinRefused } from './channel.ts'
import { type ClientMessage, decodeFrame, encodeMessage, type Frame, type Vsn } from './frames.ts'
import { parseJoinConfig } from './join_config.ts'
import { limits } from './limits.ts'
import type { Services } from './services.ts'
import { type Token, TokenError, type TokenProblem } from './token.ts'

export type ConnectionOptions = {
  socket: WebSocket
  /** What the WebSocket writes to. */
  stream: Duplex
  vsn: Vsn
  /** What the socket was opened with; channels without a token of their own use it. */
  token: Token
  /** The `x-` headers of the upgrade, for policies that read request.headers. */
  headers: Record<string, string>
  services: Services
}

/** One WebSocket and its channels. */
export class Connection {
  readonly #options: ConnectionOptions
  readonly #channels = new Map<string, Channel>()
  /** The work under way of each topic: messages of a topic are handled one after the other. */
  readonly #turns = new Map<string, Promise<void>>()
  #joining = 0
  /** Frames that wait while the socket is stalled. */
  #stalled: Frame[] | undefined
  #stall_timer: NodeJS.Timeout | undefined
  readonly #idle_timer: NodeJS.Timeout

  constructor(options: ConnectionOptions) {
    this.#options = options
    const { socket } = options
    socket.on('message', (data, is_binary) => this.#receive(data, is_binary))
    socket.on('close', () => this.#end())
    socket.on('error', () => socket.terminate())
    this.#idle_timer = setTimeout(() => socket.close(1000), limits.idle_ms)
  }

  #receive(data: RawData, is_binary: boolean): void {
    this.#idle_timer.refresh()
    let message: ClientMessage
    try {
      message = decodeFrame(this.#options.vsn, toBuffer(data), is_binary)
    } catch (error) {
      this.#options.services.log(`MalformedWebSocketMessage: ${String(error)}`)
      return
    }
    const { topic } = message
    if (topic === 'phoenix' && message.event === 'heartbeat') {
      this.#reply({ ...message, join_ref: null }, 'ok', {})
      return
    }
    const before = this.#turns.get(topic)
    const turn = (before ?? Promise.resolve())
      .then(() => this.#handle(message))
      .catch((error) => this.#options.services.log(`UnknownErrorOnWebSocketMessage: ${String(error)}`))
      .finally(() => {
        if (this.#turns.get(topic) === turn) this.#turns.delete(topic)
      })
    this.#turns.set(topic, turn)
  }

  async #handle(message: ClientMessage): Promise<void> {
    const { topic, event, join_ref } = message
    const channel = this.#channels.get(topic)
    if (event === 'phx_join') {
      await this.#join(message, channel)
    } else if (channel === undefined) {
      if (event === 'phx_leave') this.#reply(message, 'ok', {})
      else this.#reply({ ...message, join_ref: null }, 'error', { reason: 'unmatched topic' })
    } else if (join_ref !== null && join_ref !== channel.join_ref) {
      // Meant for an earlier join of the topic.
    } else if (event === 'phx_leave') {
      this.#drop(channel)
      this.#reply({ ...message, join_ref: channel.join_ref }, 'ok', {})
      this.#sendClose(channel)
    } else {
      await channel.handle(message)
    }
  }

  async #join(message: ClientMessage, existing: Channel | undefined): Promise<void> {
    if (existing) this.#drop(existing)
    if (!message.topic.startsWith('realtime:')) {
      this.#reply({ ...message, join_ref: null }, 'error', { reason: 'unmatched topic' })
      return
    }
    this.#joining += 1
    try {
      const { channel, start } = await this.#makeChannel(message)
      if (this.#options.socket.readyState !== this.#options.socket.OPEN) {
        channel.close()
        return
      }
      this.#channels.set(message.topic, channel)
      const { postgres_changes } = parseJoinConfig(message.payload)
      const response = { postgres_changes: postgres_changes.map((change, id) => ({ ...change, id })) }
      this.#reply(message, 'ok', response)
      start()
    } catch (error) {
      this.#refuse(message, error)
    } finally {
      this.#joining -= 1
    }
    // The new join is answered before the old one is closed.
    if (existing) this.#sendClose(existing)
  }

  /** @throws JoinRefused */
  async #makeChannel({
    topic,
    join_ref,
    payload,
  }: ClientMessage): Promise<{ channel: Channel; start: () => void }> {
    const { services, vsn, headers } = this.#options
    if (topic === 'realtime:') throw new JoinRefused('TopicNameRequired: You must provide a topic name')
    if (services.chaos?.refusesJoin(topic)) {
      throw new JoinRefused(
        "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect",
      )
    }
    if (this.#channels.size + this.#joining > limits.channels) {
      throw new JoinRefused('ChannelRateLimitReached: Too many channels')
    }
    const token = await this.#tokenOf(payload)
    const channel = new Channel({
      services,
      vsn,
      topic,
      join_ref,
      config: parseJoinConfig(payload),
      token,
      headers,
      send: (frame) => this.#send(frame),
      cut: () => this.#options.socket.terminate(),
      gone: (ended) => {
        if (this.#channels.get(topic) === ended) this.#channels.delete(topic)
      },
    })
    return { channel, start: await channel.join() }
  }

  async #tokenOf({ user_token, access_token }: Record<string, unknown>): Promise<Token> {
    const { services, token } = this.#options
    const own = [user_token, access_token].find((candidate) => typeof candidate === 'string')
    const raw =
      own === undefined || String(access_token ?? user_token).startsWith('sb_') ? token.raw : String(own)
    try {
      return await services.verify(raw)
    } catch (error) {
      if (error instanceof TokenError) throw new JoinRefused(`${join_codes[error.problem]}: ${error.message}`)
      throw error
    }
  }

  #refuse(message: ClientMessage, error: unknown): void {
    const { services } = this.#options
    if (!(error instanceof JoinRefused)) services.log(`UnknownErrorOnChannel: ${String(error)}`)
    const reason = error instanceof JoinRefused ? error.message : 'Unknown Error on Channel'
    // Hosted lets refused clients wait, and with them everything else on their socket.
    if (services.chaos) this.#stall(services.chaos.settings.join_error_ms)
    this.#reply(message, 'error', { reason })
  }

  #drop(channel: Channel): void {
    channel.close()
    this.#channels.delete(channel.topic)
  }

  #sendClose({ topic, join_ref }: Channel): void {
    this.#send(
      encodeMessage(this.#options.vsn, { join_ref, ref: join_ref, topic, event: 'phx_close', payload: {} }),
    )
  }

  #reply({ join_ref, ref, topic }: ClientMessage, status: 'ok' | 'error', response: unknown): void {
    const payload = { status, response }
    this.#send(encodeMessage(this.#options.vsn, { join_ref, ref, topic, event: 'phx_reply', payload }))
  }

  #send(frame: Frame): void {
    const { socket } = this.#options
    if (this.#stalled) this.#stalled.push(frame)
    else if (socket.readyState === socket.OPEN) {
      this.#gather()
      socket.send(frame)
    }
  }

  /** What is sent in one go leaves in one write: under load that is most of the work. */
  #gather(): void {
    const { stream } = this.#options
    if (stream.writableCorked > 0) return
    stream.cork()
    process.nextTick(() => stream.uncork())
  }

  #stall(ms: number): void {
    if (this.#stalled) return
    this.#stalled = []
    this.#stall_timer = setTimeout(() => {
      const frames = this.#stalled ?? []
      this.#stalled = undefined
      for (const frame of frames) this.#send(frame)
    }, ms)
  }

  #end(): void {
    clearTimeout(this.#idle_timer)
    clearTimeout(this.#stall_timer)
    for (const channel of this.#channels.values()) channel.close()
    this.#channels.clear()
  }
}

const join_codes: Record<TokenProblem, string> = {
  malformed: 'MalformedJWT',
  expired: 'InvalidJWTToken',
  missing_claims: 'InvalidJWTToken',
  signature: 'JwtSignatureError',
  no_key: 'JwtSignerError',
}

function toBuffer(data: RawData): Buffer {
  if (Array.isArray(data)) return Buffer.concat(data)
  return Buffer.isBuffer(data) ? data : Buffer.from(data)
}
