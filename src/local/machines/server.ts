import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import { type Context, Hono } from 'hono'
import type { z } from 'zod'
import { ApiError } from './api_error.ts'
import { Fleet, type Image } from './fleet.ts'
import { type MachineState, viewOf } from './machine.ts'
import { CreateRequest, SignalRequest, StopRequest, signalName } from './machine_config.ts'

export type { Image } from './fleet.ts'

export type MachinesOptions = {
  /** Where records and logs are kept; machines that a killed stack left running are found by it. */
  dir: string
  /** What `config.image` may name. */
  images: Record<string, Image>
  /** Given to every machine besides its own environment. */
  env?: Record<string, string>
  /** 0, the default, takes a free one. */
  port?: number
  /** What `Authorization: Bearer` must hold; a fresh one when absent. */
  token?: string
  /** How long processes may take to end at close(), in ms. */
  grace_ms?: number
}

export type Machines = {
  /** For FLY_API_HOSTNAME. */
  url: string
  /** For FLY_API_TOKEN. */
  token: string
  close(): Promise<void>
}

const WAIT_STATES = ['started', 'stopped', 'suspended', 'destroyed']
/** Fly's proxy cuts longer waits. */
const WAIT_MAX_S = 60

/** Serves the Fly Machines API (https://fly.io/docs/machines/api) over processes of this computer. */
export async function startMachines(options: MachinesOptions): Promise<Machines> {
  const token = options.token ?? randomBytes(24).toString('base64url')
  const fleet = new Fleet(options.dir, options.images, { ...baseEnvironment(), ...options.env })
  const server = createAdaptorServer({ fetch: machinesApi(fleet, token).fetch })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port ?? 0, '127.0.0.1', resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    token,
    async close() {
      await fleet.close(options.grace_ms ?? 2_000)
      await new Promise((resolve) => {
        server.close(resolve)
        if ('closeAllConnections' in server) server.closeAllConnections()
      })
    },
  }
}

function machinesApi(fleet: Fleet, token: string): Hono {
  const api = new Hono()
  api.onError((error, c) => {
    if (error instanceof ApiError) return c.json({ error: error.message }, error.status)
    return c.json({ error: `internal: ${error.message}` }, 500)
  })
  api.notFound((c) => c.text('404 page not found', 404))
  api.use('/v1/*', async (c, next) => {
    const given = /^Bearer (.+)$/i.exec(c.req.header('authorization') ?? '')?.[1]
    if (given === undefined || !sameText(given, token))
      throw new ApiError(401, 'unauthenticated: token is invalid')
    await next()
  })

  const machines = '/v1/apps/:app/machines' as const
  api.post(machines, async (c) => {
    const request = parse(CreateRequest, await body(c))
    return c.json(viewOf(fleet.create(c.req.param('app'), request)))
  })
  api.get(machines, (c) => {
    const query = new URL(c.req.url).searchParams
    const include_deleted = query.get('include_deleted') === 'true'
    const labels = [...query].filter(([key]) => key.startsWith('metadata.'))
    const listed = fleet.list(c.req.param('app'), include_deleted).filter((machine) => {
      if (query.has('region') && query.get('region') !== machine.region) return false
      return labels.every(([key, value]) => machine.config.metadata[key.slice('metadata.'.length)] === value)
    })
    return c.json(listed.map(viewOf))
  })
  api.get(`${machines}/:id`, (c) => c.json(viewOf(fleet.get(c.req.param('app'), c.req.param('id')))))
  api.get(`${machines}/:id/events`, (c) => c.json(fleet.get(c.req.param('app'), c.req.param('id')).events))
  api.get(`${machines}/:id/wait`, async (c) => {
    const machine = fleet.get(c.req.param('app'), c.req.param('id'))
    const state = c.req.query('state') ?? 'started'
    if (!WAIT_STATES.includes(state)) throw new ApiError(400, `invalid_argument: unknown state "${state}"`)
    const timeout_s = Number(c.req.query('timeout') ?? WAIT_MAX_S)
    if (!Number.isInteger(timeout_s) || timeout_s < 1) {
      throw new ApiError(400, 'invalid_argument: timeout must be a whole number of seconds')
    }
    // flyctl's client says version, the documentation instance_id.
    const instance_id = c.req.query('instance_id') ?? c.req.query('version')
    if (state === 'stopped' && instance_id === undefined) {
      throw new ApiError(400, 'invalid_argument: instance_id is required to wait for state stopped')
    }
    if (instance_id !== undefined && instance_id !== machine.instance_id) {
      throw new ApiError(404, 'not_found: machine version not found')
    }
    await fleet.wait(machine.app, machine.id, state as MachineState, Math.min(timeout_s, WAIT_MAX_S) * 1000)
    return c.json({ ok: true })
  })
  api.post(`${machines}/:id/start`, (c) => c.json(fleet.start(c.req.param('app'), c.req.param('id'))))
  api.post(`${machines}/:id/stop`, async (c) => {
    const { signal, timeout } = parse(StopRequest, await body(c, {}), 400)
    fleet.stop(c.req.param('app'), c.req.param('id'), signal, timeout)
    return c.json({ ok: true })
  })
  api.post(`${machines}/:id/signal`, async (c) => {
    const { signal } = parse(SignalRequest, await body(c), 400)
    fleet.signal(c.req.param('app'), c.req.param('id'), signalName(signal))
    return c.json({ ok: true })
  })
  api.delete(`${machines}/:id`, (c) => {
    // flyctl's client says kill, the documentation force.
    const force = c.req.query('force') === 'true' || c.req.query('kill') === 'true'
    fleet.destroy(c.req.param('app'), c.req.param('id'), force)
    return c.json({ ok: true })
  })
  return api
}

async function body(c: Context, absent?: unknown): Promise<unknown> {
  const text = await c.req.text()
  if (text === '' && absent !== undefined) return absent
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new ApiError(400, `invalid_argument: the body is no JSON: ${(error as Error).message}`)
  }
}

function parse<T>(schema: z.ZodType<T>, value: unknown, status: 400 | 422 = 422): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const why = parsed.error.issues
    .map((issue) => `${issue.path.join('.') || 'body'}: ${issue.message}`)
    .join('; ')
  throw new ApiError(status, `invalid_argument: ${why}`)
}

function sameText(a: string, b: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(a), digest(b))
}

/** What a process needs to run at all; nothing else of the stack's own environment reaches a machine. */
function baseEnvironment(): Record<string, string> {
  const passed = ['PATH', 'HOME', 'SSL_CERT_FILE', 'NODE_EXTRA_CA_CERTS', 'SystemRoot', 'TEMP', 'USERPROFILE']
  const entries = passed.flatMap((name) => {
    const value = process.env[name]
    return value === undefined ? [] : [[name, value] as const]
  })
  return { ...Object.fromEntries(entries), TZ: 'UTC' }
}
