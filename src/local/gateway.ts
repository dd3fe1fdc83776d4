import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { getRequestListener } from '@hono/node-server'
import { StartError } from './start_error.ts'

type Fetch = (request: Request) => Response | Promise<Response>

/** The parts behind the gateway. One that is absent is still starting: 503. */
export type Routes = {
  /** /rest/v1 and /auth/v1 */
  api?: Fetch
  /** /functions/v1, unparsed: bodies stream both ways. */
  functions?(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void>
  /** /realtime/v1 */
  realtime?: { fetch: Fetch; upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void }
  /** /room */
  room?: Fetch
  /** /dashboard */
  dashboard?: Fetch
}

export type Gateway = {
  port: number
  /** Adds parts that have started. */
  open(routes: Routes): void
  close(): Promise<void>
}

/**
 * The one port of the stack: sends each request to the part that its path names. Port 0 takes any free one.
 * @throws StartError when the port is taken.
 */
export async function startGateway(options: { port: number } & Routes): Promise<Gateway> {
  const { port } = options
  let routes: Routes = options
  const web = getRequestListener(
    async (request) => {
      const { pathname } = new URL(request.url)
      const to = (part: Fetch | undefined) => (part ? part(request) : starting())
      if (under(pathname, '/rest/v1') || under(pathname, '/auth/v1')) return to(routes.api)
      if (under(pathname, '/realtime/v1')) return to(routes.realtime?.fetch)
      if (under(pathname, '/room')) return to(routes.room)
      if (under(pathname, '/dashboard')) return to(routes.dashboard)
      if (under(pathname, '/functions/v1')) return starting()
      if (pathname === '/') return Response.redirect(new URL('/dashboard', request.url), 302)
      return Response.json({ message: 'no Route matched with those values' }, { status: 404 })
    },
    { overrideGlobalObjects: false },
  )
  const server = createServer((incoming, outgoing) => {
    if (incoming.url?.startsWith('/functions/v1/') && routes.functions)
      void routes.functions(incoming, outgoing)
    else void web(incoming, outgoing)
  })
  // Functions may take 150 s to answer, uploads as long as they like.
  server.requestTimeout = 0
  server.keepAliveTimeout = 65_000
  const sockets = new Set<Duplex>()
  server.on('upgrade', (incoming, socket, head) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => socket.destroy())
    if (!under(incoming.url?.split('?')[0] ?? '', '/realtime/v1')) refuse(socket, '404 Not Found')
    else if (routes.realtime) routes.realtime.upgrade(incoming, socket, head)
    else refuse(socket, '503 Service Unavailable')
  })
  await new Promise<void>((done, fail) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const why = { EADDRINUSE: 'is taken by another program', EACCES: 'needs more rights' }[
        String(error.code)
      ]
      fail(
        why
          ? new StartError(`Port ${port} ${why}: set ROLLCALL_PORT to a free port.`, { cause: error })
          : error,
      )
    })
    server.listen(port, '127.0.0.1', done)
  })
  const address = server.address()
  let closed: Promise<void> | undefined
  return {
    port: typeof address === 'object' && address ? address.port : port,
    open(more) {
      routes = { ...routes, ...more }
    },
    close() {
      closed ??= new Promise((done) => {
        server.close(() => done())
        for (const socket of sockets) socket.destroy()
        server.closeAllConnections()
      })
      return closed
    },
  }
}

function under(path: string, prefix: string): boolean {
  return path === prefix || path.startsWith(`${prefix}/`)
}

function starting(): Response {
  return Response.json(
    { message: 'The stack is starting.' },
    { status: 503, headers: { 'retry-after': '1' } },
  )
}

function refuse(socket: Duplex, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`)
}
