/** The project that a server of the page tells it about. Everything in it is public. */
export interface DashboardProject {
  /** As in https://<ref>.supabase.co. */
  url: string
  /** Publishable or anon key; never a secret one. */
  key: string
  /** What the header calls the project; its ref or host if absent. */
  name?: string | undefined
  /** What the sign-in form holds at first: for the demo user of a local stack. */
  sign_in?: { email: string; password: string } | undefined
}

const config_block = /(<script type="application\/json" id="rollcall-project">)[^<]*(<\/script>)/
const connect_src = /connect-src [^;"]*/

/** The page as it was built, for one project: it asks for no URL or key, and its policy lets it talk to that project alone. */
export function dashboardFor(html: string, project: DashboardProject): string {
  // A data block is no script, so the hash of the policy does not concern it; "<" could end it.
  const json = JSON.stringify(project).replaceAll('<', '\\u003c')
  return html
    .replace(config_block, (_all, open: string, close: string) => `${open}${json}${close}`)
    .replace(connect_src, () => connectSources(project.url))
}

/** The directive of the policy that lets a page talk to a project, over HTTP and Realtime, and to nobody else. */
export function connectSources(url: string): string {
  const { origin } = new URL(url)
  return `connect-src ${origin} ${origin.replace(/^http/, 'ws')}`
}
