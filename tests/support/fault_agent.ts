import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface AgentRequest {
  authorization: string | undefined
  body: { model: string; temperature?: number; messages: { role: string; content: string }[] }
}

/** What the agent does: a status, the content of a message, a whole answer, hanging, or hanging up in the middle. */
export type FaultAnswer =
  | number
  | string
  | { status?: number; headers?: Record<string, string>; body: string }
  | 'hang'
  | 'cut'

export interface FaultAgent {
  /** The base of its chat API. */
  url: string
  /** The coming answers. Without any more, it does what `otherwise` says. */
  answers: FaultAnswer[]
  /** Without one, it hangs up. */
  otherwise: ((request: AgentRequest) => FaultAnswer | Promise<FaultAnswer>) | null
  requests: AgentRequest[]
  close(): Promise<void>
}

/** An OpenAI-compatible chat API over real HTTP that answers what it is told. */
export async function startFaultAgent(): Promise<FaultAgent> {
  const server = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const request = {
      authorization: incoming.headers.authorization,
      body: JSON.parse(Buffer.concat(chunks).toString()),
    }
    self.requests.push(request)
    const answer = self.answers.shift() ?? (await self.otherwise?.(request))
    if (answer === undefined) return void incoming.socket.destroy()
    if (answer === 'hang') return
    const json = { 'content-type': 'application/json' }
    if (answer === 'cut') {
      outgoing.writeHead(200, { ...json, 'content-length': '1000' })
      return void outgoing.write('{"choices": [', () => incoming.socket.destroy())
    }
    if (typeof answer === 'object') {
      return void outgoing.writeHead(answer.status ?? 200, { ...json, ...answer.headers }).end(answer.body)
    }
    outgoing.writeHead(typeof answer === 'number' ? answer : 200, json)
    if (typeof answer === 'number') return void outgoing.end('{"error": {"message": "told to fail"}}')
    outgoing.end(JSON.stringify({ choices: [{ message: { role: 'assistant', content: answer } }] }))
  })
  const self: FaultAgent = {
    url: '',
    answers: [],
    otherwise: null,
    requests: [],
    async close() {
      const closed = new Promise((done) => server.close(done))
      server.closeAllConnections()
      await closed
    },
  }
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  self.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
  return self
}
