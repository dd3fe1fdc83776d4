import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { styleText } from 'node:util'
import { createClient } from '@supabase/supabase-js'
import { feedToWebhook } from '../../examples/automation.ts'
import { createRollcall, type Rollcall } from '../index.ts'
import { type DemoStack, runningStack, signIn } from './demo.ts'
import { StartError } from './start_error.ts'

const DEADLINE_MS = 120_000
const EVERY = '2s'

/** What the demo adds to its feed, and when: with the second one the receiver cuts the connection. */
const news = ['Release 1.0 is out', 'The office moves', 'Release 1.1 is out']
const cut_item = 'item-2'

const cure =
  'The feed is on this machine, where automations may not go: start the stack without SCRIPTS_ALLOW_PRIVATE=0.'

interface Feed {
  url: string
  /** How often it was read. */
  reads: number
  add(title: string): void
}

interface Receiver {
  url: string
  /** The items that arrived, one entry for each request that came, by the Idempotency-Key that it had. */
  arrived: { key: string; id: string }[]
  /** How often it was asked what became of an item. */
  asked: number
}

/**
 * An automation at work: a feed is read, each new item is sent to a receiver, which cuts one connection after the item
 * has arrived. Prints each transition as it comes over Realtime.
 * @throws when an item does not arrive exactly once.
 */
export async function runAutomationDemo(stack: DemoStack, print: (line: string) => void): Promise<void> {
  const deadline = AbortSignal.timeout(DEADLINE_MS)
  const over = new AbortController()
  const signal = AbortSignal.any([deadline, over.signal])
  const client = createClient(stack.api_url, stack.publishable_key, { auth: { persistSession: false } })
  const servers: Server[] = []
  const token = randomBytes(12).toString('hex')
  try {
    await signIn(client)
    const feed = await serveFeed(servers)
    const receiver = await serveReceiver(servers, token, print)
    const { workflows } = createRollcall(client)
    print(styleText('bold', 'Demo: each new item of a feed is sent to a webhook, once'))
    print(styleText('dim', `  the feed is ${feed.url}, read every ${EVERY}; the webhook is ${receiver.url}`))
    print('')

    const code = feedToWebhook({ feed_url: feed.url, webhook_url: receiver.url, every: EVERY })
    const { workflow_id } = await workflows.create({ title: 'Feed to webhook', code }, { signal })
    await workflows.set_secret(workflow_id, 'WEBHOOK_TOKEN', token, { signal })
    const watched = watch(workflows, workflow_id, print, signal)
    const work = async () => {
      await workflows.activate(workflow_id, { signal })
      for (const [i, title] of news.entries()) {
        print(`${' '.repeat(9)}${styleText('cyan', 'feed'.padEnd(11))} + ${title}`)
        feed.add(title)
        await until(() => receiver.arrived.length > i, signal)
      }
      // What was sent is not sent again, however often the feed is read.
      await readTwiceMore(workflows, workflow_id, signal)
      await workflows.pause(workflow_id, { signal })
      await workflows.wait(workflow_id, 'paused', { signal })
    }
    try {
      await Promise.race([watched, work()])
      signal.throwIfAborted()
    } catch (error) {
      throw feed.reads > 0 || signal.aborted ? error : new StartError(`${(error as Error).message} ${cure}`)
    } finally {
      // It would go on reading a feed that is gone.
      await workflows.pause(workflow_id).catch(() => {})
      await workflows.archive(workflow_id).catch(() => {})
    }
    check(receiver)
    print('')
    print(
      styleText(
        'green',
        `  ${news.length} items, each sent once; after the cut connection the receiver was asked instead.`,
      ),
    )
  } catch (error) {
    if (deadline.aborted) throw new Error(`The demo was not over within ${DEADLINE_MS / 1000} s.`)
    throw error
  } finally {
    over.abort()
    for (const server of servers) {
      server.closeAllConnections()
      server.close()
    }
    await client.auth.stopAutoRefresh()
  }
}

