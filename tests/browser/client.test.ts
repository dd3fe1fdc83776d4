import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Browser, chromium } from 'playwright-core'
import postgres from 'postgres'
import { build } from 'vite'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type SignedUpUser, type StackAddress, sharedStack, signUp } from '../support/stack.ts'
import { live, playedBot, step } from '../support/watched_bots.ts'

let stack: StackAddress
let sql: postgres.Sql
let user: SignedUpUser
let browser: Browser
/** An app on an origin of its own, as pages of users have. */
let app: Server
let app_url: string

beforeAll(async () => {
  stack = await sharedStack()
  sql = postgres(stack.db_url, { max: 2, onnotice: () => {} })
  user = await signUp(stack)
  app = createServer((_request, response) => {
    response.setHeader('content-type', 'text/html').end('<!doctype html><title>App</title>')
  })
  await new Promise<void>((listening) => app.listen(0, '127.0.0.1', listening))
  app_url = `http://127.0.0.1:${(app.address() as AddressInfo).port}/`
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
  })
})

afterAll(async () => {
  await browser?.close()
  app?.close()
  await sql?.end({ timeout: 1 })
})

/** The library and supabase-js as one script for a page. */
async function script(): Promise<string> {
  const entry = join(import.meta.dirname, 'client_page.ts')
  const result = await build({
    configFile: false,
    logLevel: 'silent',
    build: { write: false, lib: { entry, formats: ['iife'], name: 'page' }, minify: false },
  })
  const outputs = Array.isArray(result) ? result : [result]
  return outputs
    .flatMap((output) => ('output' in output ? output.output : []))
    .map((chunk) => (chunk.type === 'chunk' ? chunk.code : ''))
    .join('\n')
}

test('a page watches a bot through a time without a network', async () => {
  const context = await browser.newContext()
  const page = await context.newPage()
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(String(error)))
  await page.goto(app_url)
  await page.addScriptTag({ content: await script() })
  const bot = await playedBot(sql, user.user_id)
  const settings = {
    url: stack.api_url,
    key: stack.publishable_key,
    token: user.access_token,
    bot_id: bot.bot_id,
  }
  await page.evaluate(`page.start(${JSON.stringify(settings)})`)
  const told = () => page.evaluate('page.told') as Promise<{ seen: string[]; link: string[]; ended: boolean }>

  await vi.waitFor(async () => expect((await told()).link.at(-1)).toBe('live'), 10_000)
  await step(sql, bot, 'joining')
  await vi.waitFor(async () => expect((await told()).seen).toHaveLength(4), 10_000)
  await context.setOffline(true)
  await vi.waitFor(async () => expect((await told()).link.at(-1)).toBe('offline'), 10_000)
  await live(sql, bot)
  await context.setOffline(false)
  await vi.waitFor(async () => expect((await told()).ended).toBe(true), 10_000)
  expect((await told()).seen).toHaveLength(9)
  expect(complaints).toEqual([])
})
