import { RealtimeClient, type RealtimeClientOptions } from '@supabase/realtime-js'
import { backoff, channel_steps_ms } from '../backoff.ts'
import { joinChannel } from '../channel.ts'
import { fromDatabase, RollcallError } from '../errors.ts'
import type { ChangesPage } from '../history.ts'
import { identify } from '../identity.ts'
import type { Failures, RunsCounts, RunsPage, SentRow, Timeline, Timing } from './run.ts'
import { toRunRow } from './run.ts'
import type { Catalog, RunDetail, RunsSource, Topic, TopicEvents } from './source.ts'

export interface ProjectSourceOptions {
  /** The project, as in https://<ref>.supabase.co. */
  url: string
  /** Publishable, anon or secret key. */
  key: string
  /** The token of whoever is signed in, asked for before each request; null or absent: the key alone. */
  token?: () => string | null | Promise<string | null>
  /** For whom a secret key or an operator looks; absent: everything that they may see. */
  owner_id?: string | undefined
  /** Keeps the socket's heartbeats in a worker, which browsers do not slow down in hidden tabs. */
  worker?: boolean
  /** No socket at all: everything is polled. */
  polling?: boolean
  fetch?: typeof fetch
}

export interface FunctionCall {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  query?: Record<string, string | number | boolean | undefined>
  body?: Record<string, unknown>
  headers?: Record<string, string>
  signal?: AbortSignal | undefined
}

/** The runs of a project, and its functions. */
export interface ProjectSource extends RunsSource {
  /**
   * Calls an edge function: `stop`, `executions/<id>/cancel` ...
   * @throws RollcallError, or the reason of the signal.
   */
  call<T>(path: string, call?: FunctionCall): Promise<T>
  /** Hangs up. */
  close(): void
}

/** An answer takes at most this long (ms). */
const TIMEOUT_MS = 20_000

