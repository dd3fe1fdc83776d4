import { createServer, request as httpRequest, type IncomingMessage } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'

export interface FaultProxy {
  url: string
  /** What a request is answered instead of being passed on; null passes it on. */
  fault: (path: string) => { status: number; headers?: Record<string, string> } | 'cut' | null
  /** Whether sockets are let through. */
  sockets: boolean
  requests: string[]
  close(): Promise<void>
}

/** Stands between a client and a stack, and fails as it is told. */
export async function startFaultProxy(target: string): Promise<FaultProxy> {
  const { hostname, port } = new URL(target)
  const open = new Set<Socket>()
  const self: FaultProxy = { url: '', fault: () => null, sockets: true, requests: [], close }
  const server = createServer((incoming, outgoing) => {
    const path = incoming.url ?? '/'
    self.requests.push(path)
    const fault = self.fault(path)
    if (fault === 'cut') return void incoming.socket.destroy()
    if (fault) return void outgoing.writeHead(fault.status, fault.headers).end('<html>Bad Gateway</html>')
    const { method, headers } = incoming
    const passed = httpRequest({ hostname, port, path, method, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 500, answer.headers)
      answer.pipe(outgoing)
    })
    passed.on('error', () => outgoing.destroy())
    incoming.pipe(passed)
  })
  server.on('connection', (socket) => {
    open.add(socket)
    socket.on('close', () => open.delete(socket))
  })
  server.on('upgrade', (incoming: IncomingMessage, socket: Socket, head: Buffer) => {
    if (!self.sockets) return void socket.destroy()
    const passed = connect(Number(port), hostname, () => {
      const lines = [`${incoming.method} ${incoming.url} HTTP/1.1`]
      for (let i = 0; i < incoming.rawHeaders.length; i += 2) {
        lines.push(`${incoming.rawHeaders[i]}: ${incoming.rawHeaders[i + 1]}`)
      }
      passed.write(`${lines.join('\r\n')}\r\n\r\n`)
      passed.write(head)
      socket.pipe(passed).pipe(socket)
    })
    open.add(passed)
    for (const end of [socket, passed]) {
      end.on('error', () => {})
      end.on('close', () => {
        socket.destroy()
        passed.destroy()
        open.delete(passed)
      })
    }
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  self.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

  async function close(): Promise<void> {
    for (const socket of open) socket.destroy()
    server.closeAllConnections()
    await new Promise((done) => server.close(done))
  }
  return self
}
