import { randomBytes, randomUUID } from 'node:crypto'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SignJWT } from 'jose'

/** What a project's API trusts: made once for a data directory, kept in its keys.json. */
export type Keys = {
  publishable_key: string
  secret_key: string
  jwt_secret: string
  /** Names the one signing key in the JWKS and in the header of each session. */
  kid: string
}

/** Reads the keys of a data directory, making them at the first call. */
export function loadKeys(dir: string): Keys {
  const file = join(dir, 'keys.json')
  if (existsSync(file)) return JSON.parse(readFileSync(file, 'utf8')) as Keys
  const random = () => randomBytes(24).toString('base64url').replaceAll(/[-_]/g, 'x')
  const keys: Keys = {
    publishable_key: `sb_publishable_${random()}`,
    secret_key: `sb_secret_${random()}`,
    jwt_secret: randomBytes(32).toString('hex'),
    kid: randomUUID(),
  }
  // Never half a file: the keys sign what is in the database.
  writeFileSync(`${file}.new`, `${JSON.stringify(keys, null, 2)}\n`, { mode: 0o600 })
  renameSync(`${file}.new`, file)
  return keys
}

/** The key set that verifies sessions, as edge functions get it in SUPABASE_JWKS. */
export function jwks(keys: Keys): { keys: Record<string, string>[] } {
  return {
    keys: [
      {
        kty: 'oct',
        k: Buffer.from(keys.jwt_secret).toString('base64url'),
        kid: keys.kid,
        alg: 'HS256',
        use: 'sig',
      },
    ],
  }
}

/** A long-lived key of the old style (a JWT that only names a role), as hosted functions still get them. */
export function legacyKey(keys: Keys, role: 'anon' | 'service_role'): Promise<string> {
  return signToken(keys, { iss: 'supabase', ref: 'rollcall', role, iat: 1_700_000_000, exp: 4_000_000_000 })
}

/** Signs a payload as it is, with the `kid` that the JWKS holds. */
export function signToken(keys: Keys, payload: Record<string, unknown>): Promise<string> {
  return new SignJWT(payload)
    .setProtectedHeader({ alg: 'HS256', typ: 'JWT', kid: keys.kid })
    .sign(new TextEncoder().encode(keys.jwt_secret))
}
