import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
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
    const config = findConfig(
      { url: textOf(values, 'url'), key: textOf(values, 'key') },
      // A page must not have a secret key: only what is public is looked for first.
      {
        ...terminal.env,
        SUPABASE_KEY:
          terminal.env.SUPABASE_PUBLISHABLE_KEY ||
          terminal.env.SUPABASE_ANON_KEY ||
          terminal.env.SUPABASE_KEY,
      },
      cwd,
    )
    const key = isSecret(config.key) ? undefined : config.key
    const page = withConfig(readPage(), { url: config.url, ...(key && { key }) })
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

/** The page with the project that it is about. */
export function withConfig(page: string, config: { url: string; key?: string }): string {
  const json = JSON.stringify(config).replaceAll('<', '\\u003c')
  return page.replace('<head>', `<head><script type="application/json" id="rollcall-config">${json}</script>`)
}
