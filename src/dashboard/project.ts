import { connectSources, type DashboardProject } from '../contract/dashboard.ts'
import { for_browser } from './storage.ts'

const NAME = 'project'

/** The project of this page: the one its server named, else the one that was connected to last. */
export function readProject(): { project: DashboardProject | null; is_given: boolean } {
  const given = parsed(document.getElementById('rollcall-project')?.textContent)
  if (given) return { project: given, is_given: true }
  const kept = parsed(for_browser.get(NAME))
  // A link with ?project= means that project, whatever was looked at last.
  const named = namedProject()
  return { project: kept && (named === '' || sameOrigin(named, kept.url)) ? kept : null, is_given: false }
}

/** The URL in `?project=`, which the form begins with. Keys are never read from there. */
export function namedProject(): string {
  return new URLSearchParams(location.search).get('project') ?? ''
}

export function keepProject(project: DashboardProject | null): void {
  for_browser.set(NAME, project && JSON.stringify(project))
}

/**
 * From now on this page talks to that project and nobody else: a further policy, which browsers enforce beside the one
 * that the page came with. There is no way back but loading the page again.
 */
export function talkOnlyTo(project: DashboardProject): void {
  const meta = document.createElement('meta')
  meta.httpEquiv = 'Content-Security-Policy'
  meta.content = connectSources(project.url)
  document.head.append(meta)
}

/** What the header calls it: its name, the ref of a hosted project, or the host. */
export function projectName({ name, url }: DashboardProject): string {
  if (name) return name
  const { host } = new URL(url)
  return host.endsWith('.supabase.co') ? (host.split('.')[0] ?? host) : host
}

function parsed(text: string | null | undefined): DashboardProject | null {
  try {
    const read = JSON.parse(text ?? '') as DashboardProject | null
    return read && URL.canParse(read.url) && typeof read.key === 'string' ? read : null
  } catch {
    return null
  }
}

function sameOrigin(a: string, b: string): boolean {
  return URL.canParse(a) && new URL(a).origin === new URL(b).origin
}
