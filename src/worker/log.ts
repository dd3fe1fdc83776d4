/** What must not reach a log, wherever a message carries it: keys, bearer tokens, JWTs. */
const SECRETS = /sb_secret_[\w-]+|\bsk-[\w-]{16,}|eyJ[\w-]+\.[\w-]+\.[\w-]+|\bBearer\s+\S+/gi

const MAX_TEXT = 500

/** One JSON line about something that happened: ids and words, no secrets. Errors go to stderr. */
export function log(level: 'info' | 'error', event: string, fields: Record<string, unknown> = {}): void {
  const line = JSON.stringify({ at: new Date().toISOString(), level, event, ...fields }, (_key, value) =>
    typeof value === 'string' ? withoutSecrets(value).slice(0, MAX_TEXT) : value,
  )
  if (level === 'error') console.error(line)
  else console.log(line)
}

/** A text in which whatever looks like a key or a token is blotted out. */
export function withoutSecrets(text: string): string {
  return text.replaceAll(SECRETS, '[secret]')
}

/** An unknown error as fields of a log line. */
export function errorFields(error: unknown): { error: string; message: string; code?: string } {
  if (!(error instanceof Error)) return { error: 'unknown', message: String(error) }
  const code = (error as { code?: unknown }).code
  return { error: error.name, message: error.message, ...(typeof code === 'string' ? { code } : {}) }
}
