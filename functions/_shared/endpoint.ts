import { createAdminClient, createContextClient } from '@supabase/server/core'
import type { SupabaseClient } from '@supabase/supabase-js'
import type { z } from 'zod'
import { type Issue, issuesOf } from '../../src/contract/errors.ts'
import { storageIssues } from '../../src/contract/json.ts'
import { errorFields, log } from '../../src/worker/log.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import { readJson } from './body.ts'
import { type AuthMode, type Caller, identify } from './caller.ts'
import { accepted, type HttpError, invalidRequest, refusal, toHttpError } from './errors.ts'

/** What a handler answers. */
export interface Answer {
  status: 200 | 201 | 202
  body: unknown
}

/** What a handler works with, beside its input. */
export interface Context {
  request: Request
  caller: Caller
  /** What follows the function's name in the path, without slashes at its ends. */
  path: string
  /** May do everything: for RPCs that only service_role may call. */
  admin: SupabaseClient
  /** Has the caller's own rights: a user meets row level security. */
  db: SupabaseClient
  /** One RPC that decides. Its refusal becomes the answer of the request. */
  rpc<T = Record<string, unknown>>(name: string, args: Record<string, unknown>): Promise<T>
}

type Input<S extends z.ZodType> = S | ((path: string) => S | null)

export interface Config<S extends z.ZodType> {
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  /** Who may call. `bot` stands alone. */
  auth: AuthMode[]
  /** The schema of the input, or a function that knows it for each sub-path and has null for no such path. */
  input: Input<S>
  /** Where the input is: POST and PATCH have a body, the others a query unless this says otherwise. */
  from?: 'query' | 'body'
}

/** A function's default export: what the edge runtime serves. */
export interface Endpoint {
  fetch(request: Request): Promise<Response>
  method: string
  /** Whether it has something at this path. */
  serves(path: string): boolean
  /** Answers a request of this method, or throws. */
  run(request: Request, path: string, ids: Ids): Promise<Answer>
}

/** What a log line tells about whom a request concerned. */
type Ids = Record<string, string>

const ID_FIELDS = ['bot_id', 'workflow_thread_id', 'flow_id', 'owner_id', 'lane']

/**
 * The one wrapper of every function: method, path, credentials, body and schema are checked here, and every answer,
 * whatever went wrong, is JSON with CORS headers and a request id.
 */
export function endpoint<S extends z.ZodType>(
  config: Config<S>,
  handler: (input: z.output<S>, context: Context) => Promise<Answer>,
): Endpoint {
  const { method, auth } = config
  const from = config.from ?? (method === 'POST' || method === 'PATCH' ? 'body' : 'query')
  const self: Endpoint = {
    method,
    serves: (path) => schemaAt(config.input, path) !== null,
    async run(request, path, ids) {
      const schema = schemaAt(config.input, path)
      if (schema === null) throw refusal('not_found')
      const caller = await identify(request, auth)
      if (caller.kind === 'user') ids.user_id = caller.user_id
      const raw = from === 'query' ? queryOf(request) : await readJson(request)
      const unstorable = storageIssues(raw)
      if (unstorable.length > 0) throw invalidRequest(unstorable)
      const parsed = schema.safeParse(raw)
      if (!parsed.success) throw invalidRequest(issuesOf(parsed.error))
      noteIds(ids, parsed.data)
      const admin = adminClient()
      return handler(parsed.data, {
        request,
        caller,
        path,
        admin,
        get db() {
          return caller.kind === 'user' ? createContextClient({ auth: { token: caller.token } }) : admin
        },
        rpc: async (name, args) => accepted(await callRpc(admin, name, args)),
      })
    },
    fetch: (request) => serve(request, [self]),
  }
  return self
}

/** One function that answers to several methods, and to several paths. */
export function endpoints(...all: Endpoint[]): { fetch(request: Request): Promise<Response> } {
  return { fetch: (request) => serve(request, all) }
}

async function serve(request: Request, all: Endpoint[]): Promise<Response> {
  const given = request.headers.get('x-request-id') ?? ''
  const request_id = /^[\w.-]{1,100}$/.test(given) ? given : crypto.randomUUID()
  const methods = [...new Set(all.map((one) => one.method)), 'OPTIONS'].join(', ')
  const headers = {
    'access-control-allow-origin': '*',
    'access-control-allow-methods': methods,
    'access-control-allow-headers':
      request.headers.get('access-control-request-headers') ??
      'authorization, apikey, content-type, idempotency-key, x-client-info, x-request-id',
    'access-control-expose-headers': 'x-request-id, retry-after',
    'access-control-max-age': '86400',
    'x-request-id': request_id,
    'cache-control': 'no-store',
  }
  if (request.method === 'OPTIONS') return new Response(null, { status: 204, headers })
  const ids: Ids = {}
  try {
    const path = subPath(request.url)
    const { status, body } = await routeTo(all, request.method, path, methods).run(request, path, ids)
    return Response.json(body, { status, headers })
  } catch (thrown) {
    const error = toHttpError(thrown)
    logError(request, request_id, ids, error)
    return Response.json(error.body, { status: error.status, headers: { ...headers, ...error.headers } })
  }
}

function routeTo(all: Endpoint[], method: string, path: string, methods: string): Endpoint {
  const of_method = all.filter((one) => one.method === method)
  const route = of_method.find((one) => one.serves(path))
  if (route !== undefined) return route
  if (of_method.length > 0 && !all.some((one) => one.serves(path))) throw refusal('not_found')
  throw refusal('method_not_allowed', { headers: { allow: methods } })
}

function logError(request: Request, request_id: string, ids: Ids, error: HttpError): void {
  log(error.status >= 500 ? 'error' : 'info', 'request_failed', {
    request_id,
    method: request.method,
    path: new URL(request.url).pathname,
    status: error.status,
    code: error.code,
    ...ids,
    ...(error.cause === undefined ? {} : { cause: errorFields(error.cause) }),
  })
}

/** `started` of /callback/started: hosted functions see their own name first, others the whole public path. */
function subPath(url: string): string {
  const segments = new URL(url).pathname.split('/').filter((segment) => segment !== '')
  const own = segments[0] === 'functions' && segments[1] === 'v1' ? segments.slice(2) : segments
  return own.slice(1).join('/')
}

function schemaAt<S extends z.ZodType>(input: Input<S>, path: string): S | null {
  if (typeof input === 'function') return input(path)
  return path === '' ? input : null
}

function queryOf(request: Request): Record<string, string> {
  const query: Record<string, string> = {}
  const twice: Issue[] = []
  for (const [name, value] of new URL(request.url).searchParams) {
    if (Object.hasOwn(query, name)) twice.push({ path: name, message: 'Given twice.' })
    else Object.defineProperty(query, name, { value, enumerable: true })
  }
  if (twice.length > 0) throw invalidRequest(twice)
  return query
}

function noteIds(ids: Ids, input: unknown): void {
  if (typeof input !== 'object' || input === null) return
  for (const [name, value] of Object.entries(input)) {
    if (ID_FIELDS.includes(name) && typeof value === 'string') ids[name] = value
  }
}

let shared_admin: SupabaseClient | undefined

function adminClient(): SupabaseClient {
  // It holds no state of a request, so one serves the whole isolate.
  shared_admin ??= createAdminClient()
  return shared_admin
}
