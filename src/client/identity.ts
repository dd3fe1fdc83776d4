import type { SupabaseClient } from '@supabase/supabase-js'

export type Identity =
  | { kind: 'user'; user_id: string; operator: boolean }
  | { kind: 'secret' }
  | { kind: 'nobody' }

type Claims = { sub?: string; role?: string; app_metadata?: { rollcall?: string } }

/** Whose token Realtime uses from now on: fetches a fresh one first, which a private channel needs to be joined. */
export async function identify(supabase: Pick<SupabaseClient, 'realtime'>): Promise<Identity> {
  await supabase.realtime.setAuth()
  const token = supabase.realtime.accessTokenValue ?? ''
  if (token.startsWith('sb_secret_')) return { kind: 'secret' }
  const claims = claimsOf(token)
  if (claims.role === 'service_role') return { kind: 'secret' }
  if (claims.role !== 'authenticated' || claims.sub === undefined) return { kind: 'nobody' }
  return {
    kind: 'user',
    user_id: claims.sub,
    operator: claims.app_metadata?.rollcall === 'operator',
  }
}

/**
 * Calls back with who signed in, or null when somebody signed out. Clients with a token of their own have no such
 * events.
 */
export function onSession(supabase: SupabaseClient, listener: (user_id: string | null) => void): () => void {
  try {
    const { data } = supabase.auth.onAuthStateChange((event, session) => {
      if (event === 'SIGNED_OUT') listener(null)
      else if (session && (event === 'SIGNED_IN' || event === 'TOKEN_REFRESHED')) listener(session.user.id)
    })
    return () => data.subscription.unsubscribe()
  } catch {
    return () => {}
  }
}

/** Reads a token without checking it: only the server's word counts. */
function claimsOf(token: string): Claims {
  try {
    const payload = token.split('.')[1] ?? ''
    const bytes = Uint8Array.from(atob(payload.replaceAll('-', '+').replaceAll('_', '/')), (c) =>
      c.charCodeAt(0),
    )
    return JSON.parse(new TextDecoder().decode(bytes)) as Claims
  } catch {
    return {}
  }
}
