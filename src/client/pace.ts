/** Reads begin at most this often (ms). */
const SPACING_MS = 500

/** Requests a client may send at once after a quiet time, and how many a second it earns. */
const BURST = 10
const PER_SECOND = 1.5

/** Keeps a client's reads apart: at once after a quiet time, and under two requests a second however long it lasts. */
export class Pace {
  #last_start = Number.NEGATIVE_INFINITY
  #tokens = BURST
  #counted_at = 0

  /** When the next read may begin (ms, same clock as `now`). `urgent` ignores the spacing, not the budget. */
  next(now: number, urgent = false): number {
    this.#earn(now)
    const earned_at = this.#tokens >= 1 ? now : now + ((1 - this.#tokens) / PER_SECOND) * 1000
    return Math.max(now, earned_at, urgent ? now : this.#last_start + SPACING_MS)
  }

  started(now: number): void {
    this.#last_start = now
  }

  /** A request is sent. One read may need many: later reads wait for them. */
  spend(now: number): void {
    this.#earn(now)
    this.#tokens -= 1
  }

  #earn(now: number): void {
    this.#tokens = Math.min(BURST, this.#tokens + (Math.max(0, now - this.#counted_at) / 1000) * PER_SECOND)
    this.#counted_at = now
  }
}
