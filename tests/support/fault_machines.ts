import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * What happens to a request instead of an answer: a status (with retry-after in seconds), no answer at all, a cut
 * connection, half a JSON, or the work done and its answer lost, or never sent.
 */
export type Fault =
  | { status: number; retry_after?: number | string }
  | 'hang'
  | 'cut'
  | 'garbage'
  | 'answer_lost'
  | 'answer_hangs'

export interface FaultMachine {
  id: string
  name: string
  state: string
  config: { metadata?: Record<string, string>; env?: Record<string, string>; [field: string]: unknown }
  events?: { type: string; status: string; request?: { exit_event: Record<string, unknown> } }[]
}

export interface Recorded {
  method: string
  path: string
  authorization: string | undefined
  body: unknown
  at: number
}

export interface FaultMachines {
  url: string
  /** What happens to the coming creations, one each; then they succeed. */
  creations: Fault[]
  /** What happens to every request while it is set. */
  always: Fault | null
  /** How it lies: `undead` takes a request to destroy and does nothing, `forgetful` knows no machine by its id. */
  lies: 'undead' | 'forgetful' | null
  /** The state in which a machine is after its creation. Default started. */
  state_after_creation: string
  /** Called after a machine was made and before the answer leaves. */
  on_created: (machine: FaultMachine) => void | Promise<void>
  machines: FaultMachine[]
  requests: Recorded[]
  close(): Promise<void>
}

/** A Machines API over real HTTP that misbehaves as it is told. */
export async function startFaultMachines(): Promise<FaultMachines> {
  const server = createServer((incoming, outgoing) => {
    void answer(incoming, outgoing)
  })
  const self: FaultMachines = {
    url: '',
    creations: [],
    always: null,
    lies: null,
    state_after_creation: 'started',
    on_created: () => {},
    machines: [],
    requests: [],
    async close() {
      const closed = new Promise((done) => server.close(done))
      server.closeAllConnections()
      await closed
    },
  }

  let made_so_far = 0
  async function answer(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString()
    const url = new URL(incoming.url ?? '/', 'http://127.0.0.1')
    const method = incoming.method ?? 'GET'
    const body: unknown = text === '' ? undefined : JSON.parse(text)
    const { authorization } = incoming.headers
    self.requests.push({ method, path: url.pathname + url.search, authorization, body, at: Date.now() })

    const [, id, action] = /\/machines(?:\/([^/]+))?(?:\/([^/]+))?$/.exec(url.pathname) ?? []
    const creates = method === 'POST' && id === undefined
    const fault = self.always ?? (creates ? self.creations.shift() : undefined)
    if (fault === 'hang') return
    if (fault === 'cut') return void incoming.socket.destroy()
    if (fault === 'garbage') {
      outgoing.writeHead(200, { 'content-type': 'application/json' })
      return void outgoing.end('{"id": "half')
    }
    if (typeof fault === 'object') {
      const headers: Record<string, string> = { 'content-type': 'application/json' }
      if (fault.retry_after !== undefined) headers['retry-after'] = String(fault.retry_after)
      outgoing.writeHead(fault.status, headers)
      return void outgoing.end(JSON.stringify({ error: 'told to fail' }))
    }

    const say = (status: number, value: unknown) => {
      outgoing.writeHead(status, { 'content-type': 'application/json' })
      outgoing.end(JSON.stringify(value))
    }
    const machine = self.machines.find((one) => one.id === id)
    if (creates) {
      const { name } = body as { name: string }
      if (self.machines.some((one) => one.name === name && one.state !== 'destroyed')) {
        return say(409, { error: `unique machine name violation: "${name}"` })
      }
      const made: FaultMachine = {
        id: `m${(++made_so_far).toString().padStart(6, '0')}`,
        state: self.state_after_creation,
        ...(body as { name: string; config: FaultMachine['config'] }),
      }
      self.machines.push(made)
      await self.on_created(made)
      if (fault === 'answer_lost') return void incoming.socket.destroy()
      if (fault === 'answer_hangs') return
      return say(200, made)
    }
    if (id === undefined) {
      const wanted = [...url.searchParams].filter(([name]) => name.startsWith('metadata.'))
      return say(
        200,
        self.machines.filter(
          ({ state, config }) =>
            state !== 'destroyed' &&
            wanted.every(([name, value]) => config.metadata?.[name.slice('metadata.'.length)] === value),
        ),
      )
    }
    if (machine === undefined || self.lies === 'forgetful') return say(404, { error: 'machine not found' })
    if (method === 'DELETE') {
      if (self.lies !== 'undead') machine.state = 'destroyed'
      return say(200, { ok: true })
    }
    if (action === 'wait') {
      return machine.state === url.searchParams.get('state')
        ? say(200, { ok: true })
        : say(408, { error: 'timeout' })
    }
    if (action === 'stop') {
      machine.state = 'stopping'
      return say(200, { ok: true })
    }
    return say(200, machine)
  }

  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  self.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return self
}
