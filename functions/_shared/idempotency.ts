import { invalidRequest } from './errors.ts'

/** The Idempotency-Key of a request, null for none: the same request with the same key is made once. */
export function idempotencyKey(request: Request): string | null {
  const key = request.headers.get('idempotency-key')
  if (key === null || /^[\x21-\x7e]{1,255}$/.test(key)) return key
  throw invalidRequest([
    { path: 'Idempotency-Key', message: 'The header has 1 to 255 printable ASCII characters.' },
  ])
}
