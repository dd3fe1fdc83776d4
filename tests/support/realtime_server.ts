import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getRequestListener } from '@hono/node-server'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import { SignJWT } from 'jose'
import postgres, { type Sql } from 'postgres'
import { installPlatform } from '../../src/local/platform.ts'
import { type Postgres, startPostgres } from '../../src/local/postgres.ts'
import { createRealtime, type Realtime, type RealtimeOptions } from '../../src/local/realtime/server.ts'

export const jwt_secret = 'a-secret-of-at-least-thirty-two-characters'
export const api_keys = { publishable: 'sb_publishable_test', secret: 'sb_secret_test' }

/** A user's access token, as Auth signs it: HS256 with a kid. */
export function userToken(
  sub: string,
  seconds = 3600,
  claims: Record<string, unknown> = {},
): Promise<string> {
  return new SignJWT({ sub, role: 'authenticated', ...claims })
    .setProtectedHeader({ alg: 'HS256', kid: 'test-key' })
    .setIssuedAt()
    .setExpirationTime(Math.floor(Date.now() / 1000) + seconds)
    .sign(new TextEncoder().encode(jwt_secret))
}

export type TestDatabase = {
  superuser_url: string
  /** As supabase_admin. */
  admin: Sql
  /** As postgres, the role that pushes migrations. */
  owner: Sql
  restart(): Promise<void>
  stop(): Promise<void>
}

/** A cluster of its own with the platform's SQL: tests of the feed restart it. */
export async function startTestDatabase(): Promise<TestDatabase> {
  const dir = await mkdtemp(join(tmpdir(), 'rollcall-realtime-'))
  let cluster: Postgres = await startPostgres({ dir, port: 0, durable: false })
  const superuser_url = cluster.url('supabase_admin')
  await installPlatform(superuser_url)
  const connect = (url: string) => postgres(url, { max: 4, onnotice: () => {}, backoff: () => 0.05 })
  const admin = connect(superuser_url)
  const owner = connect(cluster.url('postgres'))
  return {
    superuser_url,
    admin,
    owner,
    async restart() {
      const { port } = cluster
      await cluster.stop()
      cluster = await startPostgres({ dir, port, durable: false })
    },
    async stop() {
      await Promise.all([admin.end({ timeout: 1 }), owner.end({ timeout: 1 })])
      await cluster.stop()
      await rm(dir, { recursive: true, force: true })
    },
  }
}

export type RealtimeServer = {
  api_url: string
  realtime: Realtime
  /** What the server logged. */
  log: string[]
  /** An unmodified client; with a token it acts as that user. Closed with the server. */
  client(
    token?: string | (() => Promise<string>),
    options?: { vsn?: '1.0.0' | '2.0.0'; key?: string },
  ): SupabaseClient
  close(): Promise<void>
}

/** The local Realtime behind a port, as the gateway puts it. */
export async function startRealtimeServer(
  db_url: string,
  options: Partial<RealtimeOptions> = {},
): Promise<RealtimeServer> {
  const log: string[] = []
  const realtime = await createRealtime({
    db_url,
    jwt_secret,
    api_keys,
    log: (line) => log.push(line),
    ...options,
  })
  const http = createServer(getRequestListener((request) => realtime.fetch(request)))
  http.on('upgrade', realtime.upgrade)
  await new Promise<void>((listening) => http.listen(0, '127.0.0.1', listening))
  const api_url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`
  const clients: SupabaseClient[] = []
  return {
    api_url,
    realtime,
    log,
    client(token, { vsn, key = api_keys.publishable } = {}) {
      const client = createClient(api_url, key, {
        ...(token && { accessToken: async () => (typeof token === 'string' ? token : token()) }),
        realtime: { ...(vsn && { vsn }) },
      })
      clients.push(client)
      return client
    },
    async close() {
      await Promise.all(clients.map((client) => client.realtime.disconnect()))
      await realtime.close()
      http.closeAllConnections()
      await new Promise((closed) => http.close(closed))
    },
  }
}
