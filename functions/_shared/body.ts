import { refusal } from './errors.ts'

/** The limit of a request body, in bytes. */
export const MAX_BODY_BYTES = 1024 * 1024

/**
 * The JSON body of a request; undefined if it is empty. Nothing beyond the limit is read.
 * Refuses with unsupported_media_type, too_large or malformed_json.
 */
export async function readJson(request: Request): Promise<unknown> {
  if (Number(request.headers.get('content-length') ?? 0) > MAX_BODY_BYTES) throw refusal('too_large')
  const bytes = request.body === null ? new Uint8Array() : await readBytes(request.body)
  if (bytes.length === 0) return undefined
  if (!isJson(request.headers.get('content-type'))) throw refusal('unsupported_media_type')
  if (request.headers.get('content-encoding') !== null) {
    throw refusal('unsupported_media_type', { message: 'Compressed bodies are not accepted.' })
  }
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw refusal('malformed_json', { message: 'The body is not UTF-8.' })
  }
  try {
    return JSON.parse(text)
  } catch {
    throw refusal('malformed_json')
  }
}

async function readBytes(body: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let size = 0
  const reader = body.getReader()
  for (;;) {
    const { done, value } = await reader.read().catch((cause) => {
      throw refusal('malformed_json', { message: 'The body ended early.', cause })
    })
    if (done) break
    size += value.length
    if (size > MAX_BODY_BYTES) {
      await reader.cancel().catch(() => {})
      throw refusal('too_large')
    }
    chunks.push(value)
  }
  const bytes = new Uint8Array(size)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

function isJson(content_type: string | null): boolean {
  const [type, ...parameters] = (content_type ?? '').toLowerCase().split(';')
  const charset = parameters.map((parameter) => parameter.trim()).find((one) => one.startsWith('charset='))
  return (
    type?.trim() === 'application/json' && [undefined, 'charset=utf-8', 'charset="utf-8"'].includes(charset)
  )
}
