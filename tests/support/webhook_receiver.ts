import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'

/** What a request gets: a status, headers with it, no answer at all, a connection cut before or within the answer. */
export type WebhookAnswer =
  | number
  | { status: number; headers: Record<string, string> }
  | 'hang'
  | 'cut'
  | 'half'

export interface ReceivedWebhook {
  path: string
  /** When it came, in ms. */
  came_at: number
  id: string
  headers: Record<string, string>
  /** Exactly as it came: what the signature is of. */
  text: string
  // biome-ignore lint/suspicious/noExplicitAny: tests read payloads of every form
  body: any
}

export interface WebhookReceiver {
  url: string
  /** The coming answers of a path; without any more, `always`. */
  answers: Record<string, WebhookAnswer[]>
  always: WebhookAnswer
  received: ReceivedWebhook[]
  /** What came to a path. */
  at(path: string): ReceivedWebhook[]
  close(): Promise<void>
}

/** A backend that hears webhooks over real HTTP, and answers what it is told. */
export async function startWebhookReceiver(): Promise<WebhookReceiver> {
  const server = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString()
    const path = incoming.url ?? '/'
    const headers = headersOf(incoming)
    self.received.push({
      path,
      came_at: performance.now(),
      id: headers['webhook-id'] ?? '',
      headers,
      text,
      body: text === '' ? null : JSON.parse(text),
    })
    answer(outgoing, self.answers[path]?.shift() ?? self.always)
  })
  const self: WebhookReceiver = {
    url: '',
    answers: {},
    always: 200,
    received: [],
    at: (path) => self.received.filter((one) => one.path === path),
    async close() {
      const closed = new Promise((done) => server.close(done))
      server.closeAllConnections()
      await closed
    },
  }
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  self.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return self
}

/** Verifies as a receiver does, with the library of the standard. Throws if it is not genuine. */
export function verify(secret: string, { text, headers }: ReceivedWebhook): void {
  new Webhook(secret).verify(text, headers)
}

function answer(outgoing: ServerResponse, how: WebhookAnswer): void {
  if (how === 'hang') return
  if (how === 'cut') return void outgoing.socket?.destroy()
  if (how === 'half') {
    outgoing.socket?.write('HTTP/1.1 200 OK\r\ncontent-le')
    return void outgoing.socket?.destroySoon()
  }
  const { status, headers } = typeof how === 'number' ? { status: how, headers: {} } : how
  outgoing.writeHead(status, headers).end()
}

function headersOf(incoming: IncomingMessage): Record<string, string> {
  return Object.fromEntries(Object.entries(incoming.headers).map(([name, value]) => [name, String(value)]))
}
