import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { type DashboardProject, dashboardFor } from '../contract/dashboard.ts'
import { project_dir } from './project.ts'

const page = join(project_dir, 'dist', 'dashboard', 'index.html')
const config = join(project_dir, 'vite.dashboard.config.ts')
/** What the page is made of. */
const sources = ['src/dashboard', 'src/client', 'src/contract'].map((name) => join(project_dir, name))

/** Serves the dashboard for one project under /dashboard, built when it is missing or older than its sources. */
export function createDashboard(project: DashboardProject): { fetch(request: Request): Promise<Response> } {
  let building: Promise<void> | undefined
  return {
    async fetch(request) {
      const { pathname } = new URL(request.url)
      if (pathname !== '/dashboard' && pathname !== '/dashboard/') return new Response(null, { status: 404 })
      if (isStale()) {
        building ??= buildDashboard().finally(() => {
          building = undefined
        })
        await building
      }
      return new Response(dashboardFor(readFileSync(page, 'utf8'), project), {
        headers: {
          'content-type': 'text/html; charset=utf-8',
          'cache-control': 'no-store',
          'referrer-policy': 'no-referrer',
          'x-content-type-options': 'nosniff',
          // A policy inside of a page can not say this.
          'content-security-policy': "frame-ancestors 'none'",
        },
      })
    },
  }
}

/** Builds dist/dashboard/index.html. Renamed into place: who reads it meanwhile never reads half of it. */
export async function buildDashboard(): Promise<void> {
  const { build } = await import('vite')
  const result = await build({ configFile: config, logLevel: 'silent', build: { write: false } })
  const files = (Array.isArray(result) ? result : [result]).flatMap((part) =>
    'output' in part ? part.output : [],
  )
  const html = files.find((file) => file.type === 'asset' && file.fileName === 'index.html')
  if (html?.type !== 'asset') throw new Error('The build of the dashboard has no page.')
  mkdirSync(dirname(page), { recursive: true })
  const next = `${page}.${process.pid}`
  writeFileSync(next, html.source)
  renameSync(next, page)
}

function isStale(): boolean {
  if (!existsSync(page)) return true
  const built_at = statSync(page).mtimeMs
  const files = sources.flatMap((dir) =>
    readdirSync(dir, { recursive: true }).map((name) => join(dir, String(name))),
  )
  return [config, ...files].some((file) => statSync(file).mtimeMs > built_at)
}
