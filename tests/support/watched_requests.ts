import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface WatchedRequests {
  url: string
  /** Called before a request is passed on and before its answer is; a promise holds it up, false drops it. */
  at: (moment: 'before' | 'after', path: string) => boolean | Promise<boolean>
  close(): Promise<void>
}

/** Passes requests on to one of two servers: what begins with /v1/ to the agent, all else to the project. */
export async function watchRequests(project_url: string, agent_url: string): Promise<WatchedRequests> {
  const server = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const path = incoming.url ?? '/'
    const drop = () => void incoming.socket.destroy()
    if (!(await self.at('before', path))) return drop()
    const target = path.startsWith('/v1/') ? new URL(path, agent_url) : new URL(path, project_url)
    const { host: _host, connection: _connection, 'content-length': _length, ...headers } = incoming.headers
    try {
      const response = await fetch(target, {
        method: incoming.method ?? 'GET',
        headers: headers as Record<string, string>,
        ...(chunks.length > 0 ? { body: Buffer.concat(chunks) } : {}),
      })
      const body = Buffer.from(await response.arrayBuffer())
      if (!(await self.at('after', path))) return drop()
      outgoing.writeHead(response.status, {
        'content-type': response.headers.get('content-type') ?? 'text/plain',
      })
      outgoing.end(body)
    } catch {
      drop()
    }
  })
  const self: WatchedRequests = {
    url: '',
    at: () => true,
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
