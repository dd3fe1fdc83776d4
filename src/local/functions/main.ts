/**
 * The Deno side of the functions host: serves the default export of each function, as the edge runtime does.
 * Started by ../functions_host.ts with one argument, a HostOptions as JSON. Its first line on stdout is the
 * port; it ends when stdin does, so it never outlives the stack.
 */
export type HostOptions = {
  /** The data directory of the stack: tells this process from that of another stack. */
  dir: string
  /** The file URL of each function's entrypoint. */
  entrypoints: Record<string, string>
  /** After this long a request is answered with 504, in milliseconds. */
  limit_ms: number
}

type Handler = { fetch(request: Request): Response | Promise<Response> }

type Deno = {
  args: string[]
  stdin: { readable: ReadableStream<Uint8Array> }
  exit(code: number): never
  addSignalListener(signal: string, listener: () => void): void
  serve(
    options: { hostname: string; port: number; onListen(address: { port: number }): void },
    handler: (request: Request) => Promise<Response>,
  ): { shutdown(): Promise<void> }
}

const { Deno } = globalThis as unknown as { Deno: Deno }
const options = JSON.parse(Deno.args[0] ?? '{}') as HostOptions
const handlers = new Map<string, Promise<Handler>>()
const background = new Set<Promise<unknown>>()

Object.assign(globalThis, {
  EdgeRuntime: {
    waitUntil(work: Promise<unknown>) {
      const kept = Promise.resolve(work)
        .catch((error) => console.error('waitUntil:', error))
        .finally(() => background.delete(kept))
      background.add(kept)
      return work
    },
  },
})

// One function's mistake must not end the others.
for (const event of ['unhandledrejection', 'error']) {
  globalThis.addEventListener(event, (occurred) => {
    occurred.preventDefault()
    const { reason, error } = occurred as Event & { reason?: unknown; error?: unknown }
    console.error('uncaught:', reason ?? error)
  })
}

const server = Deno.serve(
  { hostname: '127.0.0.1', port: 0, onListen: ({ port }) => console.log(port) },
  answer,
)

// A newer process has taken over: finish what is begun, then go.
Deno.addSignalListener('SIGTERM', async () => {
  await server.shutdown()
  while (background.size > 0) await Promise.allSettled(background)
  Deno.exit(0)
})

async function answer(request: Request): Promise<Response> {
  const name = new URL(request.url).pathname.split('/')[1] ?? ''
  const entrypoint = options.entrypoints[name]
  if (entrypoint === undefined) return failure(404, 'NOT_FOUND', 'Requested function was not found')
  let handler: Handler
  try {
    let loading = handlers.get(name)
    if (loading === undefined) {
      loading = import(entrypoint).then((module: { default: Handler }) => module.default)
      handlers.set(name, loading)
    }
    handler = await loading
    if (typeof handler?.fetch !== 'function')
      throw new TypeError(`${entrypoint} has no default export with fetch()`)
  } catch (error) {
    console.error(`${name}:`, error)
    return failure(503, 'BOOT_ERROR', 'Function failed to start (please check logs)')
  }
  let timer: ReturnType<typeof setTimeout> | undefined
  const limit = new Promise<Response>((done) => {
    timer = setTimeout(
      () => done(failure(504, 'IDLE_TIMEOUT', 'The function did not answer within the time limit')),
      options.limit_ms,
    )
  })
  try {
    const response = await Promise.race([handler.fetch(request), limit])
    if (!(response instanceof Response)) throw new TypeError('fetch() did not return a Response')
    return response
  } catch (error) {
    console.error(`${name}:`, error)
    return failure(500, 'WORKER_ERROR', 'Function exited due to an error (please check logs)')
  } finally {
    clearTimeout(timer)
  }
}

function failure(status: number, code: string, message: string): Response {
  return Response.json({ code, message }, { status, headers: { 'access-control-allow-origin': '*' } })
}

const stdin = Deno.stdin.readable.getReader()
// Nothing is said on stdin; it only ends.
while (!(await stdin.read()).done);
Deno.exit(0)
