import { startGateway } from '../../src/local/gateway.ts'
import { claimPort } from '../../src/local/ports.ts'
import { createRealtime } from '../../src/local/realtime/server.ts'
import { createRoom } from '../../src/local/room/room.ts'
import { createTestDatabase } from './database.ts'

export type RoomServer = {
  api_url: string
  /** What room guests' tokens are signed with. */
  jwt_secret: string
  keys: { publishable: string; secret: string }
  close(): Promise<void>
}

/**
 * The room with the Realtime it lives on, behind the gateway: all that a guest talks to.
 * @param options.chaos Realtime's realism mode.
 */
export async function startRoomServer(options: { chaos?: string } = {}): Promise<RoomServer> {
  const jwt_secret = 'a-secret-of-at-least-thirty-two-characters'
  const keys = { publishable: 'sb_publishable_test', secret: 'sb_secret_test' }
  const database = await createTestDatabase({ migrated: false })
  const realtime = await createRealtime({
    db_url: database.superuser_url,
    jwt_secret,
    api_keys: keys,
    chaos: options.chaos,
  })
  const port = await claimPort(0, 'ROLLCALL_PORT')
  const api_url = `http://127.0.0.1:${port}`
  const room = createRoom({
    api_url,
    jwt_secret,
    kid: 'test-key',
    publishable_key: keys.publishable,
    secret_key: keys.secret,
  })
  const gateway = await startGateway({
    port,
    realtime,
    room: room.fetch,
    api: () => new Response(null, { status: 404 }),
    functions: async (_incoming, outgoing) => void outgoing.writeHead(404).end(),
    dashboard: () => new Response(null, { status: 404 }),
  })
  return {
    api_url,
    jwt_secret,
    keys,
    async close() {
      await room.close()
      await gateway.close()
      await realtime.close()
      await database.drop()
    },
  }
}
