import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { gzipSync } from 'node:zlib'
import type { Browser, Page, WebSocketRoute } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { dashboardFor } from '../../src/contract/dashboard.ts'
import { built_page, launchBrowser, publishedPage, watchComplaints } from '../support/dashboard.ts'

// The page as it is published, on a project that answers over HTTP and WebSocket as the test says.

const project = { url: 'https://project.test', key: 'sb_publishable_x' }
const jwt = (claims: object) => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`
const in_an_hour = () => Math.floor(Date.now() / 1000) + 3600
const token = () =>
  jwt({ sub: '00000000-0000-4000-8000-0000000000aa', role: 'authenticated', exp: in_an_hour() })

let browser: Browser
let html: string
let page: Page
let complaints: string[]
/** Requests to the project: path and query. */
let asked: string[]
/** What the project answers to everything but signing in. */
let status: number
let sockets: WebSocketRoute[]
/** What joining a channel is answered with. */
let joins: 'ok' | 'error'

beforeAll(async () => {
  browser = await launchBrowser()
  html = await publishedPage()
})

afterAll(() => browser?.close())

beforeEach(async () => {
  page = await (await browser.newContext()).newPage()
  page.setDefaultTimeout(8000)
  complaints = watchComplaints(page, (url) => /^(?:https:\/\/(?:project|dashboard)\.test|file:)/.test(url))
  asked = []
  sockets = []
  status = 200
  joins = 'ok'
  await page.route('https://project.test/**', async (route) => {
    const url = new URL(route.request().url())
    const headers = {
      'access-control-allow-origin': '*',
      'access-control-allow-headers': '*',
      'access-control-allow-methods': '*',
    }
    if (route.request().method() === 'OPTIONS') return route.fulfill({ status: 204, headers })
    asked.push(url.pathname + url.search)
    if (url.pathname.startsWith('/auth/'))
      return route.fulfill({ headers, json: { access_token: token(), refresh_token: 'r' } })
    if (status !== 200)
      return route.fulfill({ status, headers, json: { code: 'PGRST301', message: 'JWT expired' } })
    const as_of = new Date().toISOString()
    const answers: Record<string, unknown> = {
      machine_catalog: { schema_version: 1, machines: [], error_codes: [] },
      status_changes: { events: [], next: '1', has_more: false, reset: false },
      runs_counts: {
        counts: [{ kind: 'bot', state: 'running', n: 1, exact: true }],
        stuck: { n: 0, exact: true },
        failed_last_hour: { n: 0, exact: true },
        stuck_rules: [],
        exact: true,
        as_of,
      },
      run_timeline: {
        id: row().id,
        kind: 'bot',
        transitions: [],
        omitted: 0,
        rejections: [],
        retry_of: null,
        retried_by: null,
        as_of,
      },
      runs_list: { items: [row()], next: null, as_of },
      runs_get: { items: [row()], matches: [row().id], as_of },
    }
    return route.fulfill({ headers, json: answers[url.pathname.split('/').at(-1) ?? ''] ?? {} })
  })
  await page.routeWebSocket(/project\.test/, (socket) => {
    sockets.push(socket)
    socket.onMessage((data) => {
      const [join_ref, ref, topic, event] = JSON.parse(String(data)) as [string, string, string, string]
      const reply = joins === 'ok' || event !== 'phx_join' ? 'ok' : 'error'
      socket.send(
        JSON.stringify([
          join_ref,
          ref,
          topic,
          'phx_reply',
          { status: reply, response: { reason: 'Unauthorized' } },
        ]),
      )
      if (event === 'phx_join' && joins === 'ok')
        socket.send(JSON.stringify([join_ref, null, topic, 'system', { extension: 'system', status: 'ok' }]))
    })
  })
})

afterEach(() => page.context().close())

function row() {
  const at = '2026-11-21T00:00:00.000000Z'
  return {
    id: '00000000-0000-4000-8000-000000000001',
    kind: 'bot',
    name: 'Stand-up',
    state: 'running',
    state_since: at,
    version: 3,
    updated_at: at,
    created_at: at,
    attempt: 1,
    allowed_actions: ['stop'],
  }
}

async function open(content: string, path = ''): Promise<void> {
  await page.route('https://dashboard.test/**', (route) =>
    route.fulfill({ contentType: 'text/html', body: content }),
  )
  await page.goto(`https://dashboard.test/${path}`)
}

/** Opens the page for the project, signed in with a token of this tab. */
async function openSignedIn(): Promise<void> {
  await page.addInitScript(([name, value]) => sessionStorage.setItem(name, value), [
    `rollcall.session.${project.url}`,
    JSON.stringify({ access_token: token(), refresh_token: null }),
  ] as const)
  await open(dashboardFor(html, project))
}

