import type { Browser, Page } from 'playwright-core'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { launchBrowser, watchComplaints } from '../support/dashboard.ts'
import { rpc } from '../support/rpc.ts'
import { type SignedUpUser, type StackAddress, sharedStack, signUp } from '../support/stack.ts'
import { playedBot, step } from '../support/watched_bots.ts'
import { activeWorkflow, uncertainRun } from '../support/workflow_steps.ts'

// The page as the local stack serves it, on its real database, functions and Realtime.

let stack: StackAddress
let sql: postgres.Sql
let user: SignedUpUser
let browser: Browser

beforeAll(async () => {
  stack = await sharedStack()
  sql = postgres(stack.db_url, { max: 2, onnotice: () => {} })
  user = await signUp(stack)
  browser = await launchBrowser()
})

afterAll(async () => {
  await browser?.close()
  await sql?.end({ timeout: 1 })
})

/** Opens the page and signs in. */
async function open(hash = ''): Promise<{ page: Page; complaints: string[] }> {
  const page = await (await browser.newContext()).newPage()
  page.setDefaultTimeout(15_000)
  const complaints = watchComplaints(page, (url) => url.startsWith(stack.api_url))
  await page.goto(`${stack.dashboard_url}${hash}`)
  await page.getByLabel('Email').fill(user.email)
  await page.getByLabel('Password').fill(user.password)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.locator('.chip', { hasText: 'Live' }).waitFor()
  return { page, complaints }
}

test('a bot is seen, followed live in two tabs that do not mind each other, stopped and retried', async () => {
  const bot = await playedBot(sql, user.user_id)
  const one = await open()
  const two = await open(`#/runs/${bot.bot_id}`)
  const row = one.page.locator(`.runs [data-id="${bot.bot_id}"]`)
  await row.getByText('pending').waitFor()
  await two.page.locator('.badge.big').getByText('pending').waitFor()
  await step(sql, bot, 'joining')
  await step(sql, bot, 'active')
  await row.getByText('running').waitFor()
  await two.page.locator('.badge.big').getByText('running').waitFor()
  await expect
    .poll(() => two.page.locator('.timeline > li').count(), { timeout: 10_000 })
    .toBeGreaterThanOrEqual(5)

  await two.page.getByRole('button', { name: 'Stop' }).click()
  await two.page.getByRole('dialog').getByRole('button', { name: 'Stop' }).click()
  await two.page.getByText(/stop requested (?!just)/).waitFor()
  await row.getByText('stopping').waitFor()
  await step(sql, bot, 'left')
  await step(sql, bot, 'processed')
  await row.getByText('completed').waitFor()

  await two.page.getByRole('button', { name: 'Retry' }).click()
  await two.page.getByRole('dialog').getByRole('button', { name: 'Retry' }).click()
  await two.page.getByRole('link', { name: 'Open the new run' }).click()
  await two.page.locator('.facts').getByText('Retry of').waitFor()
  await one.page.getByRole('button', { name: '1 new run' }).click()
  await expect.poll(() => one.page.locator('.runs .body .row').count()).toBe(2)
  expect(one.complaints).toEqual([])
  expect(two.complaints).toEqual([])
  await one.page.context().close()
  await two.page.context().close()
})

test('an automation tells what its script said, and of what nobody knows it is told what became of it', async () => {
  // In one transaction, and paused in the end: no worker gets hold of it.
  const workflow = await sql.begin(async (tx) => {
    const all = tx as unknown as postgres.Sql
    const made = await activeWorkflow(all, { owner_id: user.user_id, title: 'Orders' })
    await uncertainRun(all, made)
    await tx`select private.notify_workflow(${made.workflow_id}, 'script_message', '{"message": "Twelve items."}')`
    await rpc(tx, 'pause_workflow', { workflow_id: made.workflow_id })
    return made
  })
  const { page, complaints } = await open(`#/runs/${workflow.workflow_id}`)
  const message = page.getByRole('listitem').filter({ hasText: 'Twelve items.' })
  const dialog = page.getByRole('dialog')
  await message.getByRole('button', { name: 'Acknowledge' }).click()
  await dialog.getByRole('button', { name: 'Acknowledge' }).click()
  await expect.poll(() => message.count()).toBe(0)
  const section = page.getByRole('region', { name: 'Nobody knows whether it happened' })
  await section.getByRole('button', { name: 'It happened' }).click()
  await dialog.getByLabel('What it answered').fill('{ "id": 7 }')
  await dialog.getByRole('button', { name: 'It happened' }).click()
  await expect.poll(() => section.count()).toBe(0)
  await page.locator('.badge.big').getByText('paused').waitFor()
  const [mutation] = await sql`
    select status, result, resolved_by from public.workflow_mutations where workflow_id = ${workflow.workflow_id}`
  expect(mutation).toEqual({ status: 'applied', result: { id: 7 }, resolved_by: 'user' })
  expect(complaints).toEqual([])
  await page.context().close()
})

test('timing, webhooks and the counts are those of the project', async () => {
  const { page, complaints } = await open()
  await page.getByRole('link', { name: 'Timing' }).click()
  await page.getByRole('rowheader', { name: 'starting' }).waitFor()
  await page.getByRole('link', { name: 'Webhooks' }).click()
  await page.getByText('You have no endpoint.').waitFor()
  expect(await page.getByRole('link', { name: 'Health' }).count()).toBe(0)
  await page.getByRole('link', { name: 'Runs' }).click()
  await page.getByRole('button', { name: 'Bots' }).click()
  const done = page.locator('.tile', { hasText: 'completed' })
  const [known] = await sql`
    select count(*)::int as n from public.workflow_threads
    where owner_id = ${user.user_id} and bot_status = 'completed'`
  await expect.poll(() => done.locator('.number').innerText()).toBe(String(known?.n))
  await done.click()
  await expect.poll(() => page.locator('.runs .body .row').count()).toBe(known?.n)
  expect(complaints).toEqual([])
  await page.context().close()
})
