import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { JSONWebKeySet } from 'jose'
import postgres from 'postgres'
import { WebSocketServer } from 'ws'
import { spaceOf } from './broadcast.ts'
import { handleBroadcastRequest } from './broadcast_api.ts'
import { Chaos, parseChaos } from './chaos.ts'
import { Connection } from './connection.ts'
import { Feed } from './feed.ts'
import { parseVsn } from './frames.ts'
import { Hub } from './hub.ts'
import { limits } from './limits.ts'
import { keepPartitions } from './partitions.ts'
import type { Services } from './services.ts'
import { parseSnapshot } from './snapshot.ts'
import { TokenError, tokenVerifier } from './token.ts'

export type RealtimeOptions = {
  /** A superuser's connection, to a database that has platform/realtime.sql. */
  db_url: string
  jwt_secret: string
  jwks?: JSONWebKeySet
  api_keys: { publishable: string; secret: string }
  /** The realism mode, as in ROLLCALL_REALTIME_CHAOS: `seed=42,drop=0.3,duplicate=0.1`. */
  chaos?: string | undefined
  log?: (line: string) => void
}

export type Realtime = {
  /** `POST /realtime/v1/api/broadcast` and `/api/broadcast/<topic>/events/<event>`. */
  fetch(request: Request): Promise<Response>
  /** `/realtime/v1/websocket?apikey=...&vsn=...` */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void
  close(): Promise<void>
}

/**
 * Starts the local Realtime: broadcast, presence and broadcast from the database, to clients as hosted. It
 * listens on no port of its own.
 * @throws when Postgres can not be followed (it needs wal_level=logical).
 */
export async function createRealtime(options: RealtimeOptions): Promise<Realtime> {
  const log = options.log ?? (() => {})
  const settings = parseChaos(options.chaos)
  const chaos = settings && new Chaos(settings)
  const connect = (max: number) =>
    postgres(options.db_url, {
      max,
      fetch_types: false,
      // Notices would go to the terminal of whoever started the stack.
      onnotice: () => {},
      backoff: () => 0.1,
      connection: { application_name: 'realtime' },
    })
  const sql = connect(4)
  // A connection of its own: deliveries must not queue behind joins.
  const watcher = connect(1)
  const hub = new Hub()
  const feed = new Feed({
    db_url: options.db_url,
    publication: 'supabase_realtime_messages_publication',
    snapshot: chaos
      ? undefined
      : async () => {
          const [row] = await watcher<[{ snapshot: string }]>`select pg_current_snapshot()::text as snapshot`
          return parseSnapshot(row.snapshot)
        },
    deliver: ({ topic, is_private, broadcast }) => hub.broadcast(spaceOf(topic, is_private), broadcast),
    log,
  })
  const services: Services = { sql, hub, feed, verify: tokenVerifier(options), chaos, log }
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: limits.frame_bytes,
    perMessageDeflate: false,
  })
  const greeting = new Set<Duplex>()
  let stopPartitions = () => {}

  async function close(): Promise<void> {
    stopPartitions()
    // "Going away": clients come back when the next server is up.
    for (const client of sockets.clients) client.close(1001)
    for (const socket of greeting) socket.destroy()
    await feed.close()
    await Promise.all([sql.end({ timeout: 1 }), watcher.end({ timeout: 1 })])
    for (const client of sockets.clients) client.terminate()
    sockets.close()
  }

  try {
    stopPartitions = await keepPartitions(sql, chaos, log)
    await feed.start()
  } catch (error) {
    await close()
    throw error
  }

  return {
    close,
    fetch: (request) => handleBroadcastRequest(services, request),
    upgrade(request, socket, head) {
      greeting.add(socket)
      socket.once('close', () => greeting.delete(socket))
      socket.once('error', () => socket.destroy())
      const refuse = (status: number, error: string) => {
        const body = JSON.stringify({ error })
        const head = `HTTP/1.1 ${status} Refused\r\nContent-Type: application/json; charset=utf-8\r\n`
        socket.end(`${head}Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`)
      }
      const url = new URL(request.url ?? '/', 'http://localhost')
      if (!url.pathname.endsWith('/websocket')) return refuse(404, 'not found')
      const vsn = parseVsn(url.searchParams.get('vsn'))
      if (!vsn) return refuse(403, 'The requested version of the protocol is not known')
      const api_key = request.headers['x-api-key'] ?? url.searchParams.get('apikey')
      if (typeof api_key !== 'string' || api_key === '') return refuse(401, 'API key is missing')
      services.verify(api_key).then(
        (token) => {
          sockets.handleUpgrade(request, socket, head, (client) => {
            greeting.delete(socket)
            new Connection({
              socket: client,
              stream: socket,
              vsn,
              token,
              headers: xHeaders(request),
              services,
            })
          })
        },
        (error) => {
          if (!(error instanceof TokenError)) return refuse(500, 'Error connecting to Realtime')
          refuse(401, error.problem === 'expired' ? 'Token has expired' : error.message)
        },
      )
    },
  }
}

function xHeaders(request: IncomingMessage): Record<string, string> {
  const entries = Object.entries(request.headers).filter(([name]) => name.startsWith('x-'))
  return Object.fromEntries(entries.map(([name, value]) => [name, String(value)]))
}