test('the page is one file of less than 60 KB, compressed', () => {
  expect(gzipSync(html, { level: 9 }).length).toBeLessThan(60 * 1024)
  expect(html).not.toMatch(/<(?:script|link)[^>]+(?:src|href)="(?!data:)/)
})

test('it connects to a project by URL and key, signs in, and asks nobody else', async () => {
  await open(html, '?project=https://project.test')
  await page.getByRole('heading', { name: 'Connect to a project' }).waitFor()
  expect(await page.getByLabel('Project URL').inputValue()).toBe('https://project.test')
  await page.getByLabel('key').fill(project.key)
  await page.getByLabel('Email').fill('a@example.com')
  await page.getByLabel('Password').fill('secret-word')
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('link', { name: 'Stand-up' }).waitFor()
  await page.locator('.chip', { hasText: 'Live' }).waitFor()
  expect(complaints).toEqual([])
  expect(await page.evaluate(() => JSON.stringify(localStorage))).not.toContain('access_token')
  expect(asked.join()).not.toContain(project.key)
})

test('a secret key, and the token of a service, are refused with the reason', async () => {
  await open(html)
  await page.getByLabel('Project URL').fill(project.url)
  await page.getByRole('button', { name: 'Use a token instead' }).click()
  await page.getByLabel('Access token').fill(token())
  for (const key of ['sb_secret_abc', jwt({ role: 'service_role' })]) {
    await page.getByLabel('anon key').fill(key)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.getByRole('alert').getByText('This is a secret key').waitFor()
  }
  await page.getByLabel('anon key').fill(project.key)
  await page.getByLabel('Access token').fill(jwt({ role: 'service_role' }))
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('alert').getByText('This is a secret key').waitFor()
  expect(asked).toEqual([])
  expect(await page.evaluate(() => JSON.stringify([localStorage, sessionStorage]))).not.toContain('sb_secret')
})

test('a token that expires keeps what is there; signing in again goes on', async () => {
  await openSignedIn()
  await page.getByRole('link', { name: 'Stand-up' }).waitFor()
  status = 401
  await page.keyboard.press('g')
  await page.evaluate(() => dispatchEvent(new Event('offline')))
  await page.evaluate(() => dispatchEvent(new Event('online')))
  sockets.at(-1)?.send(JSON.stringify([null, null, 'realtime:owner:x', 'broadcast', {}]))
  await page.evaluate(() => {
    Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))
    Object.defineProperty(document, 'visibilityState', { value: 'visible', configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))
  })
  await page.getByText('Session expired.').waitFor()
  expect(await page.getByRole('link', { name: 'Stand-up' }).count()).toBe(1)
  status = 200
  await page.getByRole('link', { name: 'Sign in' }).click()
  await page.getByLabel('Email').fill('a@example.com')
  await page.getByLabel('Password').fill('secret-word')
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.locator('.chip', { hasText: 'Live' }).waitFor()
  await page.getByRole('link', { name: 'Stand-up' }).waitFor()
})

test('a channel that is refused again and again is asked for less and less, and the page polls', async () => {
  joins = 'error'
  let tries = 0
  await page.clock.install()
  page.on('websocket', (socket) =>
    socket.on('framesent', ({ payload }) => {
      if (String(payload).includes('phx_join')) tries += 1
    }),
  )
  await openSignedIn()
  await page.getByRole('link', { name: 'Stand-up' }).waitFor()
  await page.locator('.chip', { hasText: 'Polling' }).waitFor()
  const before = asked.length
  for (let s = 0; s < 60; s++) await page.clock.runFor(1000)
  expect(tries).toBeLessThan(30)
  expect(asked.length - before).toBeLessThan(40)
  joins = 'ok'
  for (let s = 0; s < 60; s++) await page.clock.runFor(1000)
  await page.locator('.chip', { hasText: 'Live' }).waitFor()
})

test('a closed socket is told, and opened again', async () => {
  await openSignedIn()
  await page.locator('.chip', { hasText: 'Live' }).waitFor()
  joins = 'error'
  await sockets.at(-1)?.close()
  await page.locator('.chip', { hasText: 'Polling' }).waitFor()
  joins = 'ok'
  await page.locator('.chip', { hasText: 'Live' }).waitFor({ timeout: 20_000 })
})

test('its policy lets no other script run, and no request go anywhere but to its project', async () => {
  await openSignedIn()
  await page.getByRole('link', { name: 'Stand-up' }).waitFor()
  const reached = await page.evaluate(async () => {
    const script = document.createElement('script')
    script.textContent = 'window.broken = 1'
    document.head.append(script)
    const link = document.createElement('a')
    link.setAttribute('onclick', 'window.broken = 2')
    document.body.append(link)
    link.click()
    const style = document.createElement('style')
    style.textContent = 'body { display: none }'
    document.head.append(style)
    const elsewhere = await fetch('https://elsewhere.test/').then(
      () => true,
      () => false,
    )
    return {
      elsewhere,
      broken: (window as { broken?: number }).broken,
      display: getComputedStyle(document.body).display,
    }
  })
  expect(reached).toEqual({ elsewhere: false, broken: undefined, display: 'block' })
})

test('on any host the page lets itself talk to the chosen project alone', async () => {
  await open(html)
  await page.getByLabel('Project URL').fill(project.url)
  await page.getByLabel('anon key').fill(project.key)
  await page.getByRole('button', { name: 'Use a token instead' }).click()
  await page.getByLabel('Access token').fill(token())
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('link', { name: 'Stand-up' }).waitFor()
  await page.route('https://elsewhere.test/**', (route) =>
    route.fulfill({ headers: { 'access-control-allow-origin': '*' }, body: 'reached' }),
  )
  const reached = await page.evaluate(() =>
    fetch('https://elsewhere.test/').then(
      () => true,
      () => false,
    ),
  )
  expect(reached).toBe(false)
})

test('it works from a file', async () => {
  await page.goto(pathToFileURL(built_page).href)
  await page.getByLabel('Project URL').fill(project.url)
  await page.getByLabel('anon key').fill(project.key)
  await page.getByRole('button', { name: 'Use a token instead' }).click()
  await page.getByLabel('Access token').fill(token())
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('link', { name: 'Stand-up' }).click()
  await page.getByRole('heading', { name: 'Stand-up' }).waitFor()
  expect(complaints).toEqual([])
  expect(readFileSync(built_page, 'utf8')).toBe(html)
})

test('a page for one project holds it as data, whatever is in its name', () => {
  const page_of = dashboardFor(html, { ...project, name: '</script><script>alert(1)</script>' })
  expect(page_of).not.toContain('<script>alert')
  expect(page_of).toContain('connect-src https://project.test wss://project.test;')
})
