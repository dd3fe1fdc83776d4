import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { getRequestListener } from '@hono/node-server'
import { StartError } from './start_error.ts'

type Fetch = (request: Request) => Response | Promise<Response>

export type GatewayOptions = {
  port: number
  /** /rest/v1 and /auth/v1 */
  api: Fetch
  /** /functions/v1, unparsed: bodies stream both ways. */
  functions(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void>
  /** /realtime/v1 */
  realtime:
    | { fetch: Fetch; upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void }
    | undefined
  /** /room */
  room: Fetch | undefined
  /** /dashboard */
  dashboard: Fetch
}

export type Gateway = { port: number; close(): Promise<void> }

/**
 * The one port of the stack: sends each request to the part that its path names.
 * @throws StartError when the port is taken.
 */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const under = (path: string, prefix: string) => path === prefix || path.startsWith(`${prefix}/`)
  const web = getRequestListener(
    async (request) => {
      const { pathname } = new URL(request.url)
      if (under(pathname, '/rest/v1') || under(pathname, '/auth/v1')) return options.api(request)
      if (under(pathname, '/realtime/v1') && options.realtime) return options.realtime.fetch(request)
      if (under(pathname, '/room') && options.room) return options.room(request)
      if (under(pathname, '/dashboard')) return options.dashboard(request)
      if (pathname === '/') return Response.redirect(new URL('/dashboard', request.url), 302)
      return Response.json({ message: 'no Route matched with those values' }, { status: 404 })
    },
    { overrideGlobalObjects: false },
  )
  const server = createServer((incoming, outgoing) => {
    const path = incoming.url ?? '/'
    if (path.startsWith('/functions/v1/')) void options.functions(incoming, outgoing)
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
    if (options.realtime && under(new URL(incoming.url ?? '/', 'http://x').pathname, '/realtime/v1')) {
      options.realtime.upgrade(incoming, socket, head)
    } else {
      socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n')
    }
  })
  await new Promise<void>((done, fail) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EADDRINUSE') return fail(error)
      fail(
        new StartError(
          `Port ${options.port} is taken by another program: set ROLLCALL_PORT to a free port.`,
          {
            cause: error,
          },
        ),
      )
    })
    server.listen(options.port, '127.0.0.1', done)
  })
  const address = server.address()
  return {
    port: typeof address === 'object' && address ? address.port : options.port,
    async close() {
      const closed = new Promise((done) => server.close(done))
      for (const socket of sockets) socket.destroy()
      server.closeAllConnections()
      await closed
    },
  }
}
