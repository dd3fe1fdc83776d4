type Claims = {
  role?: string
  exp?: number
  sub?: string
  email?: string
  app_metadata?: { rollcall?: string }
}

/** Reads a token without checking it: only the server's word counts. Null for what is no token. */
export function claimsOf(token: string): Claims | null {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/')
    const bytes = Uint8Array.from(atob(payload), (c) => c.charCodeAt(0))
    return JSON.parse(new TextDecoder().decode(bytes)) as Claims
  } catch {
    return null
  }
}

/** Why a key or token may not be given to a page, as one sentence; null if it may. */
export function secretProblem(text: string): string | null {
  const is_secret = text.trim().startsWith('sb_secret_') || claimsOf(text.trim())?.role === 'service_role'
  return is_secret
    ? 'This is a secret key: it opens everything to whoever gets hold of this page. Use the publishable (or anon) key, and sign in.'
    : null
}

export function isOperator(token: string | null): boolean {
  return token !== null && claimsOf(token)?.app_metadata?.rollcall === 'operator'
}
