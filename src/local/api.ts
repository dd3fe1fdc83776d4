import { AsyncLocalStorage } from 'node:async_hooks'
import { App } from '@supabase/lite'
import { PostgresConnection } from '@supabase/lite/postgres'
import { decodeJwt, jwtVerify } from 'jose'
import postgres from 'postgres'
import { type Keys, signToken } from './keys.ts'

export type ApiOptions = {
  /** Connection strings: REST requests log in as `authenticator`, Auth as `supabase_auth_admin`. */
  authenticator_url: string
  auth_admin_url: string
  superuser_url: string
  keys: Keys
  /** Where clients reach the stack, without a trailing slash. */
  api_url: string
  jwt_expiry?: number
}

export type Api = {
  /** Answers everything under /rest/v1 and /auth/v1. */
  fetch(request: Request): Promise<Response>
  close(): Promise<void>
}

/** Marks text that is JSON already; the driver encodes every other value for a json column. */
const encoded = '\u0001'

const json = {
  serialize: (value: unknown) =>
    typeof value === 'string' && value.startsWith(encoded) ? value.slice(1) : JSON.stringify(value),
  parse: (text: string): unknown => JSON.parse(text),
}

/** What a session in UTC says, as ISO 8601, which is what PostgREST answers. */
const time = {
  serialize: (value: unknown) => value,
  parse: (text: string) => text.replace(' ', 'T').replace(/[+]00$/, '+00:00'),
}

const wire_types = {
  json: { to: 114, from: [114], ...json },
  jsonb: { to: 3802, from: [3802], ...json },
  timestamp: { to: 1114, from: [1114], ...time },
  timestamptz: { to: 1184, from: [1184], ...time },
}

type Ast = Parameters<PostgresConnection['onPostgrestAST']>[0]
type Schema = Awaited<ReturnType<PostgresConnection['introspect']>>

/** The Data API and Auth of a hosted project, by @supabase/lite. */
export async function createApi(options: ApiOptions): Promise<Api> {
  const { keys } = options
  // authenticator sees nothing of the schema, as on a hosted project: reading it is somebody else's right.
  const schema = quiet(new PostgresConnection({ url: options.superuser_url, postgresOptions: { max: 1 } }))
  const rest_connection = quiet(
    new RestConnection({ url: options.authenticator_url, postgresOptions: { max: 20, types: wire_types } }),
  )
  rest_connection.schema = schema
  const auth_connection = quiet(
    new PostgresConnection({ url: options.auth_admin_url, postgresOptions: { max: 5 } }),
  )

  const server = {
    apiKeys: { resolver: (key: string) => roleOf(key, keys) },
    disableStudio: true,
    disableFallback: false,
  }
  const auth = {
    enabled: true,
    jwt_secret: keys.jwt_secret,
    jwt_expiry: options.jwt_expiry ?? 3600,
    site_url: options.api_url,
    enable_signup: true,
    email: { enable_signup: true, enable_confirmations: false },
  }
  const db = { migrations: { enabled: false } }
  const api = { enabled: true, schemas: ['public'], max_rows: 1000, anonymous_enabled: true }
  type Config = ConstructorParameters<typeof App>[0]
  const rest = new App({
    connection: rest_connection,
    api,
    auth,
    db,
    options: { server: { ...server, middlewares: [trustSignature] } },
  } as unknown as Config)
  const users = new App({
    connection: auth_connection,
    api,
    auth,
    db,
    options: { server },
  } as unknown as Config)

  // A hosted project tells PostgREST after each DDL that its picture of the schema is old.
  const listener = postgres(options.superuser_url, { max: 1, onnotice: () => {} })
  await listener.listen('pgrst', () => rest_connection.forgetSchema())

  return {
    async fetch(request) {
      const { pathname } = new URL(request.url)
      if (pathname.startsWith('/rest/v1')) return silently(() => rest.fetch(request))
      // The one key is symmetric: publishing it would let everybody sign.
      if (pathname === '/auth/v1/.well-known/jwks.json') return readable(Response.json({ keys: [] }))
      if (request.method === 'OPTIONS') return preflight(request)
      return readable(await signAnew(await silently(() => users.fetch(request)), keys, options.api_url))
    },
    async close() {
      await Promise.all([
        listener.end({ timeout: 1 }),
        ...[schema, rest_connection, auth_connection].map(end),
      ])
    },
  }
}

