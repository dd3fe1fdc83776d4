const { EdgeRuntime, Deno } = globalThis as unknown as {
  EdgeRuntime: { waitUntil(work: Promise<unknown>): void }
  Deno: { env: { get(name: string): string | undefined }; readTextFile(path: string): Promise<string> }
}
let finished = 0

/** Says what arrived, or does what the path asks for. */
export default {
  async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url)
    switch (url.pathname) {
      case '/echo/throw':
        throw new Error('thrown on purpose')
      case '/echo/reject':
        void Promise.reject(new Error('rejected on purpose'))
        return Response.json({ ok: true })
      case '/echo/background':
        EdgeRuntime.waitUntil(new Promise((done) => setTimeout(done, 50)).then(() => finished++))
        return Response.json({ finished })
      case '/echo/read':
        return new Response(await Deno.readTextFile('/etc/hostname').catch((error: Error) => error.name))
      case '/echo/slow':
        await new Promise((done) => setTimeout(done, Number(url.searchParams.get('ms'))))
        return Response.json({ slow: true })
      case '/echo/stream':
        return new Response(stream(), { headers: { 'content-type': 'text/plain' } })
      default:
        return Response.json({
          method: request.method,
          path: url.pathname,
          query: url.search,
          header: request.headers.get('x-test'),
          body: await request.text(),
          url: Deno.env.get('SUPABASE_URL'),
          finished,
        })
    }
  },
}

function stream(): ReadableStream<Uint8Array> {
  let sent = 0
  return new ReadableStream({
    async pull(controller) {
      if (sent === 3) return controller.close()
      await new Promise((done) => setTimeout(done, 20))
      controller.enqueue(new TextEncoder().encode(`part ${++sent}\n`))
    },
  })
}
