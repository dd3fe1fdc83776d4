import type { Lease } from './lease.ts'
import { log } from './log.ts'
import { askWhether, Reconcile } from './reconcile_mutations.ts'
import { RpcError } from './rpc.ts'
import { type HttpAnswer, type HttpOptions, sendTool } from './script/http_tools.ts'
import { ScriptFailure } from './script/script_failure.ts'

/** How long a send may take before it is cut off, and how long the lease must still last for one to begin, in ms. */
const SEND_MS = 30_000
const ROOM_MS = 35_000

interface MutationOptions {
  run_id: string
  lease: Lease
  http: Pick<HttpOptions, 'sockets' | 'allow_private' | 'secrets'>
}

/**
 * The side effect of one run, at most one. That it was begun is stored before anything leaves, and what became of it
 * as soon as that is known: killed at any point, nobody takes for undone what may have happened.
 */
export class Mutation {
  /** `in_flight`: begun, and nobody knows whether it happened. */
  status: 'none' | 'in_flight' | 'applied' | 'failed' = 'none'
  /** What went wrong with the send. */
  failure: ScriptFailure | null = null
  readonly #options: MutationOptions
  /** The idempotency key: chosen here, so that a call whose answer was lost can be made again. */
  readonly #id = crypto.randomUUID()
  #reconcile: Reconcile | null = null
  #is_used = false

  constructor(options: MutationOptions) {
    this.#options = options
  }

  /** Http.send of a script. Throws ScriptFailure and LeaseLost. */
  async send(request: Record<string, unknown>): Promise<HttpAnswer> {
    if (this.#is_used) throw new ScriptFailure('logic', 'mutate() may send once, and has sent already.')
    this.#is_used = true
    await this.#begin(request)
    const { http, lease } = this.#options
    let answer: HttpAnswer
    try {
      await this.#room()
      answer = await sendTool(request, this.#id, { ...http, timeout_ms: SEND_MS, signal: lease.signal })
    } catch (error) {
      lease.signal.throwIfAborted()
      if (!(error instanceof ScriptFailure)) throw error
      this.failure = error
      if (error.answer !== undefined) await this.#apply(error.answer)
      else if (isDefinite(error)) await this.#fail(error)
      throw error
    }
    await this.#apply(answer)
    return answer
  }

  /** Asks the other side once whether it happened, if it can be asked. Throws LeaseLost. */
  async askOnce(): Promise<void> {
    if (this.#reconcile === null) return
    const { http, lease } = this.#options
    const found = await askWhether(this.#reconcile, this.#id, { ...http, signal: lease.signal })
    lease.signal.throwIfAborted()
    log('info', 'mutation_asked', { mutation_id: this.#id, outcome: found.outcome })
    if (found.outcome === 'applied') await this.#apply(found.result ?? null)
    if (found.outcome === 'failed' && this.failure) await this.#fail(this.failure)
  }

  async #begin({ reconcile, ...params }: Record<string, unknown>): Promise<void> {
    const { lease, run_id } = this.#options
    this.#reconcile = reconcile === undefined || reconcile === null ? null : parsedReconcile(reconcile)
    const asked_at = performance.now()
    await lease.call('begin_mutation', {
      run_id,
      tool: 'Http.send',
      params,
      reconcile: this.#reconcile,
      mutation_id: this.#id,
    })
    // Beginning renews the lease.
    lease.lasts(asked_at)
    this.status = 'in_flight'
  }

  /** A send that is cut off for time is over before anybody else may have the workflow. */
  async #room(): Promise<void> {
    const { lease } = this.#options
    if (lease.left_ms() < ROOM_MS) await lease.renew()
    if (lease.left_ms() >= ROOM_MS) return
    throw new ScriptFailure('network', 'The database answers too slowly for a call to begin.', {
      request_sent: false,
    })
  }

  async #apply(result: unknown): Promise<void> {
    const { lease } = this.#options
    try {
      await lease.call('apply_mutation', { mutation_id: this.#id, result })
    } catch (error) {
      // It happened all the same: without the answer, if that is what can not be stored.
      if (!cannotBeStored(error)) throw error
      await lease.call('apply_mutation', { mutation_id: this.#id, result: null })
      this.failure = new ScriptFailure('logic', 'The answer of the service can not be stored.')
      this.status = 'applied'
      throw this.failure
    }
    this.status = 'applied'
  }

  async #fail({ message, error_class }: ScriptFailure): Promise<void> {
    await this.#options.lease.call('fail_mutation', {
      mutation_id: this.#id,
      error: message,
      error_type: error_class,
    })
    this.status = 'failed'
  }
}

/** Nothing left, or the service has refused it. */
function isDefinite({ request_sent, http_status }: ScriptFailure): boolean {
  if (request_sent === false) return true
  if (typeof http_status !== 'number') return false
  return http_status >= 400 && http_status < 500 && http_status !== 408 && http_status !== 409
}

function cannotBeStored(error: unknown): boolean {
  return error instanceof RpcError && (error.failure === 'unfit' || error.status === 422)
}

function parsedReconcile(given: unknown): Reconcile {
  const parsed = Reconcile.safeParse(given)
  if (parsed.success) return parsed.data
  throw new ScriptFailure('logic', 'Http.send takes reconcile as { url, headers? }.')
}
