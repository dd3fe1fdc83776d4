import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { build } from 'vite'
import { buildDashboard } from '../../src/local/dashboard.ts'
import type { Fixture } from '../browser/dashboard_fixture.ts'

const project_dir = join(import.meta.dirname, '..', '..')
export const built_page = join(project_dir, 'dist', 'dashboard', 'index.html')

/** Where pages of made-up runs live: an address that nobody serves. */
export const page_url = 'https://dashboard.test/'

export function launchBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  })
}

let fixture_page: Promise<string> | undefined

/** The page as it is built, but for its runs: those are what the test makes up. */
export function fixturePage(): Promise<string> {
  fixture_page ??= (async () => {
    const entry = join(project_dir, 'tests', 'browser', 'dashboard_fixture.ts')
    const result = await build({
      configFile: join(project_dir, 'vite.dashboard.config.ts'),
      logLevel: 'silent',
      build: { write: false },
      plugins: [
        {
          name: 'fixture',
          enforce: 'pre',
          resolveId: (id) => (id.endsWith('/main.tsx') ? entry : undefined),
        },
      ],
    })
    const outputs = (Array.isArray(result) ? result : [result]).flatMap((part) =>
      'output' in part ? part.output : [],
    )
    const page = outputs.find((file) => file.type === 'asset')
    if (page?.type !== 'asset') throw new Error('There is no page.')
    return String(page.source)
  })()
  return fixture_page
}

/** The page that is published, built anew. */
export async function publishedPage(): Promise<string> {
  await buildDashboard()
  return readFileSync(built_page, 'utf8')
}

export interface OpenedPage {
  page: Page
  /** What the page complained of: errors, refused requests, requests to elsewhere. */
  complaints: string[]
}

export interface OpenOptions extends BrowserContextOptions {
  hash?: string
  /** Makes up what is there before the page looks. Runs in the page. */
  prepare?: (fixture: Fixture) => void
  /** Keeps the clock in the hands of the test, from this time on. */
  clock?: boolean
}

/** Opens the page on made-up runs. */
export async function openFixture(
  browser: Browser,
  { hash = '', prepare, clock = false, ...context_options }: OpenOptions = {},
): Promise<OpenedPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...context_options })
  const page = await context.newPage()
  page.setDefaultTimeout(8000)
  if (clock) await page.clock.install()
  const complaints = watchComplaints(page, (url) => url.startsWith(page_url))
  const html = await fixturePage()
  await page.route(`${page_url}**`, (route) => route.fulfill({ contentType: 'text/html', body: html }))
  await page.goto(`${page_url}${hash}`)
  if (prepare) await page.evaluate(`(${prepare.toString()})(window.fixture)`)
  await page.evaluate(() => dispatchEvent(new Event('rollcall-mount')))
  return { page, complaints }
}

/** Runs in the page, on its runs. */
export function inFixture<T>(page: Page, work: (fixture: Fixture) => T): Promise<T> {
  return page.evaluate(`(${work.toString()})(window.fixture)`) as Promise<T>
}

/** Notes what no page should do. */
export function watchComplaints(page: Page, is_own: (url: string) => boolean): string[] {
  const complaints: string[] = []
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('request', (request) => {
    const url = request.url()
    if (!is_own(url) && !/^(?:data|blob):/.test(url)) complaints.push(`asks ${url}`)
  })
  return complaints
}

/** The rows of the list that are in the document, as their words. */
export function rowsOf(page: Page): Promise<{ id: string; text: string }[]> {
  return page.locator('.runs .body .row').evaluateAll((rows) =>
    rows
      .map((row) => ({
        id: (row as HTMLElement).dataset.id ?? '',
        text: (row as HTMLElement).innerText.replaceAll('\n', ' '),
        top: Number(/-?[\d.]+/.exec((row as HTMLElement).style.transform)?.[0] ?? 0),
      }))
      .sort((a, b) => a.top - b.top)
      .map(({ id, text }) => ({ id, text })),
  )
}