type Context = { req: { header(name: string): string | undefined }; set(name: string, value: string): void }

/**
 * PostgREST trusts a token's signature. lite would look its session up, as authenticator, who may not read it:
 * that look is left out when these are set, and the token that it verifies afterwards replaces both.
 */
async function trustSignature(context: Context, next: () => Promise<void>): Promise<void> {
  const token = /^Bearer ([^.\s]+\.[^.\s]+\.[^.\s]+)$/.exec(context.req.header('authorization') ?? '')?.[1]
  if (token !== undefined && token !== context.req.header('apikey')) {
    context.set('userId', 'to be verified')
    context.set('sessionId', 'to be verified')
  }
  await next()
}

/** PostgresConnection of @supabase/lite where it differs from PostgREST in what the product relies on. */
class RestConnection extends PostgresConnection {
  schema: PostgresConnection | undefined
  #known: Promise<Schema> | undefined

  forgetSchema(): void {
    this.#known = undefined
  }

  // information_schema shows a role only what it may use, and authenticator may use nothing.
  override introspect(): Promise<Schema> {
    const schema = this.schema
    if (schema === undefined) throw new Error('no connection to read the schema with')
    this.#known ??= schema.introspect().then((found) => {
      // lite answers a failure with an empty schema: good for this request, not for the next.
      if (!found.functions) this.#known = undefined
      return found
    })
    return this.#known
  }

  // lite hands objects for jsonb arguments on as text, which the driver would then encode once more.
  override async onPostgrestAST(ast: Ast): Promise<Ast> {
    const { args } = ast
    if (ast.type === 'rpc' && typeof args === 'object' && !Array.isArray(args)) {
      const { functions } = await this.introspect()
      const found = functions?.filter((known) => known.name === ast.function) ?? []
      const is_json = (name: string) =>
        found.some(({ arg_names, arg_types }) => /^jsonb?$/.test(arg_types[arg_names.indexOf(name)] ?? ''))
      // In a query string, text is JSON already; lite has parsed what looks like an object.
      const text = (value: unknown) =>
        ast.httpMethod === 'GET' && typeof value === 'string' ? value : JSON.stringify(value)
      const encode = ([name, value]: [string, unknown]) =>
        value !== null && is_json(name) ? [name, encoded + text(value)] : [name, value]
      ast.args = Object.fromEntries(Object.entries(args).map(encode))
    }
    return super.onPostgrestAST(ast)
  }

  // PostgREST answers 400 to errors that a function raises and to broken constraints; lite answers 500 and
  // drops the code. The SQLSTATE 'PGRST' lets the message say the whole answer.
  override normalizeDbError(error: unknown): Error {
    const found = super.normalizeDbError(error) as Error &
      Record<'code' | 'detail' | 'hint', string | undefined>
    const status = statusOf(found.code)
    if (status === undefined) return found
    const { code, message, detail, hint } = found
    return Object.assign(
      new Error(JSON.stringify({ code, message, details: detail ?? null, hint: hint ?? null })),
      {
        code: 'PGRST',
        detail: JSON.stringify({ status, headers: {} }),
      },
    )
  }
}

/**
 * The HTTP status of PostgREST for the SQLSTATEs that lite does not map itself.
 * https://docs.postgrest.org/en/stable/references/errors.html#postgresql-errors
 */
