/**
 * Values that come by themselves, for one reader. It starts with the first `next()`; leaving the loop, the end, an
 * error or the signal runs `stop` at once, also while the reader waits.
 */
export class Stream<T> implements AsyncIterableIterator<T> {
  readonly #start: (stream: Stream<T>) => () => void
  readonly #signal: AbortSignal | undefined
  readonly #values: T[] = []
  #waiting: PromiseWithResolvers<IteratorResult<T, undefined>>[] = []
  #stop: (() => void) | undefined
  #state: 'new' | 'open' | 'ended' = 'new'
  #error: { reason: unknown } | undefined

  constructor(start: (stream: Stream<T>) => () => void, signal?: AbortSignal) {
    this.#start = start
    this.#signal = signal
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    if (this.#state === 'new') this.#open()
    if (this.#values.length > 0) return { done: false, value: this.#values.shift() as T }
    if (this.#error) {
      const { reason } = this.#error
      this.#error = undefined
      throw reason
    }
    if (this.#state === 'ended') return { done: true, value: undefined }
    const turn = withResolvers<IteratorResult<T, undefined>>()
    this.#waiting.push(turn)
    return turn.promise
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    this.#values.length = 0
    this.end()
    this.#error = undefined
    return { done: true, value: undefined }
  }

  push(value: T): void {
    if (this.#state === 'ended') return
    const turn = this.#waiting.shift()
    if (turn) turn.resolve({ done: false, value })
    else this.#values.push(value)
  }

  /** No more values; what was pushed is still read. */
  end(): void {
    if (this.#state === 'ended') return
    this.#state = 'ended'
    this.#signal?.removeEventListener('abort', this.#abort)
    this.#stop?.()
    this.#stop = undefined
    for (const turn of this.#waiting.splice(0)) turn.resolve({ done: true, value: undefined })
  }

  /** Ends with an error, which the reader meets after what was pushed. */
  fail(reason: unknown): void {
    if (this.#state === 'ended') return
    const turn = this.#waiting.shift()
    if (turn) turn.reject(reason)
    else this.#error = { reason }
    this.end()
  }

  readonly #abort = (): void => {
    this.#values.length = 0
    this.fail(this.#signal?.reason)
  }

  #open(): void {
    this.#state = 'open'
    if (this.#signal?.aborted) {
      this.#abort()
      return
    }
    this.#signal?.addEventListener('abort', this.#abort)
    const stop = this.#start(this)
    // It may have ended while it started.
    if ((this.#state as string) === 'ended') stop()
    else this.#stop = stop
  }
}

type PromiseWithResolvers<T> = {
  promise: Promise<T>
  resolve(value: T): void
  reject(reason: unknown): void
}

/** `Promise.withResolvers()`, which older browsers lack. */
function withResolvers<T>(): PromiseWithResolvers<T> {
  let resolve: (value: T) => void = () => {}
  let reject: (reason: unknown) => void = () => {}
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve
    reject = onReject
  })
  return { promise, resolve, reject }
}
