import type { Callbacks } from './callbacks.ts'

/** One thing that somebody said. */
export type Utterance = { speaker: string | null; text: string; started_at: string; ended_at: string }

const FLUSH_EVERY_MS = 5_000
const CHUNK_LENGTH = 50

/** Collects who says what and sends it on in numbered chunks, so that little is lost if the bot is. */
export class Transcript {
  readonly #callbacks: Callbacks
  readonly #timer: NodeJS.Timeout
  #pending: Utterance[] = []
  #next_chunk = 0
  #sent: Promise<unknown> = Promise.resolve()

  constructor(callbacks: Callbacks) {
    this.#callbacks = callbacks
    this.#timer = setInterval(() => this.#flush(), FLUSH_EVERY_MS)
  }

  add(utterance: Utterance): void {
    this.#pending.push(utterance)
    if (this.#pending.length >= CHUNK_LENGTH) this.#flush()
  }

  /** Sends the rest; resolves when every chunk is answered. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#flush()
    await this.#sent
  }

  #flush(): void {
    if (this.#pending.length === 0) return
    const utterances = this.#pending
    this.#pending = []
    this.#sent = this.#callbacks.report('transcript', { chunk: this.#next_chunk++, utterances })
  }
}
