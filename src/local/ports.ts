import { createServer } from 'node:net'
import { StartError } from './start_error.ts'

/** A TCP port of 127.0.0.1 that nobody listens on right now. */
export function freePort(): Promise<number> {
  return probe(0)
}

/**
 * The port itself when it is free, any free port for 0.
 * @throws StartError naming the environment variable when somebody listens there.
 */
export async function claimPort(port: number, variable: string): Promise<number> {
  if (port === 0) return freePort()
  try {
    return await probe(port)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = code === 'EACCES' ? 'needs more rights' : 'is taken by another program'
    throw new StartError(`Port ${port} ${why}: set ${variable} to a free port.`, { cause: error })
  }
}

function probe(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : port))
    })
  })
}
