import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export type DeployedFunction = {
  /** What was sent: paths as the CLI names them, with their text. */
  files: Map<string, string>
  metadata: { entrypoint_path: string; import_map_path: string; verify_jwt: boolean }
}

export type ManagementApi = {
  /** A profile of the CLI (YAML) that leads it here. */
  profile: string
  /** The functions that were deployed, by their name. */
  deployed: Map<string, DeployedFunction>
  close(): Promise<void>
}

/** Plays the part of the management API that `supabase functions deploy --use-api` talks to. */
export async function startManagementApi(): Promise<ManagementApi> {
  const deployed: ManagementApi['deployed'] = new Map()
  const server = createServer(async (incoming, outgoing) => {
    const url = new URL(incoming.url ?? '/', 'http://localhost')
    const answer = (status: number, body: unknown) =>
      outgoing.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    if (!/^Bearer sbp_[0-9a-f]{40}$/.test(incoming.headers.authorization ?? '')) {
      return answer(401, { message: 'Unauthorized' })
    }
    if (incoming.method === 'GET') return answer(200, [])
    if (incoming.method === 'PUT') return answer(200, { functions: [] })
    if (!url.pathname.endsWith('/functions/deploy')) return answer(404, { message: 'Not Found' })
    const slug = url.searchParams.get('slug') ?? ''
    const headers = { 'content-type': incoming.headers['content-type'] ?? '' }
    deployed.set(slug, await readForm(new Response(Buffer.concat(chunks), { headers })))
    const now = Date.now()
    answer(201, {
      id: slug,
      slug,
      name: slug,
      status: 'ACTIVE',
      version: 1,
      created_at: now,
      updated_at: now,
    })
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    profile: `name: local\napi_url: ${address}\ndashboard_url: ${address}\nproject_host: localhost\n`,
    deployed,
    async close() {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    },
  }
}

async function readForm(response: Response): Promise<DeployedFunction> {
  const files = new Map<string, string>()
  let metadata = ''
  for (const [name, value] of await response.formData()) {
    if (typeof value !== 'string') files.set(value.name, await value.text())
    else if (name === 'metadata') metadata = value
  }
  return { files, metadata: JSON.parse(metadata) as DeployedFunction['metadata'] }
}
