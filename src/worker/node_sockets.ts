import { lookup } from 'node:dns/promises'
import { connect, isIP, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import type { Sockets } from './sockets.ts'

/** The sockets of Node. */
export const node_sockets: Sockets = {
  async resolve(hostname) {
    const found = await lookup(hostname, { all: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOTFOUND') return []
      throw error
    })
    return found.map(({ address }) => address)
  },

  async open({ address, port, server_name }, signal) {
    const socket = await new Promise<Socket>((done, fail) => {
      const place = { host: address, port }
      const opened: Socket =
        server_name === null
          ? connect(place, () => done(opened))
          : // Without a name to send, the certificate must be that of the address.
            connectTls({ ...place, ...(isIP(server_name) ? {} : { servername: server_name }) }, () =>
              done(opened),
            )
      opened.on('error', fail)
      signal.addEventListener('abort', () => opened.destroy())
    })
    const { readable, writable } = Duplex.toWeb(socket)
    return { readable: readable as ReadableStream<Uint8Array>, writable, close: () => socket.destroy() }
  },
}
