import type { ErrorBody, Issue } from '../../src/contract/errors.ts'
import { RpcError } from '../../src/worker/rpc.ts'

/** The one table of refusals: each stable word, its HTTP status and its sentence. */
const REFUSALS = {
  malformed_json: [400, 'The body is not JSON.'],
  unauthorized: [401, 'Your credentials are missing or not valid.'],
  forbidden: [403, 'You may not do this.'],
  not_found: [404, 'There is nothing at this path.'],
  bot_not_found: [404, 'There is no such bot.'],
  flow_not_found: [404, 'There is no such flow.'],
  execution_not_found: [404, 'There is no such execution.'],
  workflow_not_found: [404, 'There is no such workflow.'],
  workflow_run_not_found: [404, 'The workflow has no such run.'],
  script_not_found: [404, 'The workflow has no such script.'],
  error_not_found: [404, 'The workflow has no such error event.'],
  notification_not_found: [404, 'The workflow has no such notification.'],
  mutation_not_found: [404, 'The workflow has no such mutation.'],
  webhook_endpoint_not_found: [404, 'There is no such webhook endpoint.'],
  webhook_delivery_not_found: [404, 'There is no such webhook delivery.'],
  method_not_allowed: [405, 'This path does not answer to this method.'],
  illegal_transition: [409, 'The status does not follow from the current one.'],
  already_open: [409, 'A bot attends this meeting already.'],
  idempotency_key_reused: [409, 'This Idempotency-Key was used with another body.'],
  not_ended: [409, 'The bot has not ended yet, so it can not be retried.'],
  already_ended: [409, 'It has ended already, so there is nothing to cancel.'],
  not_failed: [409, 'Only an execution that failed can be retried.'],
  unresolved_mutation: [409, 'Nobody knows yet whether a side effect of the workflow happened.'],
  not_indeterminate: [409, 'The other side is still being asked whether the side effect happened.'],
  cannot_be_asked: [409, 'There is nobody who could be asked whether the side effect happened.'],
  workflow_archived: [409, 'The workflow is put away.'],
  not_runnable: [409, 'The workflow can not be run now.'],
  webhook_endpoint_disabled: [409, 'The endpoint is disabled: enable it first.'],
  stale_lease: [409, 'Another attempt has taken over.'],
  too_large: [413, 'The body is larger than 1 MB.'],
  unsupported_media_type: [415, 'The body must be JSON: send content-type: application/json.'],
  invalid_request: [422, 'The request is not valid.'],
  limit_reached: [429, 'The limit is reached.'],
  internal_error: [500, 'Something went wrong on our side.'],
  unavailable: [503, 'The database can not be reached right now. Try again.'],
} as const satisfies Record<string, readonly [status: number, message: string]>

export type RefusalCode = keyof typeof REFUSALS

/** How long a caller waits after a 429 or 503 that names no time, in seconds. */
const RETRY_AFTER_S: Partial<Record<number, number>> = { 429: 30, 503: 2 }

interface Extra {
  message?: string
  hint?: string | null
  details?: Record<string, unknown> | null
  headers?: Record<string, string>
  cause?: unknown
}

/** A request that ends with an error answer. */
export class HttpError extends Error {
  override name = 'HttpError'
  readonly status: number
  readonly code: string
  readonly body: ErrorBody
  readonly headers: Record<string, string>

  constructor(status: number, code: string, message: string, extra: Extra = {}) {
    super(message, { cause: extra.cause })
    this.status = status
    this.code = code
    this.body = {
      code,
      message,
      ...(extra.hint ? { hint: extra.hint } : {}),
      ...(extra.details && Object.keys(extra.details).length > 0 ? { details: extra.details } : {}),
    }
    const seconds = RETRY_AFTER_S[status]
    this.headers = { ...(seconds === undefined ? {} : { 'retry-after': String(seconds) }), ...extra.headers }
  }
}

/** The refusal of a stable word. */
export function refusal(code: RefusalCode, extra: Extra = {}): HttpError {
  const [status, message] = REFUSALS[code]
  return new HttpError(status, code, extra.message ?? message, extra)
}

/** 422 with what is wrong. */
export function invalidRequest(issues: Issue[]): HttpError {
  return refusal('invalid_request', { details: { issues } })
}

function isKnown(code: string): code is RefusalCode {
  return Object.hasOwn(REFUSALS, code)
}

/** An RPC's answer, or the refusal it holds: `{ "ok": false, "code", ... }`. */
export function accepted<T>(answer: T): T {
  if (typeof answer !== 'object' || answer === null || !('ok' in answer) || answer.ok !== false) return answer
  const { ok, code, message, hint, retry_after, ...details } = answer as Record<string, unknown>
  const word = String(code)
  const [status, sentence] = isKnown(word)
    ? REFUSALS[word]
    : [409, 'The request does not fit the current state.']
  throw new HttpError(status, word, typeof message === 'string' ? message : sentence, {
    hint: typeof hint === 'string' ? hint : null,
    details,
    headers:
      typeof retry_after === 'number' ? { 'retry-after': String(Math.max(1, Math.ceil(retry_after))) } : {},
  })
}

/** Any thrown thing as the answer it becomes. SQL text and stacks stay in `cause`, for the log. */
export function toHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error
  if (!(error instanceof RpcError)) return refusal('internal_error', { cause: error })
  switch (error.failure) {
    case 'refused':
      return new HttpError(
        error.status,
        error.code,
        isKnown(error.code) ? REFUSALS[error.code][1] : error.message,
        {
          hint: error.hint,
          details: error.details,
        },
      )
    case 'unfit':
      return refusal('invalid_request', {
        details: { issues: [{ path: '', message: 'A value is out of the range that can be stored.' }] },
        cause: error,
      })
    case 'unavailable':
      return refusal('unavailable', { cause: error })
    case 'unexpected':
      return refusal('internal_error', { cause: error })
  }
}
