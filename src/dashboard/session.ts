import type { DashboardProject } from '../contract/dashboard.ts'
import { claimsOf } from './keys.ts'
import { for_tab } from './storage.ts'

interface Tokens {
  access_token: string
  refresh_token: string | null
}

/** A token is renewed when it has less than this left (ms). */
const RENEW_MS = 60_000

/** Who is signed in, in this tab. */
export interface Session {
  /** For requests: fresh, if it can be renewed. */
  token(): Promise<string | null>
  /** As it is. */
  peek(): string | null
  /** @throws Error with a sentence for people. */
  signIn(email: string, password: string): Promise<void>
  /** Makes the account first: for the demo user of a local stack. */
  signUp(email: string, password: string): Promise<void>
  useToken(token: string): void
  signOut(): void
}

/** A session with the project's Auth, over its two requests; the library for it would be half of this page. */
export function createSession(project: DashboardProject): Session {
  const name = `session.${new URL(project.url).origin}`
  let tokens = read(for_tab.get(name))
  let renewal: Promise<void> | undefined

  function keep(next: Tokens | null): void {
    tokens = next
    for_tab.set(name, next && JSON.stringify(next))
  }

  async function ask(path: string, body: object): Promise<void> {
    let response: Response
    try {
      response = await fetch(`${project.url.replace(/\/+$/, '')}/auth/v1/${path}`, {
        method: 'POST',
        headers: { apikey: project.key, 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(20_000),
      })
    } catch {
      throw new Error('The project can not be reached: check its URL and the network.')
    }
    const answer = (await response.json().catch(() => ({}))) as Partial<Tokens> & {
      msg?: string
      error_description?: string
      message?: string
    }
    if (!response.ok || !answer.access_token) {
      const why = answer.msg ?? answer.error_description ?? answer.message
      throw new Error(why ?? `Signing in was answered with ${response.status}.`)
    }
    keep({ access_token: answer.access_token, refresh_token: answer.refresh_token ?? null })
  }

  return {
    async token() {
      const expires_at = (claimsOf(tokens?.access_token ?? '')?.exp ?? 0) * 1000
      if (tokens?.refresh_token && expires_at - Date.now() < RENEW_MS) {
        const { refresh_token } = tokens
        renewal ??= ask('token?grant_type=refresh_token', { refresh_token }).finally(() => {
          renewal = undefined
        })
        // An old token is refused by the server, which says more than a failed renewal.
        await renewal.catch(() => {})
      }
      return tokens?.access_token ?? null
    },
    peek: () => tokens?.access_token ?? null,
    signIn: (email, password) => ask('token?grant_type=password', { email, password }),
    signUp: (email, password) => ask('signup', { email, password }),
    useToken: (access_token) => keep({ access_token, refresh_token: null }),
    signOut: () => keep(null),
  }
}

function read(text: string | null): Tokens | null {
  try {
    return JSON.parse(text ?? '') as Tokens
  } catch {
    return null
  }
}
