import { PinnedError, type PinnedOptions, requestPinned } from './pinned_request.ts'

/** What a receiver answered. Its body is never read. */
export interface PostAnswer {
  status: number
  /** What its Retry-After asks for, in seconds; null without one. */
  retry_after_s: number | null
}

/** A POST without an answer. `refused`: it was not sent, since its target may not be called. */
export class PostError extends Error {
  override name = 'PostError'
  readonly refused: boolean

  constructor(message: string, refused = false) {
    super(message)
    this.refused = refused
  }
}

export type PostOptions = PinnedOptions

/** Posts to a URL that somebody else has given, as `requestPinned` does. Throws PostError. */
export async function postPinned(
  url: string,
  headers: Record<string, string>,
  body: string,
  options: PostOptions,
): Promise<PostAnswer> {
  try {
    const answer = await requestPinned(url, { method: 'POST', headers, body, max_body_bytes: 0 }, options)
    return { status: answer.status, retry_after_s: retryAfter(answer.headers['retry-after']) }
  } catch (error) {
    throw error instanceof PinnedError ? new PostError(error.message, error.refused) : error
  }
}

function retryAfter(text: string | undefined): number | null {
  if (text === undefined) return null
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000
  return Number.isFinite(seconds) && seconds > 0 ? seconds : null
}
