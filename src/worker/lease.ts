import type { SupabaseClient } from '@supabase/supabase-js'
import { errorFields, log } from './log.ts'
import { callRpc, RpcError } from './rpc.ts'
import { surely } from './surely.ts'

/** How long the leases of sessions and tasks last from their claim or renewal, and how often they are renewed, in ms. */
const LEASE_MS = 60_000
const RENEW_EVERY_MS = 20_000

/** Refusals that say: what the lease is about has ended, or is somebody else's, or is gone. */
const OVER = [
  'stale_lease',
  'session_ended',
  'session_not_found',
  'run_not_active',
  'handler_run_not_found',
  'mutation_settled',
  'mutation_not_found',
  'task_ended',
  'task_not_found',
  'workflow_not_found',
]

/** Somebody else may have the work now: whoever still holds it stops at once and writes nothing more. */
export class LeaseLost extends Error {
  override name = 'LeaseLost'
}

export interface LeaseOptions {
  db: SupabaseClient
  /** What every call under the lease is sent: what it is about, and the token. */
  holder: Record<string, unknown>
  /** The function that renews it. */
  renewal: string
  /** When it was asked for (performance.now): from then on it lasts. */
  asked_at: number
}

/**
 * A lease that is renewed by a timer until it is ended. How long it lasts is counted from before the call that gave
 * it, so it never seems longer than it is, whatever the clocks of the two sides say.
 */
export class Lease {
  /** Aborted with LeaseLost when the lease is lost. */
  readonly signal: AbortSignal
  readonly #options: LeaseOptions
  readonly #lost = new AbortController()
  readonly #timer: ReturnType<typeof setInterval>
  #over: ReturnType<typeof setTimeout> | undefined
  #until = 0
  #ended = false

  constructor(options: LeaseOptions) {
    this.#options = options
    this.signal = this.#lost.signal
    this.lasts(options.asked_at)
    this.#timer = setInterval(() => {
      this.renew().catch((error) => {
        if (!(error instanceof LeaseLost)) log('error', 'renewal_failed', errorFields(error))
      })
    }, RENEW_EVERY_MS)
  }

  /** How long it still lasts, in ms. */
  left_ms(): number {
    return this.#until - performance.now()
  }

  /** Makes it last for its whole time again. Throws LeaseLost. */
  async renew(): Promise<void> {
    const { renewal, holder } = this.#options
    const asked_at = performance.now()
    await this.call(renewal, holder)
    this.lasts(asked_at)
  }

  /**
   * Calls a function that only the holder may call, again and again while the database is away and the lease lasts.
   * Throws LeaseLost, and the RpcError of any other refusal.
   */
  async call<T>(name: string, args: Record<string, unknown>): Promise<T> {
    this.signal.throwIfAborted()
    try {
      return await surely(
        () => callRpc<T>(this.#options.db, name, { ...args, lease_token: this.#options.holder.lease_token }),
        (wait_ms) => !this.signal.aborted && wait_ms < this.left_ms(),
      )
    } catch (error) {
      this.signal.throwIfAborted()
      if (!(error instanceof RpcError)) throw error
      const is_over = error.failure === 'refused' && OVER.includes(error.code)
      if (!is_over && error.failure !== 'unavailable') throw error
      this.#lose()
      throw this.signal.reason
    }
  }

  /** Renews it no more. */
  end(): void {
    this.#ended = true
    clearInterval(this.#timer)
    clearTimeout(this.#over)
  }

  /** Counts its time from when a call was made that renews it (performance.now). */
  lasts(from: number): void {
    this.#until = Math.max(this.#until, from + LEASE_MS)
    clearTimeout(this.#over)
    if (this.#ended) return
    this.#over = setTimeout(() => this.#lose(), Math.max(0, this.left_ms()))
  }

  #lose(): void {
    this.end()
    this.#lost.abort(new LeaseLost('The lease is lost: another worker goes on.'))
  }
}
