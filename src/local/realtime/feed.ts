import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { LogicalReplicationService, type Pgoutput, PgoutputPlugin } from 'pg-logical-replication'
import type { UserBroadcast } from './broadcast.ts'
import { isVisible, type Snapshot } from './snapshot.ts'

export type SentMessage = { topic: string; is_private: boolean; broadcast: UserBroadcast }

export type FeedOptions = {
  db_url: string
  publication: string
  /** What everybody sees right now; without it messages are delivered before that (as hosted does). */
  snapshot: (() => Promise<Snapshot>) | undefined
  deliver(message: SentMessage): void
  log(line: string): void
}

type Transaction = { xid: number; messages: SentMessage[] }

/**
 * Follows realtime.messages by logical replication. The slot is temporary: what is committed while the feed is
 * cut is never delivered, as on hosted. It comes back by itself when Postgres does.
 */
export class Feed {
  readonly #options: FeedOptions
  readonly #waiting = new Set<() => void>()
  readonly #queue: Transaction[] = []
  #service: LogicalReplicationService | undefined
  #running: Promise<void> | undefined
  #delivering = false
  #closed = false
  #ready = false

  constructor(options: FeedOptions) {
    this.#options = options
  }

  get ready(): boolean {
    return this.#ready
  }

  /** Calls back once the feed streams: at once, or later; returns how to forget it. */
  whenReady(callback: () => void): () => void {
    if (this.#ready) {
      callback()
      return () => {}
    }
    this.#waiting.add(callback)
    return () => this.#waiting.delete(callback)
  }

  /**
   * Resolves when the feed streams.
   * @throws what Postgres said when it can not, the first time.
   */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.whenReady(resolve)
      this.#running = this.#run(reject)
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#service?.stop()
    await this.#running
  }

  async #run(failed_first: (error: unknown) => void): Promise<void> {
    let pause_ms = 50
    let was_ready = false
    while (!this.#closed) {
      try {
        await this.#stream()
      } catch (error) {
        if (!was_ready && !this.#ready) {
          failed_first(error)
          return
        }
        if (!this.#closed) this.#options.log(`feed of realtime.messages: ${String(error)}`)
      }
      pause_ms = this.#ready ? 50 : Math.min(pause_ms * 2, 1000)
      was_ready = was_ready || this.#ready
      this.#ready = false
      if (!this.#closed) await delay(pause_ms)
    }
  }

  /** One connection, until it ends. */
  async #stream(): Promise<void> {
    const { db_url, publication } = this.#options
    const service = new LogicalReplicationService(
      { connectionString: db_url, application_name: 'realtime_replication_connection' },
      { acknowledge: { auto: false, timeoutSeconds: 0 } },
    )
    this.#service = service
    let transaction: Transaction | undefined
    service.on('start', () => {
      // Closed while it was still connecting.
      if (this.#closed) void service.stop()
      else this.#becomeReady()
    })
    // subscribe() rejects with it.
    service.on('error', () => {})
    service.on('heartbeat', (lsn, _time, should_respond) => {
      // The library acknowledges one byte past what it is given; Postgres waits for the exact place when it stops.
      if (should_respond) void service.acknowledge(previousLsn(lsn))
    })
    service.on('data', (_lsn: string, message: Pgoutput.Message) => {
      if (message.tag === 'begin') transaction = { xid: message.xid, messages: [] }
      // Values as Postgres writes them: parsing a payload here would cost its numbers their precision.
      else if (message.tag === 'relation') for (const column of message.columns) column.parser = asText
      else if (message.tag === 'insert') transaction?.messages.push(...readMessage(message.new))
      else if (message.tag === 'commit' && transaction) {
        if (transaction.messages.length > 0) this.#queue.push(transaction)
        transaction = undefined
        void this.#deliver()
      }
    })
    const slot = `supabase_realtime_messages_replication_slot_${randomBytes(6).toString('hex')}`
    try {
      await service.subscribe(new TemporarySlot({ protoVersion: 1, publicationNames: [publication] }), slot)
    } finally {
      await service.destroy().catch(() => {})
    }
  }

  #becomeReady(): void {
    this.#ready = true
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const callback of waiting) callback()
  }

  /**
   * Delivers in the order of commits. The log tells of a commit a moment before others can see its rows: a
   * client that reads when its push arrives must find them, so the feed waits for that.
   */
  async #deliver(): Promise<void> {
    if (this.#delivering) return
    this.#delivering = true
    const { snapshot, deliver } = this.#options
    while (this.#queue.length > 0 && !this.#closed) {
      const visible = snapshot ? await this.#visibleCount(snapshot) : this.#queue.length
      for (const { messages } of this.#queue.splice(0, visible)) messages.forEach(deliver)
      if (visible === 0) await delay(1)
    }
    this.#delivering = false
  }

  async #visibleCount(snapshot: () => Promise<Snapshot>): Promise<number> {
    try {
      const now = await snapshot()
      const unseen = this.#queue.findIndex(({ xid }) => !isVisible(xid, now))
      return unseen === -1 ? this.#queue.length : unseen
    } catch {
      // Postgres is restarting: what it had committed is visible when it answers again.
      await delay(50)
      return 0
    }
  }
}

/** The slot lives and dies with the connection that makes it. */
class TemporarySlot extends PgoutputPlugin {
  override async start(
    client: Parameters<PgoutputPlugin['start']>[0],
    slot: string,
  ): ReturnType<PgoutputPlugin['start']> {
    await client.query(`CREATE_REPLICATION_SLOT ${slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT`)
    return super.start(client, slot, '0/0')
  }
}

function asText(value: string): string {
  return value
}

function readMessage(row: Record<string, string | null>): SentMessage[] {
  const { id, topic, event, payload, binary_payload } = row
  if (id == null || topic == null || event == null || row.private == null) return []
  const meta = { id }
  const base = { topic, is_private: row.private === 't' }
  if (binary_payload != null) {
    // bytea as text is `\x` and hex digits.
    const body = Buffer.from(binary_payload.slice(2), 'hex')
    return [{ ...base, broadcast: { event, encoding: 'binary', body, meta } }]
  }
  if (payload == null) return []
  return [{ ...base, broadcast: { event, encoding: 'json', body: Buffer.from(payload), meta } }]
}

function previousLsn(lsn: string): string {
  const [high = '0', low = '0'] = lsn.split('/')
  const value = (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`) - 1n
  return `${(value >> 32n).toString(16)}/${(value & 0xffffffffn).toString(16)}`
}
