import { FunctionsFetchError, FunctionsHttpError, type PostgrestError } from '@supabase/supabase-js'
import type { ErrorBody } from '../contract/errors.ts'

export interface RollcallErrorInit {
  /** The HTTP status; 0 when no answer came. */
  status: number
  code: string
  message: string
  hint?: string | undefined
  details?: Record<string, unknown> | undefined
  cause?: unknown
}

/** Why a call was refused or failed. `code` is a stable word to branch on, `hint` says the cure. */
export class RollcallError extends Error {
  override name = 'RollcallError'
  /** The HTTP status; 0 when no answer came (`unreachable`), 408 for `timeout`. */
  readonly status: number
  readonly code: string
  readonly hint: string | undefined
  readonly details: Record<string, unknown> | undefined

  constructor({ status, code, message, hint, details, cause }: RollcallErrorInit) {
    super(message, { cause })
    this.status = status
    this.code = code
    this.hint = hint
    this.details = details
  }
}

/** What a failed call of an edge function means. */
export async function fromFunction(error: unknown): Promise<RollcallError> {
  if (error instanceof FunctionsHttpError) {
    const response = error.context as Response
    const body = (await response.json().catch(() => null)) as ErrorBody | null
    return new RollcallError({
      status: response.status,
      code: body?.code ?? codeOf(response.status),
      message: body?.message ?? `The function answered ${response.status}.`,
      hint: body?.hint,
      details: body?.details,
      cause: error,
    })
  }
  if (error instanceof FunctionsFetchError) return unreachable(error)
  return new RollcallError({ status: 500, code: 'internal_error', message: String(error), cause: error })
}

/** What a failed read of the database API means. Our own refusals have SQLSTATE PTnnn and a word for a message. */
export function fromDatabase(error: PostgrestError, status: number): RollcallError {
  if (status === 0) return unreachable(error)
  const refused = /^PT\d{3}$/.test(error.code)
  return new RollcallError({
    status,
    code: refused ? error.message : codeOf(status),
    message: refused
      ? (error.hint ?? error.message)
      : error.message || `The database API answered ${status}.`,
    hint: error.hint ?? undefined,
    details: refused ? parsed(error.details) : undefined,
    cause: error,
  })
}

function unreachable(cause: unknown): RollcallError {
  return new RollcallError({
    status: 0,
    code: 'unreachable',
    message: 'The project can not be reached.',
    hint: 'Check the network and the URL that createClient() was given.',
    cause,
  })
}

function codeOf(status: number): string {
  if (status === 401) return 'unauthorized'
  if (status === 403) return 'forbidden'
  if (status === 404) return 'not_found'
  if (status === 429) return 'limit_reached'
  return status >= 500 ? 'unavailable' : 'invalid_request'
}

function parsed(text: string | null): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text ?? '')
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}
