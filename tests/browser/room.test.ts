import { randomUUID } from 'node:crypto'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type RoomServer, startRoomServer } from '../support/room_server.ts'

/** Debian's Chromium, or the one that CHROMIUM_PATH names; none of its own calls home. */
const launch_options = {
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
  ],
}

let server: RoomServer
let browser: Browser
/** What a page complained of: errors, refused requests, requests to elsewhere. */
let complaints: string[]

beforeAll(async () => {
  server = await startRoomServer()
  browser = await chromium.launch(launch_options)
})

beforeEach(() => {
  complaints = []
})

afterAll(async () => {
  await browser?.close()
  await server?.close()
})

async function open(url: string): Promise<Page> {
  const page = await (await browser.newContext()).newPage()
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('request', (request) => {
    const asked = request.url()
    if (!asked.startsWith(server.api_url) && !asked.startsWith('data:')) complaints.push(`asks ${asked}`)
  })
  await page.goto(url)
  return page
}

async function enter(page: Page, name: string): Promise<void> {
  await page.getByLabel('Your name').fill(name)
  await page.getByRole('button', { name: 'Enter' }).click()
}

const say = async (page: Page, text: string) => {
  await page.getByPlaceholder('Say something').fill(text)
  await page.keyboard.press('Enter')
}

const newRoom = () => `${server.api_url}/room/${randomUUID()}`

test('one lets the other in, and both read what the other says, markup as text', async () => {
  const room = newRoom()
  const ada = await open(room)
  await ada.getByText('Nobody is here yet').waitFor()
  await enter(ada, 'Ada')
  const grace = await open(room)
  await enter(grace, '<b>Grace</b>')
  await grace.getByText('You are in the lobby').waitFor()
  await ada.getByRole('button', { name: 'Admit <b>Grace</b>' }).click()
  await say(grace, '<img src=x onerror=alert(1)> hello')
  await ada.getByText('<img src=x onerror=alert(1)> hello').waitFor()
  await say(ada, 'Welcome.')
  await grace.getByText('Welcome.').waitFor()
  for (const page of [ada, grace]) await page.locator('.dot.here').nth(1).waitFor()
  expect(complaints).toEqual([])
})

test('who is evicted, or not let in, is told so', async () => {
  const room = newRoom()
  const ada = await open(room)
  await enter(ada, 'Ada')
  const eve = await open(room)
  await enter(eve, 'Eve')
  await ada.getByRole('button', { name: 'Admit Eve' }).click()
  await ada.getByRole('button', { name: 'Evict Eve' }).click()
  await eve.getByText('You were removed from the room.').waitFor()
  await eve.getByRole('button', { name: 'Back to the door' }).click()
  await enter(eve, 'Eve')
  await ada.getByRole('button', { name: 'Reject Eve' }).click()
  await eve.getByText('You were not let in.').waitFor()
  expect(complaints).toEqual([])
})

test('the end is the end for all, and closing the page is leaving', async () => {
  const room = newRoom()
  const ada = await open(room)
  await enter(ada, 'Ada')
  const bob = await open(room)
  await enter(bob, 'Bob')
  await ada.getByRole('button', { name: 'Admit Bob' }).click()
  await bob.getByPlaceholder('Say something').waitFor()
  await ada.getByText('2 in the room').waitFor()
  await ada.goto('about:blank')
  await bob.getByText('You are alone here').waitFor()
  const cy = await open(room)
  await enter(cy, 'Cy')
  await bob.getByRole('button', { name: 'End for all' }).click()
  for (const page of [bob, cy]) await page.getByText('The meeting has ended.').waitFor()
})

test('a wrong passcode is told at the door', async () => {
  const room = newRoom()
  await enter(await open(`${room}?passcode=tulip`), 'Ada')
  const eve = await open(room)
  await eve.getByLabel('Passcode').fill('rose')
  await enter(eve, 'Eve')
  await eve.getByRole('alert').getByText('The passcode is missing or wrong.').waitFor()
})

test('a room is chosen by name', async () => {
  const page = await open(`${server.api_url}/room`)
  await page.getByLabel('Room').fill('team-sync')
  await page.getByRole('button', { name: 'Go' }).click()
  await page.getByRole('heading', { name: 'team-sync' }).waitFor()
  expect(page.url()).toBe(`${server.api_url}/room/team-sync`)
})
