import { type ChildProcess, spawn } from 'node:child_process'
import {
  createWriteStream,
  existsSync,
  type FSWatcher,
  mkdirSync,
  readFileSync,
  watch,
  writeFileSync,
} from 'node:fs'
import { Agent, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { jwtVerify } from 'jose'
import { parse } from 'smol-toml'
import type { HostOptions } from './functions/main.ts'
import { isAlive, stopProcess } from './processes.ts'
import { project_dir } from './project.ts'

export type FunctionsOptions = {
  /** The stack's data directory: functions.log and Deno's caches live there. */
  dir: string
  /** The environment of the functions, as a hosted project sets it. */
  env: Record<string, string>
  /** Checks the token of functions that have not `verify_jwt = false`. */
  jwt_secret: string
  /** The project to serve: its supabase/config.toml, functions and node_modules. Default this one. */
  project?: string
  /** After this long a request is answered with 504, in milliseconds. Default 150 s, as hosted. */
  limit_ms?: number
}

export type Functions = {
  /** Answers a request to /functions/v1/<name>/... */
  handle(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void>
  close(): Promise<void>
}

type FunctionConfig = { enabled?: boolean; verify_jwt?: boolean; entrypoint?: string; import_map?: string }
type Host = { child: ChildProcess; port: number; served: Map<string, { verify_jwt: boolean }> }

const prefix = '/functions/v1/'

/**
 * Serves the functions of supabase/config.toml with Deno, offline from node_modules, and starts anew when their
 * files change: a request that is under way ends in the process where it began.
 */
export async function startFunctions(options: FunctionsOptions): Promise<Functions> {
  const project = options.project ?? project_dir
  const pid_file = join(options.dir, 'functions.pid')
  const log = createWriteStream(join(options.dir, 'functions.log'), { flags: 'w' })
  const agent = new Agent({ keepAlive: true, maxSockets: 256 })
  const alive = new Set<ChildProcess>()
  let closing = false
  let retry: NodeJS.Timeout | undefined

  await stopLeftovers(pid_file, options.dir)

  const launch = async (): Promise<Host> => {
    const found = readConfig(project)
    const host: HostOptions = {
      dir: options.dir,
      entrypoints: Object.fromEntries(
        [...found.functions].map(([name, { file }]) => [name, pathToFileURL(file).href]),
      ),
      limit_ms: options.limit_ms ?? 150_000,
    }
    const child = spawn(denoBinary(), denoArguments(project, found.config_file, JSON.stringify(host)), {
      cwd: project,
      // The pipe to stdin ends with this process, however it ends, and Deno with it.
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      env: denoEnvironment(options),
    })
    alive.add(child)
    writeFileSync(pid_file, [...alive].map(({ pid }) => pid).join('\n'))
    child.once('exit', () => {
      alive.delete(child)
      if (closing || current_child !== child) return
      // It died by itself: out of memory, or killed by hand.
      retry = setTimeout(restart, 500)
    })
    child.stderr.pipe(log, { end: false })
    const port = await new Promise<number>((done, fail) => {
      child.once('error', fail)
      child.once('exit', (code) => fail(new Error(`Deno ended with code ${code}; see ${log.path}.`)))
      createInterface({ input: child.stdout }).once('line', (line) => done(Number(line)))
    })
    child.stdout.pipe(log, { end: false })
    child.stdout.resume()
    return { child, port, served: found.functions }
  }

  let current: Promise<Host>
  let current_child: ChildProcess | undefined
  const restart = () => {
    if (closing) return
    const before = current_child
    const next = launch()
    next.then(
      (host) => {
        current = next
        current_child = host.child
        before?.kill('SIGTERM')
      },
      (error: Error) => log.write(`${error.message}\n`),
    )
  }
  current = launch()
  current_child = (await current).child
  const watchers = watchFiles(project, restart)

  return {
    async handle(incoming, outgoing) {
      const host = await current
      const url = incoming.url ?? '/'
      const name = url.slice(prefix.length).split(/[/?]/)[0] ?? ''
      if (host.served.get(name)?.verify_jwt && incoming.method !== 'OPTIONS') {
        if (!(await hasToken(incoming, options.jwt_secret))) {
          return say(outgoing, 401, { code: 'UNAUTHORIZED_INVALID_JWT_FORMAT', message: 'Invalid JWT' })
        }
      }
      const upstream = request(
        {
          agent,
          host: '127.0.0.1',
          port: host.port,
          method: incoming.method,
          // A function sees /<name>/..., as on a hosted project.
          path: url.slice(prefix.length - 1),
          headers: {
            ...incoming.headers,
            'x-forwarded-host': incoming.headers.host,
            'x-forwarded-proto': 'http',
          },
        },
        (response) => {
          outgoing.writeHead(response.statusCode ?? 502, response.headers)
          response.pipe(outgoing)
          response.once('error', () => outgoing.destroy())
        },
      )
      upstream.once('error', () => {
        if (outgoing.headersSent) outgoing.destroy()
        else
          say(outgoing, 503, { code: 'BOOT_ERROR', message: 'Function failed to start (please check logs)' })
      })
      outgoing.once('close', () => upstream.destroy())
      incoming.pipe(upstream)
    },
    async close() {
      closing = true
      clearTimeout(retry)
      for (const watcher of watchers) watcher.close()
      agent.destroy()
      await Promise.all(
        [...alive].map((child) => {
          const gone = new Promise((done) => child.once('exit', done))
          child.kill('SIGKILL')
          return gone
        }),
      )
      log.end()
    },
  }
}

type Found = {
  functions: Map<string, { file: string; verify_jwt: boolean }>
  config_file: string | undefined
}

function readConfig(project: string): Found {
  const supabase = join(project, 'supabase')
  const config = parse(readFileSync(join(supabase, 'config.toml'), 'utf8')) as {
    functions?: Record<string, FunctionConfig>
  }
  const found: Found = { functions: new Map(), config_file: undefined }
  for (const [name, settings] of Object.entries(config.functions ?? {})) {
    if (settings.enabled === false) continue
    const file = resolve(supabase, settings.entrypoint ?? `functions/${name}/index.ts`)
    found.functions.set(name, { file, verify_jwt: settings.verify_jwt ?? true })
    // One process, so one import map: the functions of this project share theirs.
    if (settings.import_map) found.config_file ??= resolve(supabase, settings.import_map)
  }
  return found
}

function denoBinary(): string {
  const dir = dirname(createRequire(import.meta.url).resolve('deno/package.json'))
  return join(dir, process.platform === 'win32' ? 'deno.exe' : 'deno')
}

function denoArguments(project: string, config_file: string | undefined, argument: string): string[] {
  const readable = [project, project_dir].map((dir) =>
    ['functions', 'src', 'node_modules'].map((name) => join(dir, name)),
  )
  return [
    'run',
    ...(config_file && existsSync(config_file) ? ['--config', config_file] : []),
    '--node-modules-dir=manual',
    '--cached-only',
    '--no-remote',
    '--no-lock',
    '--no-check',
    '--no-prompt',
    '--allow-net',
    '--allow-env',
    `--allow-read=${[...new Set(readable.flat())].join(',')}`,
    join(import.meta.dirname, 'functions', 'main.ts'),
    argument,
  ]
}

function denoEnvironment(options: FunctionsOptions): NodeJS.ProcessEnv {
  const cache = join(options.dir, 'deno')
  mkdirSync(cache, { recursive: true })
  const env: NodeJS.ProcessEnv = {}
  for (const [name, value] of Object.entries(process.env)) {
    // What tunes this Node or this test run says nothing to a function.
    if (!/^(npm_|NODE_(?!EXTRA_CA_CERTS)|VITEST|PG|DENO_)/.test(name)) env[name] = value
  }
  // Deno's fetch goes through the proxy that the environment names, also to this machine.
  const no_proxy = [env.NO_PROXY ?? env.no_proxy, '127.0.0.1', 'localhost'].filter(Boolean).join(',')
  const proxy = { NO_PROXY: no_proxy, no_proxy }
  return { ...env, ...proxy, ...options.env, DENO_DIR: cache, DENO_NO_UPDATE_CHECK: '1', NO_COLOR: '1' }
}

/** Calls `changed` a moment after files that a function may import were written. */
function watchFiles(project: string, changed: () => void): FSWatcher[] {
  let timer: NodeJS.Timeout | undefined
  const soon = () => {
    clearTimeout(timer)
    timer = setTimeout(changed, 150)
  }
  const watched = ['functions', 'src/contract', 'src/worker', 'supabase/config.toml']
  return watched.flatMap((name) => {
    const path = join(project, name)
    if (!existsSync(path)) return []
    const watcher = watch(path, { recursive: !name.endsWith('.toml'), persistent: false }, soon)
    // A folder that was removed is no reason to end.
    watcher.on('error', () => {})
    return [watcher]
  })
}

async function stopLeftovers(pid_file: string, dir: string): Promise<void> {
  if (!existsSync(pid_file)) return
  for (const pid of readFileSync(pid_file, 'utf8').split('\n').map(Number)) {
    if (isAlive(pid, JSON.stringify(dir))) await stopProcess(pid, 'SIGKILL', 1000)
  }
}

async function hasToken(incoming: IncomingMessage, jwt_secret: string): Promise<boolean> {
  const token = /^Bearer (.+)$/.exec(incoming.headers.authorization ?? '')?.[1] ?? ''
  try {
    await jwtVerify(token, new TextEncoder().encode(jwt_secret), { algorithms: ['HS256'] })
    return true
  } catch {
    return false
  }
}

function say(outgoing: ServerResponse, status: number, body: object): void {
  outgoing.writeHead(status, { 'content-type': 'application/json', 'access-control-allow-origin': '*' })
  outgoing.end(JSON.stringify(body))
}