/** Prints each change once, in order, until the signal. Throws when the workflow stops with an error. */
async function watch(
  workflows: Rollcall['workflows'],
  workflow_id: string,
  print: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const started_at = Date.now()
  try {
    for await (const { machine, from, to, at } of workflows.watch(workflow_id, { signal })) {
      // What is shown comes with what it was read with; it has no place of its own among the transitions.
      const seconds = machine === 'state' ? '' : Math.max(0, (Date.parse(at) - started_at) / 1000).toFixed(2)
      const move = from === null ? to : `${from} → ${to}`
      print(`${styleText('dim', seconds.padStart(7))}  ${machine.padEnd(11)} ${coloured(to, move)}`)
      if (machine !== 'state' || (to !== 'error' && to !== 'fixing')) continue
      const { error } = await workflows.get(workflow_id, { signal })
      throw new Error(
        `The workflow is ${to}: ${error?.code ?? ''} ${error?.message ?? 'its script is wrong.'}`,
      )
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
}

function coloured(state: string, text: string): string {
  if (/^(error|fixing|failed|crashed|indeterminate)/.test(state)) return styleText('red', text)
  return /^(active|success|committed|applied)$/.test(state) ? styleText('green', text) : text
}

/** Waits until the feed was read twice more. */
async function readTwiceMore(
  workflows: Rollcall['workflows'],
  workflow_id: string,
  signal: AbortSignal,
): Promise<void> {
  const reads = async () => {
    const { items } = await workflows.runs(workflow_id, { limit: 200, signal })
    return items
      .flatMap(({ handler_runs }) => handler_runs)
      .filter(({ handler_type, status }) => handler_type === 'producer' && status === 'committed').length
  }
  const before = await reads()
  while ((await reads()) < before + 2) await pause(300, undefined, { signal })
}

async function until(condition: () => boolean, signal: AbortSignal): Promise<void> {
  while (!condition()) await pause(50, undefined, { signal })
}

/** @throws when anything arrived twice or not at all. */
function check({ arrived, asked }: Receiver): void {
  const ids = arrived.map(({ id }) => id).sort()
  const wanted = news.map((_, i) => `item-${i + 1}`)
  if (JSON.stringify(ids) !== JSON.stringify(wanted)) {
    throw new Error(
      `These items were to arrive once each: ${wanted.join(', ')}. What arrived: ${ids.join(', ')}.`,
    )
  }
  if (asked === 0)
    throw new Error('After the cut connection nobody asked the receiver what became of its item.')
}

async function serveFeed(servers: Server[]): Promise<Feed> {
  const items: { id: string; title: string; url: string }[] = []
  const feed: Feed = {
    url: '',
    reads: 0,
    add(title) {
      const id = `item-${items.length + 1}`
      items.unshift({ id, title, url: `${feed.url}${id}` })
    },
  }
  const server = createServer((_, response) => {
    feed.reads += 1
    response.writeHead(200, { 'content-type': 'application/feed+json' })
    response.end(JSON.stringify({ version: 'https://jsonfeed.org/version/1.1', title: 'News', items }))
  })
  feed.url = await serve(servers, server)
  return feed
}

/** Takes items by POST, and by GET says whether it has the one with an Idempotency-Key. */
async function serveReceiver(
  servers: Server[],
  token: string,
  print: (line: string) => void,
): Promise<Receiver> {
  const receiver: Receiver = { url: '', arrived: [], asked: 0 }
  const say = (text: string) => print(`${' '.repeat(9)}${styleText('cyan', 'webhook'.padEnd(11))} ${text}`)
  receiver.url = await serve(
    servers,
    createServer(async (request, response) => {
      const key = String(request.headers['idempotency-key'])
      const answer = (status: number, body: object) => {
        response.writeHead(status, { 'content-type': 'application/json' })
        response.end(JSON.stringify(body))
      }
      if (request.headers.authorization !== `Bearer ${token}`) return answer(401, { error: 'Who are you?' })
      if (request.method === 'GET') {
        receiver.asked += 1
        const item = receiver.arrived.find((one) => one.key === key)
        say(`is asked: ${item ? `${item.id} has arrived` : 'no such item'}`)
        return answer(200, { status: item ? 'applied' : 'failed' })
      }
      const { id, title } = (await bodyOf(request)) as { id: string; title: string }
      receiver.arrived.push({ key, id })
      say(`${id}: ${title}`)
      if (id !== cut_item) return answer(201, { ok: true })
      say(styleText('red', 'cuts the connection before it answers'))
      request.socket.destroy()
    }),
  )
  return receiver
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return JSON.parse(Buffer.concat(chunks).toString())
}

async function serve(servers: Server[], server: Server): Promise<string> {
  servers.push(server)
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

if (import.meta.main) {
  try {
    await runAutomationDemo(runningStack(), console.log)
    process.exit(0)
  } catch (error) {
    console.error((error as Error).message)
    process.exit(1)
  }
}
