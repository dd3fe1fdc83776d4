import { SignJWT } from 'jose'
import type { Guest } from './meeting.ts'

/** An evicted guest could hear the room for this long, so tokens are short and asked for again. */
export const TOKEN_LIFETIME_S = 300

/**
 * Signs what a guest may hear over Realtime: their own topic, and the room's once they are in. It has no `sub`, so
 * it is nobody's session anywhere else.
 */
export async function signGuestToken(
  meeting_id: string,
  guest: Guest,
  key: { jwt_secret: string; kid: string },
): Promise<{ token: string; expires_at: string }> {
  const now_s = Math.floor(Date.now() / 1000)
  const expires_s = now_s + TOKEN_LIFETIME_S
  const room = { id: meeting_id, guest: guest.id, admitted: guest.standing === 'admitted' }
  const token = await new SignJWT({ role: 'authenticated', room })
    .setProtectedHeader({ alg: 'HS256', typ: 'JWT', kid: key.kid })
    .setAudience('authenticated')
    .setIssuedAt(now_s)
    .setExpirationTime(expires_s)
    .sign(new TextEncoder().encode(key.jwt_secret))
  return { token, expires_at: new Date(expires_s * 1000).toISOString() }
}
