/** Time as the live module knows it; tests bring their own. */
export interface Clock {
  /** Milliseconds, by the wall clock. */
  now(): number
  /** Calls back once, later. Returns how to prevent that. */
  after(ms: number, callback: () => void): () => void
}

/** The clock of this machine. */
export const machine_clock: Clock = {
  now: () => Date.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, ms)
    return () => clearTimeout(timer)
  },
}

/** How far the server's clock is ahead of this machine's, by the quickest answer of late. */
export class ServerClock {
  readonly #clock: Clock
  #offset_ms = 0
  #round_trip_ms = Number.POSITIVE_INFINITY
  #measured_at = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The server's time now (ms). */
  now(): number {
    return this.#clock.now() + this.#offset_ms
  }

  /** An answer that was asked for at `asked_at` says that it was made at `as_of`. */
  measure(as_of: string, asked_at: number): void {
    const now = this.#clock.now()
    const server = Date.parse(as_of)
    if (Number.isNaN(server)) return
    const round_trip_ms = Math.max(0, now - asked_at)
    const offset_ms = server - (asked_at + round_trip_ms / 2)
    // A slow answer says little, unless a clock was set meanwhile.
    const is_better = round_trip_ms <= this.#round_trip_ms || now - this.#measured_at > 300_000
    if (!is_better && Math.abs(offset_ms - this.#offset_ms) <= round_trip_ms + 1000) return
    this.#offset_ms = offset_ms
    this.#round_trip_ms = round_trip_ms
    this.#measured_at = now
  }
}
