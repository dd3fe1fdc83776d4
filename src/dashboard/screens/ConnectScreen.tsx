import { useState } from 'preact/hooks'
import type { DashboardProject } from '../../contract/dashboard.ts'
import { claimsOf, secretProblem } from '../keys.ts'
import { namedProject, projectName } from '../project.ts'
import type { Session } from '../session.ts'

/** Chooses a project, unless the server of the page did, and signs in to it. */
export function ConnectScreen({
  project,
  is_given,
  sessionOf,
  onForget,
  onDone,
}: {
  project: DashboardProject | null
  is_given: boolean
  sessionOf(project: DashboardProject): Session
  onForget(): void
  onDone(): void
}) {
  const [by, setBy] = useState<'password' | 'token'>('password')
  const [problem, setProblem] = useState<string | null>(null)
  const [is_busy, setBusy] = useState(false)

  async function submit(form: HTMLFormElement): Promise<void> {
    const text = (name: string) => String(new FormData(form).get(name) ?? '').trim()
    setProblem(null)
    setBusy(true)
    try {
      const chosen = project ?? readProject(text('url'), text('key'))
      const session = sessionOf(chosen)
      if (by === 'token') session.useToken(readToken(text('token')))
      else await signIn(session, chosen, text('email'), text('password'))
      onDone()
    } catch (error) {
      setProblem((error as Error).message)
    } finally {
      setBusy(false)
    }
  }

  return (
    <div class="connect">
      <h1>{project ? 'Sign in' : 'Connect to a project'}</h1>
      {project && (
        <p class="quiet">
          to <strong>{projectName(project)}</strong> <span class="url">{project.url}</span>
        </p>
      )}
      <form
        onSubmit={(event) => {
          event.preventDefault()
          void submit(event.currentTarget)
        }}
      >
        {!project && (
          <>
            <label class="field">
              Project URL
              <input
                name="url"
                type="url"
                required
                defaultValue={namedProject()}
                placeholder="https://<ref>.supabase.co"
                autocomplete="url"
              />
            </label>
            <label class="field">
              Publishable or anon key
              <input
                name="key"
                required
                autocomplete="off"
                spellcheck={false}
                placeholder="sb_publishable_…"
              />
            </label>
          </>
        )}
        {by === 'password' ? (
          <>
            <label class="field">
              Email
              <input
                name="email"
                type="email"
                required
                autocomplete="username"
                defaultValue={project?.sign_in?.email ?? ''}
              />
            </label>
            <label class="field">
              Password
              <input
                name="password"
                type="password"
                required
                autocomplete="current-password"
                defaultValue={project?.sign_in?.password ?? ''}
              />
            </label>
            {project?.sign_in && <p class="quiet">The demo user of this local stack is filled in.</p>}
          </>
        ) : (
          <label class="field">
            Access token (JWT) of a user
            <textarea name="token" required rows={4} spellcheck={false} autocomplete="off" />
          </label>
        )}
        {problem && (
          <p class="trouble" role="alert">
            {problem}
          </p>
        )}
        <div class="buttons">
          <button type="submit" class="primary" aria-disabled={is_busy}>
            {is_busy ? 'Signing in …' : 'Sign in'}
          </button>
          <button
            type="button"
            class="link"
            onClick={() => {
              setProblem(null)
              setBy(by === 'password' ? 'token' : 'password')
            }}
          >
            {by === 'password' ? 'Use a token instead' : 'Use a password instead'}
          </button>
          {project && !is_given && (
            <button type="button" class="link" onClick={onForget}>
              Another project
            </button>
          )}
        </div>
      </form>
      <p class="quiet small-print">
        You see your own runs, operators see everybody's. The session ends with this tab.
      </p>
    </div>
  )
}

async function signIn(session: Session, project: DashboardProject, email: string, password: string) {
  try {
    await session.signIn(email, password)
  } catch (error) {
    // The demo user of a local stack exists once the demo has run: or from now on.
    const is_demo = project.sign_in?.email === email && project.sign_in.password === password
    if (!is_demo) throw error
    await session.signUp(email, password)
  }
}

function readProject(url: string, key: string): DashboardProject {
  const problem = secretProblem(key)
  if (problem) throw new Error(problem)
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) throw new Error('The URL begins with https://.')
  return { url: new URL(url).origin, key }
}

function readToken(text: string): string {
  const token = text.replace(/^Bearer\s+/i, '')
  const problem = secretProblem(token)
  if (problem) throw new Error(problem)
  const claims = claimsOf(token)
  if (!claims) throw new Error('This is no JWT: it has three parts with dots between them.')
  if (claims.exp !== undefined && claims.exp * 1000 < Date.now()) throw new Error('This token has expired.')
  return token
}