/** Reads a project over its database API and hears its Realtime. */
export function createProjectSource(options: ProjectSourceOptions): ProjectSource {
  const { key, owner_id, worker = false, polling = false } = options
  const base = options.url.replace(/\/+$/, '')
  const doFetch = options.fetch ?? ((...args: Parameters<typeof fetch>) => fetch(...args))
  const token = async () => (await options.token?.()) ?? null
  let realtime: RealtimeClient | undefined

  async function send(
    url: string,
    init: RequestInit,
    is_function: boolean,
    signal?: AbortSignal,
  ): Promise<Response> {
    const bearer = await token()
    const headers = new Headers(init.headers)
    headers.set('apikey', key)
    // Keys of the new form are no JWTs: functions take them as apikey alone.
    if (bearer !== null) headers.set('authorization', `Bearer ${bearer}`)
    else if (!is_function || !key.startsWith('sb_')) headers.set('authorization', `Bearer ${key}`)
    const limit = AbortSignal.timeout(TIMEOUT_MS)
    try {
      return await doFetch(url, {
        ...init,
        headers,
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      })
    } catch (error) {
      signal?.throwIfAborted()
      throw unreachable(error)
    }
  }

  async function rpc<T>(name: string, args: Record<string, unknown>, signal?: AbortSignal): Promise<T> {
    const response = await send(
      `${base}/rest/v1/rpc/${name}`,
      { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(args) },
      false,
      signal,
    )
    const body = await bodyOf(response, signal)
    if (response.ok) return body as T
    const said = { code: '', message: '', details: '', hint: '', ...(body as object), name: '' }
    throw withRetryAfter(
      fromDatabase(said as unknown as Parameters<typeof fromDatabase>[0], response.status),
      response,
    )
  }

  async function call<T>(
    path: string,
    { method = 'POST', query = {}, body, headers, signal }: FunctionCall = {},
  ) {
    const search = new URLSearchParams()
    for (const [name, value] of Object.entries(query))
      if (value !== undefined) search.set(name, String(value))
    const response = await send(
      `${base}/functions/v1/${path}${search.size > 0 ? `?${search}` : ''}`,
      {
        method,
        headers: { ...headers, ...(body && { 'content-type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
      },
      true,
      signal,
    )
    const answer = await bodyOf(response, signal)
    if (response.ok) return answer as T
    const said = (answer ?? {}) as {
      code?: string
      message?: string
      hint?: string
      details?: Record<string, unknown>
    }
    throw withRetryAfter(
      new RollcallError({
        status: response.status,
        code:
          said.code ??
          (response.status === 401
            ? 'unauthorized'
            : response.status >= 500
              ? 'unavailable'
              : 'invalid_request'),
        message: said.message ?? `The function answered ${response.status}.`,
        hint: said.hint,
        details: said.details,
      }),
      response,
    )
  }

  const owner = owner_id === undefined ? {} : { owner_id }

  function channels(): RealtimeClient {
    realtime ??= new RealtimeClient(`${base.replace(/^http/, 'ws')}/realtime/v1`, {
      params: { apikey: key },
      accessToken: async () => (await token()) ?? key,
      worker,
    } satisfies RealtimeClientOptions)
    return realtime
  }

  function listen(topic: Topic, events: TopicEvents): () => void {
    if (polling) return () => {}
    let is_over = false
    let failures = 0
    let timer: ReturnType<typeof setTimeout> | undefined
    let leave: (() => Promise<void>) | undefined
    const again = () => {
      events.lost()
      if (is_over) return
      failures += 1
      timer = setTimeout(connect, backoff(failures, channel_steps_ms))
    }
    const connect = async () => {
      try {
        const client = channels()
        const identity = await identify({ realtime: client })
        if (is_over) return
        const name = nameOf(topic, owner_id, identity)
        if (name === undefined) return
        leave = joinChannel(client, name, {
          hint: (hint) => {
            failures = 0
            events.hint(hint)
          },
          joined() {},
          ready: () => {
            failures = 0
            events.ready()
          },
          failed: () => {
            events.lost()
            // The library joins again with the token that is set by then.
            client.setAuth().catch(() => {})
          },
          closed: () => {
            leave = undefined
            if (!is_over) again()
          },
        })
      } catch {
        if (!is_over) again()
      }
    }
    void connect()
    return () => {
      is_over = true
      clearTimeout(timer)
      void leave?.().then(() => {
        if (realtime?.getChannels().length === 0) return realtime.disconnect()
      })
    }
  }

  return {
    call,
    listen,
    catalog: (signal) => rpc<Catalog>('machine_catalog', {}, signal),
    async list(filter, before, max_rows, signal) {
      const page = await rpc<Omit<RunsPage, 'items'> & { items: SentRow[] }>(
        'runs_list',
        { filter: { ...filter, ...owner }, ...before, max_rows },
        signal,
      )
      return { ...page, items: page.items.map(toRunRow) }
    },
    async get(ids, filter, signal) {
      const answer = await rpc<{ items: SentRow[]; matches: string[]; as_of: string }>(
        'runs_get',
        { ids, filter: { ...filter, ...owner } },
        signal,
      )
      return { ...answer, items: answer.items.map(toRunRow) }
    },
    counts: (filter, signal) => rpc<RunsCounts>('runs_counts', { filter: { ...filter, ...owner } }, signal),
    changes: (after, max_rows, signal) =>
      rpc<ChangesPage>('status_changes', { max_rows, ...(after !== null && { after }), ...owner }, signal),
    recent: (since, max_rows, signal) =>
      rpc<Pick<ChangesPage, 'events' | 'next'>>('recent_changes', { since, max_rows, ...owner }, signal),
    async timeline(id, signal) {
      const timeline = await rpc<Timeline | null>('run_timeline', { id }, signal)
      if (timeline === null) {
        throw new RollcallError({ status: 404, code: 'run_not_found', message: `There is no run ${id}.` })
      }
      return timeline
    },
    detail: ({ id, kind, workflow_id, session_id }, signal) => {
      const get = (path: string, query: FunctionCall['query'] = {}) =>
        call<RunDetail>(path, { method: 'GET', query: { ...query, ...owner }, signal })
      if (kind === 'bot') return get('status', { bot_id: id, include: 'events' })
      if (kind === 'flow') return get(`executions/${id}`, { include: 'results' })
      if (kind === 'workflow') return get(`workflows/${id}`)
      return get(`workflows/${workflow_id}/runs/${session_id}`)
    },
    timing: (machine, since, until, signal) =>
      rpc<Timing>('state_timing', { machine, since, until, ...owner }, signal),
    failures: (filter, signal) => rpc<Failures>('run_failures', { filter: { ...filter, ...owner } }, signal),
    close() {
      void realtime?.disconnect()
      realtime = undefined
    },
  }
}

function nameOf(
  topic: Topic,
  owner_id: string | undefined,
  identity: Awaited<ReturnType<typeof identify>>,
): string | undefined {
  if ('kind' in topic) return `${topic.kind === 'flow' ? 'flow_execution' : topic.kind}:${topic.id}`
  if (owner_id !== undefined) return `owner:${owner_id}`
  if (identity.kind === 'secret') return 'operators'
  if (identity.kind === 'user') return identity.operator ? 'operators' : `owner:${identity.user_id}`
  return undefined
}

async function bodyOf(response: Response, signal: AbortSignal | undefined): Promise<unknown> {
  let text: string
  try {
    text = await response.text()
  } catch (error) {
    signal?.throwIfAborted()
    throw unreachable(error)
  }
  try {
    return JSON.parse(text)
  } catch {
    // A proxy's page, say.
    return null
  }
}

function withRetryAfter(error: RollcallError, response: Response): RollcallError {
  const seconds = Number(response.headers.get('retry-after'))
  if (!(seconds > 0)) return error
  const { status, code, message, hint, details } = error
  return new RollcallError({
    status,
    code,
    message,
    hint,
    details: { ...details, retry_after_s: seconds },
    cause: error,
  })
}

function unreachable(cause: unknown): RollcallError {
  return new RollcallError({
    status: 0,
    code: 'unreachable',
    message: 'The project can not be reached.',
    hint: 'Check the network and the URL.',
    cause,
  })
}
