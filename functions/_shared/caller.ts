import { verifyAuth } from '@supabase/server/core'
import { refusal } from './errors.ts'

/** Who may call an endpoint: a signed-in user, whoever holds a secret key, a bot with its callback token. */
export type AuthMode = 'user' | 'secret' | 'bot'

export type Caller =
  | { kind: 'user'; user_id: string; operator: boolean; token: string }
  | { kind: 'secret' }
  | { kind: 'bot'; token_hash: string }

/** The form of the ids of this project. */
export const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** A callback token is 32 random bytes in base64url. Other lengths are let through to be refused by the database. */
const BOT_TOKEN = /^Bearer ([\w-]{20,200})$/i

const CURE: Record<AuthMode, string> = {
  user: 'Send the access token of a signed-in user as "Authorization: Bearer <token>".',
  secret: 'Send a secret key as "apikey".',
  bot: 'Send the callback token of the bot as "Authorization: Bearer <token>".',
}

/** Finds out who calls. Refuses with unauthorized; the hint says what to send. */
export async function identify(request: Request, modes: readonly AuthMode[]): Promise<Caller> {
  const unauthorized = () => refusal('unauthorized', { hint: modes.map((mode) => CURE[mode]).join(' ') })
  if (modes.includes('bot')) {
    const token = BOT_TOKEN.exec(request.headers.get('authorization') ?? '')?.[1]
    if (token === undefined) throw unauthorized()
    return { kind: 'bot', token_hash: await sha256Hex(token) }
  }
  // Every secret key of the project counts; bare `secret` would match the one named `default` alone.
  const [first, ...rest] = modes.map((mode) => (mode === 'user' ? ('user' as const) : ('secret:*' as const)))
  if (first === undefined) throw new Error('An endpoint must say who may call it.')
  const { data, error } = await verifyAuth(request, { auth: [first, ...rest] })
  if (error !== null) {
    if (error.status >= 500) throw refusal('internal_error', { cause: error })
    throw unauthorized()
  }
  if (data.authMode === 'secret') return { kind: 'secret' }
  const claims = data.jwtClaims
  // A token of the project that identifies no signed-in person (an old anon key, say) is no user.
  if (claims === null || data.token === null || claims.role !== 'authenticated' || !UUID.test(claims.sub)) {
    throw unauthorized()
  }
  return {
    kind: 'user',
    user_id: claims.sub,
    operator: claims.app_metadata?.rollcall === 'operator',
    token: data.token,
  }
}

/** The owner a request acts for, and the operator who acts in somebody else's name. */
export interface Acting {
  owner_id: string
  actor: string | null
}

/**
 * Whom a writing request acts for: oneself; operators and secret keys may name an owner, and a secret key must.
 * Refuses with forbidden or invalid_request.
 */
export function actingFor(caller: Caller, owner_id: string | undefined): Acting {
  if (caller.kind === 'secret') {
    if (owner_id !== undefined) return { owner_id, actor: null }
    const message = 'A secret key acts for somebody: say for whom.'
    throw refusal('invalid_request', { details: { issues: [{ path: 'owner_id', message }] } })
  }
  if (caller.kind !== 'user') throw refusal('forbidden')
  if (owner_id === undefined || owner_id.toLowerCase() === caller.user_id.toLowerCase()) {
    return { owner_id: caller.user_id, actor: null }
  }
  if (caller.operator) return { owner_id, actor: caller.user_id }
  throw refusal('forbidden', { message: 'Only an operator may act for another owner.' })
}

/** Whom a request acts for that names its subject: its owner then follows from it, so nobody need be named. */
export function actingOn(
  caller: Caller,
  owner_id: string | undefined,
): Acting | { owner_id: null; actor: string | null } {
  if (owner_id === undefined && caller.kind === 'secret') return { owner_id: null, actor: null }
  if (owner_id === undefined && caller.kind === 'user' && caller.operator) {
    return { owner_id: null, actor: caller.user_id }
  }
  return actingFor(caller, owner_id)
}

/**
 * Whose rows a request reads; null for everybody's. Users read their own; an operator anybody's by its id and another
 * owner's list by naming the owner; a secret key reads everything until it names one. Refuses with forbidden.
 */
export function readingFor(caller: Caller, owner_id: string | undefined, by_id: boolean): string | null {
  if (caller.kind !== 'user') return owner_id ?? null
  if (caller.operator) return owner_id ?? (by_id ? null : caller.user_id)
  if (owner_id !== undefined && owner_id.toLowerCase() !== caller.user_id.toLowerCase()) {
    throw refusal('forbidden', { message: 'Only an operator may read what another owner has.' })
  }
  return caller.user_id
}

/** The SHA-256 of a text, in hex. */
export async function sha256Hex(text: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')
}
