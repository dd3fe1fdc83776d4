import type { SupabaseClient } from '@supabase/supabase-js'

/** How long one call may take before it counts as lost, in ms: longer than any statement time-out of the API. */
const CALL_TIMEOUT_MS = 20_000

/** Rolled back by Postgres for reasons that pass: serialization failure, deadlock, lock and statement time-outs. */
const TRANSIENT = ['40001', '40P01', '55P03', '57014']

/** The database or its API is away: connection errors, no resources, shutting down, PostgREST without a pool. */
const AWAY = /^(08|53|57P|PGRST00[0-3])/

/** What the database itself says, or the API of a request that reached it. */
const OF_THE_DATABASE = /^([0-9A-Z]{5}|PGRST\d+)$/

/** Values that a column can not hold: data exceptions and program limits. */
const UNFIT = /^(22|54)/

export type RpcFailure = 'refused' | 'unfit' | 'unavailable' | 'unexpected'

/** A call of a stored function that gave no answer. */
export class RpcError extends Error {
  override name = 'RpcError'
  readonly rpc: string
  /** refused: the function raised PTnnn. unfit: a value it can not store. unavailable: try again. unexpected: a bug. */
  readonly failure: RpcFailure
  /** The stable word of a refusal, else the SQLSTATE or what the API called it. */
  readonly code: string
  /** The nnn of PTnnn; 0 if the call was not refused. */
  readonly status: number
  readonly hint: string | null
  readonly details: Record<string, unknown> | null

  constructor(
    rpc: string,
    failure: RpcFailure,
    fields: Partial<RpcError> & { message: string; code: string },
  ) {
    super(fields.message)
    this.rpc = rpc
    this.failure = failure
    this.code = fields.code
    this.status = fields.status ?? 0
    this.hint = fields.hint ?? null
    this.details = fields.details ?? null
  }
}

/**
 * Calls a stored function. What Postgres rolled back for a passing reason is tried once more; everything else
 * that is no answer throws an RpcError. A lost connection is never tried again: the call may have happened.
 */
export async function callRpc<T = unknown>(
  db: SupabaseClient,
  name: string,
  args: Record<string, unknown> = {},
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    const { data, error, status } = await db.rpc(name, args).abortSignal(AbortSignal.timeout(CALL_TIMEOUT_MS))
    if (error === null) return data as T
    const code = error.code ?? ''
    if (TRANSIENT.includes(code) && attempt === 1) continue
    throw failureOf(name, code, status, error)
  }
}

function failureOf(
  rpc: string,
  code: string,
  status: number,
  error: { message: string; details?: string | null; hint?: string | null },
): RpcError {
  const refused = /^PT(\d{3})$/.exec(code)
  if (refused !== null) {
    return new RpcError(rpc, 'refused', {
      message: error.hint || error.message,
      code: error.message,
      status: Number(refused[1]),
      hint: error.hint ?? null,
      details: objectIn(error.details),
    })
  }
  // A server error without such a code is the API's own: the call has not come through.
  const away = status === 0 || status === 408 || (status >= 500 && !OF_THE_DATABASE.test(code))
  const failure: RpcFailure = UNFIT.test(code)
    ? 'unfit'
    : away || AWAY.test(code) || TRANSIENT.includes(code)
      ? 'unavailable'
      : 'unexpected'
  return new RpcError(rpc, failure, { message: error.message, code: code || `http_${status}` })
}

function objectIn(json: string | null | undefined): Record<string, unknown> | null {
  if (!json) return null
  try {
    const value: unknown = JSON.parse(json)
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null
  } catch {
    return null
  }
}
