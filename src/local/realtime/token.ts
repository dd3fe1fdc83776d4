import { compactVerify, decodeProtectedHeader, importJWK, type JSONWebKeySet } from 'jose'

export type Claims = Record<string, unknown> & { role: string; exp: number }

export type Token = { raw: string; claims: Claims }

export type TokenProblem = 'malformed' | 'expired' | 'missing_claims' | 'signature' | 'no_key'

/** Why a token is not accepted, in the words of the hosted service. */
export class TokenError extends Error {
  override name = 'TokenError'
  readonly problem: TokenProblem

  constructor(problem: TokenProblem, message: string) {
    super(message)
    this.problem = problem
  }
}

export type TokenOptions = {
  jwt_secret: string
  jwks?: JSONWebKeySet | undefined
  api_keys: { publishable: string; secret: string }
}

export type VerifyToken = (raw: string) => Promise<Token>

/**
 * Checks API keys (`sb_...`, which stand for a role) and JWTs. As on hosted, an HS256 token may carry a `kid`
 * that no published key has: then the project's secret decides.
 * @throws TokenError from the returned function.
 */
export function tokenVerifier({ jwt_secret, jwks, api_keys }: TokenOptions): VerifyToken {
  const secret = new TextEncoder().encode(jwt_secret)
  const roles = new Map([
    [api_keys.publishable, 'anon'],
    [api_keys.secret, 'service_role'],
  ])

  async function keyOf(raw: string) {
    let header: { alg?: string; kid?: string }
    try {
      header = decodeProtectedHeader(raw)
    } catch {
      throw new TokenError('malformed', 'The token provided is not a valid JWT')
    }
    const { alg = '', kid } = header
    const jwk = jwks?.keys.find((key) => key.kid === kid && (key.kty === 'oct') === alg.startsWith('HS'))
    if (kid !== undefined && jwk) return importJWK(jwk, alg)
    if (alg.startsWith('HS')) return secret
    throw new TokenError(
      'no_key',
      `Failed to generate JWT signer for key ID (kid) ${JSON.stringify(kid)}, check your JWT secret or JWKS configuration`,
    )
  }

  return async (raw) => {
    const role = roles.get(raw)
    // A key does not run out; policies still find the claims of an anonymous or service token.
    if (role) return { raw, claims: { iss: 'supabase', role, exp: nowInSeconds() + 315_360_000 } }
    const token = raw.replace(/\s/g, '')
    const key = await keyOf(token)
    let payload: Uint8Array
    try {
      payload = (await compactVerify(token, key)).payload
    } catch {
      throw new TokenError('signature', 'Failed to validate JWT signature')
    }
    return { raw, claims: readClaims(payload) }
  }
}

function readClaims(payload: Uint8Array): Claims {
  let claims: Record<string, unknown>
  try {
    claims = JSON.parse(new TextDecoder().decode(payload))
  } catch {
    throw new TokenError('malformed', 'The token provided is not a valid JWT')
  }
  const { role, exp } = claims
  if (typeof role !== 'string' || typeof exp !== 'number') {
    throw new TokenError('missing_claims', 'Fields `role` and `exp` are required in JWT')
  }
  checkExpiry(exp)
  return { ...claims, role, exp: Math.round(exp) }
}

/** @throws TokenError once the moment (seconds since 1970) has come. */
export function checkExpiry(exp: number): void {
  const late = nowInSeconds() - exp
  if (late >= 0) throw new TokenError('expired', `Token has expired ${Math.floor(late)} seconds ago`)
}

function nowInSeconds(): number {
  return Math.floor(Date.now() / 1000)
}
