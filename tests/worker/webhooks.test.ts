import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Project, startProject, type User } from '../support/project.ts'
import { startWebhookReceiver, verify, type WebhookReceiver } from '../support/webhook_receiver.ts'

let project: Project
let receiver: WebhookReceiver
let owner: User
let path: string
const workers: ChildProcess[] = []

beforeAll(async () => {
  project = await startProject()
  receiver = await startWebhookReceiver()
  // Only the processes of these tests work.
  await project.wakes(null)
})
beforeEach(async () => {
  owner = await project.user()
  path = `/${randomUUID().slice(0, 8)}`
})
afterEach(async () => {
  await Promise.all(workers.splice(0).map(end))
  await project.sql`
    update lifecycle.settings set webhook_lease = default, webhook_retries = default, webhook_patience = default`
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
})
afterAll(async () => {
  await project?.close()
  await receiver?.close()
})

function startWorker(env: Record<string, string> = { WEBHOOKS_ALLOW_PRIVATE: '1' }): {
  child: ChildProcess
  output: () => string
} {
  let text = ''
  const child = spawn(process.execPath, [join(import.meta.dirname, '../../src/worker/main.ts')], {
    env: { PATH: process.env.PATH ?? '', ROLLCALL_DIR: project.stack.dir, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  workers.push(child)
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data) => (text += data))
  return { child, output: () => text }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}

/** An endpoint of the owner; made by SQL, since the functions of the project allow no private ones. */
async function subscribe(events: string[], to = path): Promise<string> {
  const [row] = await project.sql`
    select public.create_webhook_endpoint(${owner.id}, ${`${receiver.url}${to}`}, ${events}) ->> 'secret' as secret`
  return row?.secret
}

const play = () => project.play({}, owner)
const deliveries = () =>
  project.sql`select * from public.webhook_deliveries where owner_id = ${owner.id} order by event_id`
const arrived = (count: number, timeout = 15_000) =>
  expect.poll(() => receiver.at(path).length, { timeout }).toBe(count)
const states = () => deliveries().then((rows) => rows.map((row) => row.state))

test('npm run worker delivers, signed, and logs no secret', async () => {
  const secret = await subscribe(['meeting.requested'])
  const { child, output } = startWorker()
  await play()
  await arrived(1)
  const [told] = receiver.at(path)
  if (told === undefined) throw new Error('nothing arrived')
  verify(secret, told)
  await expect.poll(states).toEqual(['delivered'])
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  expect(await exited).toEqual([0, null])
  expect(output()).toContain('"event":"webhook"')
  expect(output()).not.toContain(secret)
})

test('a worker killed after the POST: another sends the same id and the same body again', async () => {
  await project.sql`update lifecycle.settings set webhook_lease = '2 s'`
  receiver.answers[path] = ['hang']
  const secret = await subscribe(['meeting.requested'])
  const { child } = startWorker()
  await play()
  await arrived(1)
  await end(child)
  expect(await states()).toEqual(['pending'])
  startWorker()
  await arrived(2)
  await expect.poll(states).toEqual(['delivered'])
  const [first, second] = receiver.at(path)
  if (first === undefined || second === undefined) throw new Error('nothing arrived')
  expect(second.id).toBe(first.id)
  expect(second.text).toBe(first.text)
  verify(secret, first)
  verify(secret, second)
  expect((await deliveries())[0]).toMatchObject({ id: first.id, attempts: 2 })
})

test('two workers send each delivery once, and the events of a run in order', async () => {
  await subscribe(['*'])
  startWorker()
  startWorker()
  const bots = await Promise.all([1, 2, 3, 4, 5].map(() => play()))
  for (const bot of bots) await project.report(bot, '', { status: 'active' })
  await arrived(35, 25_000)
  await expect.poll(async () => new Set(await states())).toEqual(new Set(['delivered']))
  expect(new Set(receiver.at(path).map(({ id }) => id)).size).toBe(35)
  for (const { bot_id } of bots) {
    const ids = receiver
      .at(path)
      .flatMap(({ body }) => (body.data.bot.bot_id === bot_id ? body.data.event.id : []))
    expect(ids).toEqual(ids.toSorted((a, b) => a - b))
  }
})

test('a later event of a run waits while an earlier one is retried, and not for ever', {
  timeout: 60_000,
}, async () => {
  await project.sql`
    update lifecycle.settings set webhook_retries = '{300 ms,300 ms,1 h}', webhook_patience = '10 s'`
  receiver.answers[path] = [500, 500, 500]
  await subscribe(['meeting.requested', 'bot.pending'])
  startWorker()
  await play()
  await arrived(4, 40_000)
  const told = receiver.at(path).map(({ body }) => body.type)
  expect(told).toEqual(['meeting.requested', 'meeting.requested', 'meeting.requested', 'bot.pending'])
  await expect.poll(states).toEqual(['pending', 'delivered'])
})

test('receivers that hang hold up only their own: at most two at a time', async () => {
  receiver.answers[path] = Array(4).fill('hang')
  await subscribe(['meeting.requested'])
  const well = `${path}-well`
  await subscribe(['meeting.requested'], well)
  startWorker()
  for (let n = 0; n < 4; n++) await play()
  await expect.poll(() => receiver.at(well).length, { timeout: 8_000 }).toBe(4)
  expect(receiver.at(path)).toHaveLength(2)
})

test('J06 where private targets are not allowed nothing is sent', async () => {
  await subscribe(['meeting.requested'])
  startWorker({})
  await play()
  await expect
    .poll(deliveries, { timeout: 15_000 })
    .toMatchObject([
      { state: 'failed', attempts: 1, last_error: 'Not sent. The URL must begin with https://.' },
    ])
  expect(receiver.at(path)).toEqual([])
})

test('the example receiver tells what happened, once, and refuses what is not signed', async () => {
  const [row] = await project.sql`
    select public.create_webhook_endpoint(${owner.id}, 'http://127.0.0.1:9/', '{meeting.*}') as endpoint`
  const child = spawn(process.execPath, [join(import.meta.dirname, '../../examples/webhook_receiver.ts')], {
    env: { PATH: process.env.PATH ?? '', PORT: '0', WEBHOOK_SECRET: row?.endpoint.secret },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  workers.push(child)
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data) => (text += data))
  await expect.poll(() => text).toMatch(/Listening on/)
  const url = /http:\S+/.exec(text)?.[0] ?? ''
  await project.sql`select public.update_webhook_endpoint(${row?.endpoint.id}, url => ${url})`
  startWorker()
  const bot = await play()
  await project.report(bot, '', { status: 'joining' })
  const line = (from: string, to: string) => `meeting.${to}: ${bot.bot_id} went from ${from} to ${to}`
  await expect.poll(() => text, { timeout: 15_000 }).toContain(line('requested', 'joining'))
  await expect.poll(() => text).toContain(line('nothing', 'requested'))
  await expect.poll(states).toEqual(['delivered', 'delivered'])
  const [sent] = await deliveries()
  await project.sql`select public.resend_delivery(${sent?.id})`
  await expect.poll(states, { timeout: 15_000 }).toEqual(['delivered', 'delivered'])
  expect(text.match(/went from nothing/g)).toHaveLength(1)
  expect((await fetch(url, { method: 'POST', body: '{}' })).status).toBe(401)
  await expect.poll(() => text).toContain('refused: Missing required headers')
})
