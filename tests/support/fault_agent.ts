import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface FaultAgent {
  /** The base of its chat API. */
  url: string
  /** The coming answers: a status, or the content of a message. Without any more, it hangs up. */
  answers: (number | string)[]
  requests: { authorization: string | undefined; body: { model: string; messages: { content: string }[] } }[]
  close(): Promise<void>
}

/** An OpenAI-compatible chat API over real HTTP that answers what it is told. */
export async function startFaultAgent(): Promise<FaultAgent> {
  const server = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const body = JSON.parse(Buffer.concat(chunks).toString())
    self.requests.push({ authorization: incoming.headers.authorization, body })
    const answer = self.answers.shift()
    if (answer === undefined) return void incoming.socket.destroy()
    outgoing.writeHead(typeof answer === 'number' ? answer : 200, { 'content-type': 'application/json' })
    if (typeof answer === 'number') return void outgoing.end('{"error": {"message": "told to fail"}}')
    outgoing.end(JSON.stringify({ choices: [{ message: { role: 'assistant', content: answer } }] }))
  })
  const self: FaultAgent = {
    url: '',
    answers: [],
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
