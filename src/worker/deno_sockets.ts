import type { Connection, Sockets } from './sockets.ts'

interface DenoNet {
  connect(options: { hostname: string; port: number }): Promise<Connection>
  startTls(plain: Connection, options: { hostname: string }): Promise<Connection>
  resolveDns(hostname: string, type: 'A' | 'AAAA'): Promise<string[]>
}

/** The sockets of Deno, as hosted functions have them too. */
export const deno_sockets: Sockets = {
  async resolve(hostname) {
    const answers = await Promise.allSettled([
      net().resolveDns(hostname, 'A'),
      net().resolveDns(hostname, 'AAAA'),
    ])
    return answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
  },

  async open({ address, port, server_name }, signal) {
    const plain = await net().connect({ hostname: address, port })
    const connection = server_name === null ? plain : await net().startTls(plain, { hostname: server_name })
    const close = () => {
      try {
        connection.close()
      } catch {
        // Closed already.
      }
    }
    if (signal.aborted) close()
    return { readable: connection.readable, writable: connection.writable, close }
  },
}

function net(): DenoNet {
  return (globalThis as unknown as { Deno: DenoNet }).Deno
}
