export type ApiStatus = 400 | 401 | 404 | 408 | 409 | 412 | 422 | 500 | 503

/** A refusal in the words of the Machines API; its message is the `error` of the answer. */
export class ApiError extends Error {
  readonly status: ApiStatus
  constructor(status: ApiStatus, message: string) {
    super(message)
    this.status = status
  }
}

/** 404: no such machine, or one that is gone for good. */
export function machineNotFound(): ApiError {
  return new ApiError(404, 'not_found: machine not found')
}
