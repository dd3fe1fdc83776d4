import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** What a call comes to: done and answered; done or not done, and the connection cut; a status, and nothing done. */
export type LedgerAnswer = 'do' | 'do_and_cut' | 'cut' | 'hang' | 'do_and_rave' | number

/** What the ledger says of a call when it is asked: what it knows, that it never heard of it, or no sense. */
export type LedgerMemory = 'knows' | 'forgets' | 'raves'

export interface LedgerCall {
  key: string
  method: string
  path: string
  headers: Record<string, string>
  // biome-ignore lint/suspicious/noExplicitAny: tests read bodies of every form
  body: any
}

/** A service with side effects over real HTTP: it counts what was done by whose idempotency key, and by item. */
export interface Ledger {
  url: string
  /** What GET /feed/<name> lists. */
  feeds: Record<string, string[]>
  /** The calls that came to POST /orders, whatever they came to. */
  calls: LedgerCall[]
  /** What was asked for at GET /orders/asked. */
  asked: string[]
  /** The GETs of anything else, by path. */
  gets: LedgerCall[]
  /** The keys by which each item was done, in order: more than one is a side effect that happened twice. */
  done: Map<string, string[]>
  /** What the coming calls come to; without any more, `always`. */
  answers: LedgerAnswer[]
  always: LedgerAnswer | ((call: LedgerCall) => LedgerAnswer | Promise<LedgerAnswer>)
  memory: LedgerMemory
  reset(): void
  close(): Promise<void>
}

export async function startLedger(): Promise<Ledger> {
  const server = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString()
    const path = incoming.url ?? '/'
    const headers = Object.fromEntries(
      Object.entries(incoming.headers).map(([name, value]) => [name, String(value)]),
    )
    const key = headers['idempotency-key'] ?? ''
    const call: LedgerCall = {
      key,
      method: incoming.method ?? '',
      path,
      headers,
      body: text === '' ? null : JSON.parse(text),
    }
    if (call.method === 'GET' && path.startsWith('/orders/asked')) {
      self.asked.push(key)
      return say(outgoing, ...told(key))
    }
    if (call.method === 'GET') {
      self.gets.push(call)
      return say(outgoing, 200, { items: self.feeds[path.replace('/feed/', '')] ?? [] })
    }
    self.calls.push(call)
    const answer =
      self.answers.shift() ?? (typeof self.always === 'function' ? await self.always(call) : self.always)
    if (answer === 'do' || answer === 'do_and_cut' || answer === 'do_and_rave') {
      const item = String(call.body?.item)
      self.done.set(item, [...(self.done.get(item) ?? []), key])
    }
    if (answer === 'hang') return
    if (answer === 'cut' || answer === 'do_and_cut') return void incoming.socket.destroy()
    if (answer === 'do_and_rave') {
      return void outgoing.writeHead(200, { 'content-type': 'application/json' }).end('{"number": ')
    }
    if (typeof answer === 'number') return say(outgoing, answer, { error: 'told to fail' })
    say(outgoing, 201, { number: self.calls.length, item: call.body?.item })
  })

  function told(key: string): [number, unknown] {
    if (self.memory === 'raves') return [200, { status: 'perhaps' }]
    if (self.memory === 'forgets') return [404, { status: 'failed' }]
    const is_done = [...self.done.values()].some((keys) => keys.includes(key))
    return [200, is_done ? { status: 'applied', result: { told: key } } : { status: 'failed' }]
  }

  const self: Ledger = {
    url: '',
    feeds: {},
    calls: [],
    asked: [],
    gets: [],
    done: new Map(),
    answers: [],
    always: 'do',
    memory: 'knows',
    reset() {
      Object.assign(self, {
        calls: [],
        asked: [],
        gets: [],
        done: new Map(),
        answers: [],
        always: 'do',
        memory: 'knows',
      })
    },
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

function say(outgoing: ServerResponse, status: number, body: unknown): void {
  outgoing.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}
