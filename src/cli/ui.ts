import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { dashboardFor } from '../contract/dashboard.ts'
import { findConfig, isSecret } from './config.ts'
import { type Command, print, say, textOf } from './context.ts'
import { CommandError, exit, usageError } from './exit_codes.ts'

/** Serves the dashboard on this machine. */
export const ui: Command = {
  usage: 'rollcall ui [--port 0]',
  options: { port: { type: 'string' } },
  async run(context) {
    const port = Number(textOf(context.values, 'port') ?? 0)
    if (!Number.isInteger(port) || port < 0 || port > 65_535)
      throw usageError('--port is a port, 0 to 65535.')
    const { values, terminal, cwd } = context
    const flags = { url: textOf(values, 'url'), key: textOf(values, 'key') }
    const config = findConfig(flags, terminal.env, cwd, { for_page: true })
    const key = isSecret(config.key) ? null : config.key
    // Without a key that may be shown the page asks for one.
    const page = key === null ? readPage() : dashboardFor(readPage(), { url: config.url, key })
    const server = createServer((request, response) => {
      if (request.method !== 'GET' && request.method !== 'HEAD') return void response.writeHead(405).end()
      const path = new URL(request.url ?? '/', 'http://127.0.0.1').pathname
      if (path !== '/' && path !== '/index.html') return void response.writeHead(404).end()
      response.writeHead(200, {
        'content-type': 'text/html; charset=utf-8',
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
      })
      response.end(request.method === 'HEAD' ? undefined : page)
    })
    await new Promise<void>((done, fail) => {
      server.once('error', (error) =>
        fail(
          new CommandError(
            exit.failed,
            'port_taken',
            `Port ${port} can not be had: ${error.message}.`,
            'Take another --port.',
          ),
        ),
      )
      server.listen(port, '127.0.0.1', done)
    })
    print(context, `http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
    say(context, key ? '^C ends it.' : 'The page asks for a publishable key. ^C ends it.')
    await new Promise<void>((done) => context.signal.addEventListener('abort', () => done(), { once: true }))
    server.closeAllConnections()
    server.close()
    return exit.interrupted
  },
}

/** The built page: beside this file in the package, in dist/ of the repository. */
function readPage(): string {
  const here = import.meta.dirname
  const places = [
    join(here, 'dashboard', 'index.html'),
    join(dirname(dirname(here)), 'dist', 'dashboard', 'index.html'),
  ]
  const file = places.find(existsSync)
  if (!file) throw new CommandError(exit.failed, 'no_page', 'The dashboard was not built.', 'npm run build')
  return readFileSync(file, 'utf8')
}