function statusOf(code: string | undefined): number | undefined {
  if (code === undefined || !/^[0-9A-Z]{5}$/.test(code) || code.startsWith('PT')) return undefined
  if (['42501', '42P01', '42883', '42P17', '23505', '23503', '23502', '25006'].includes(code))
    return undefined
  const group = code.slice(0, 2)
  if (['42', '22', '21', '55'].includes(group)) return undefined
  if (['08', '53'].includes(group)) return 503
  if (['09', '25', '38', '39', '3B', '40', '54', '57', '58', 'F0', 'HV', 'XX'].includes(group)) return 500
  if (['0L', '0P', '28', '2D'].includes(group)) return 403
  return 400
}

async function roleOf(key: string, keys: Keys) {
  if (key === keys.publishable_key) return { type: 'publishable' as const, claims: { role: 'anon' } }
  if (key === keys.secret_key) return { type: 'secret' as const, claims: { role: 'service_role' } }
  try {
    const { payload } = await jwtVerify(key, new TextEncoder().encode(keys.jwt_secret), {
      algorithms: ['HS256'],
    })
    if (payload.role === 'anon') return { type: 'publishable' as const, claims: { role: 'anon' } }
    if (payload.role === 'service_role') return { type: 'secret' as const, claims: { role: 'service_role' } }
  } catch {
    // Not a key of the old style either.
  }
  return null
}

/**
 * lite's sessions have no `kid` in their header, and @supabase/server takes none without; nor have they the
 * claims about the user that hosted sessions carry.
 */
async function signAnew(response: Response, keys: Keys, api_url: string): Promise<Response> {
  if (!response.ok || !response.headers.get('content-type')?.includes('application/json')) return response
  const body: unknown = await response.json()
  for (const holder of [body, (body as { session?: unknown } | null)?.session]) {
    if (typeof holder !== 'object' || holder === null || !('access_token' in holder)) continue
    if (typeof holder.access_token !== 'string') continue
    const { user } = holder as { user?: Record<string, unknown> }
    const claims = decodeJwt(holder.access_token)
    holder.access_token = await signToken(keys, {
      iss: `${api_url}/auth/v1`,
      phone: user?.phone ?? '',
      app_metadata: user?.app_metadata ?? {},
      user_metadata: user?.user_metadata ?? {},
      aal: 'aal1',
      amr: [{ method: 'password', timestamp: claims.iat }],
      is_anonymous: false,
      ...claims,
    })
  }
  const headers = new Headers(response.headers)
  headers.delete('content-length')
  return new Response(JSON.stringify(body), { status: response.status, headers })
}

/** The platform's gateway lets every page use Auth; lite names neither the origin nor the headers. */
function preflight(request: Request): Response {
  const asked = request.headers.get('access-control-request-headers') ?? 'authorization, apikey, content-type'
  return new Response(null, {
    status: 204,
    headers: {
      'access-control-allow-origin': '*',
      'access-control-allow-methods': 'GET, POST, PUT, PATCH, DELETE, OPTIONS',
      'access-control-allow-headers': asked,
      'access-control-max-age': '86400',
    },
  })
}

function readable(response: Response): Response {
  const headers = new Headers(response.headers)
  headers.delete('access-control-allow-credentials')
  headers.set('access-control-allow-origin', '*')
  headers.set('access-control-expose-headers', 'x-total-count, link, x-supabase-api-version, x-sb-error-code')
  return new Response(response.body, { status: response.status, headers })
}

function quiet<Connection extends PostgresConnection>(connection: Connection): Connection {
  // Else its first request grants everything to everybody, and privilege errors never show.
  Object.assign(connection, { rlsState: 'active' })
  return connection
}

const inside_lite = new AsyncLocalStorage<true>()
const log_error = console.error
console.error = (...args: unknown[]) => {
  if (!inside_lite.getStore()) log_error(...args)
}

/** lite prints every refusal of the database; they are answers to the client, not news for the terminal. */
function silently<T>(work: () => Promise<T>): Promise<T> {
  return inside_lite.run(true, work)
}

function end(connection: PostgresConnection): Promise<void> {
  return connection.driver.end({ timeout: 1 })
}
