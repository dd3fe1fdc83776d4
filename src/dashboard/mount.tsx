import { render } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { createLive, type LiveOptions } from '../client/live/live.ts'
import type { DashboardProject } from '../contract/dashboard.ts'
import { App } from './App.tsx'
import { createDashboardSource } from './dashboard_source.ts'
import type { DashboardSource, Desk } from './desk.ts'
import { useRoute } from './hooks.ts'
import { isOperator } from './keys.ts'
import { applyTheme } from './preferences.ts'
import { keepProject, projectName, readProject, talkOnlyTo } from './project.ts'
import { readRoute } from './route.ts'
import { ConnectScreen } from './screens/ConnectScreen.tsx'
import { createSession, type Session } from './session.ts'
import './palette.css'
import './page.css'
import './list.css'
import './run.css'

export interface MountOptions {
  /** Where the runs come from, instead of a project; for tests and for looking at the page without one. */
  source?: DashboardSource
  is_operator?: boolean
  live?: Partial<LiveOptions>
}

/** Draws the page into an element. */
export function mount(root: HTMLElement, options: MountOptions = {}): void {
  applyTheme()
  render(<Page options={options} />, root)
}

/** Runs that are read at a time. */
const PAGE = 100

let narrowed_to: string | null = null
const sessions = new Map<string, Session>()

/** The session with a project; from then on the page talks to nobody else. */
function sessionOf(project: DashboardProject): Session {
  if (narrowed_to === null) {
    narrowed_to = new URL(project.url).origin
    talkOnlyTo(project)
  }
  const session = sessions.get(project.url) ?? createSession(project)
  sessions.set(project.url, session)
  return session
}

function Page({ options }: { options: MountOptions }) {
  const [given] = useState(() => (options.source ? { project: null, is_given: true } : readProject()))
  const [project, setProject] = useState(given.project)
  const [desk, setDesk] = useState<Desk | null>(() => {
    if (options.source) return injected(options)
    if (!project || sessionOf(project).peek() === null) return null
    return deskOf(project, sessionOf(project))
  })
  const route = useRoute()

  useEffect(() => {
    if (!desk && !document.title.startsWith('Sign in')) document.title = 'Sign in – Rollcall'
  }, [desk])

  if (desk && route.screen !== 'connect') return <App desk={desk} />
  return (
    <>
      <header class="top">
        <span class="brand">Rollcall</span>
      </header>
      <main id="main">
        <ConnectScreen
          project={project}
          is_given={given.is_given}
          sessionOf={(chosen) => {
            // The policy of a page can only get narrower.
            if (narrowed_to !== null && narrowed_to !== new URL(chosen.url).origin) {
              keepProject(chosen)
              location.reload()
            }
            if (!given.is_given) keepProject(chosen)
            setProject(chosen)
            return sessionOf(chosen)
          }}
          onForget={() => {
            keepProject(null)
            location.reload()
          }}
          onDone={() => {
            const now = project ?? readProject().project
            if (!now) return
            desk?.live.stop()
            setDesk(deskOf(now, sessionOf(now)))
            if (readRoute(location.hash).screen === 'connect') {
              if (desk) history.back()
              else location.hash = '#/'
            }
          }}
        />
      </main>
    </>
  )

  function deskOf(its: DashboardProject, session: Session): Desk {
    const source = createDashboardSource(its, session)
    return {
      live: createLive({ source, page_size: PAGE, ...options.live }),
      source,
      url: its.url,
      project_name: projectName(its),
      is_operator: isOperator(session.peek()),
      signOut() {
        session.signOut()
        source.close()
        location.hash = '#/'
        location.reload()
      },
    }
  }
}

function injected({ source, is_operator = false, live }: MountOptions): Desk {
  if (!source) throw new Error('A source is missing.')
  return {
    live: createLive({ source, page_size: PAGE, ...live }),
    source,
    url: 'https://example.supabase.co',
    project_name: 'example',
    is_operator,
    signOut() {},
  }
}
