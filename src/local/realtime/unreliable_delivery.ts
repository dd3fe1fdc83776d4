import type { Fate } from './chaos.ts'
import type { Frame } from './frames.ts'

/** How long a message that changes places waits for the next one (ms). */
const swap_ms = 200

export type UnreliableDeliveryOptions = {
  next(): Fate
  send(frame: Frame): void
  end(what: NonNullable<Fate['end']>): void
}

/** Delivers the broadcasts of one channel as the realism mode decides. */
export class UnreliableDelivery {
  readonly #options: UnreliableDeliveryOptions
  /** What waits, in order: only reordering reorders, a delay holds up all that follows. */
  readonly #line: { frame: Frame; due: number }[] = []
  #line_timer: NodeJS.Timeout | undefined
  #held: Frame | undefined
  #held_timer: NodeJS.Timeout | undefined

  constructor(options: UnreliableDeliveryOptions) {
    this.#options = options
  }

  deliver(frame: Frame): void {
    const fate = this.#options.next()
    if (fate.end) {
      this.#options.end(fate.end)
      return
    }
    if (fate.drop) return
    if (fate.reorder && this.#held === undefined) {
      this.#held = frame
      this.#held_timer = setTimeout(() => this.#release(), swap_ms)
      return
    }
    this.#send(frame, fate.delay_ms)
    if (fate.duplicate) this.#send(frame, 0)
    this.#release()
  }

  close(): void {
    clearTimeout(this.#line_timer)
    clearTimeout(this.#held_timer)
    this.#line.length = 0
    this.#held = undefined
  }

  #release(): void {
    clearTimeout(this.#held_timer)
    const held = this.#held
    this.#held = undefined
    if (held !== undefined) this.#send(held, 0)
  }

  #send(frame: Frame, delay_ms: number): void {
    if (this.#line.length === 0 && delay_ms === 0) {
      this.#options.send(frame)
      return
    }
    const due = Math.max(this.#line.at(-1)?.due ?? 0, performance.now() + delay_ms)
    this.#line.push({ frame, due })
    this.#line_timer ??= setTimeout(() => this.#advance(), due - performance.now())
  }

  #advance(): void {
    this.#line_timer = undefined
    for (let head = this.#line[0]; head !== undefined; head = this.#line[0]) {
      const wait_ms = head.due - performance.now()
      if (wait_ms > 0) {
        this.#line_timer = setTimeout(() => this.#advance(), wait_ms)
        return
      }
      this.#line.shift()
      this.#options.send(head.frame)
    }
  }
}
