import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { startFunctions } from '../../src/local/functions_host.ts'
import { jwks, loadKeys } from '../../src/local/keys.ts'
import { type Stack, startStack } from '../../src/local/stack.ts'
import { expectNoServerErrors } from './server_errors.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests read answers of every form
type Json = any

export interface Reply {
  status: number
  headers: Headers
  body: Json
}

export interface User {
  id: string
  token: string
}

/** A bot that the test plays itself: it was joined with launch false, so its token is known. */
export interface PlayedBot {
  bot_id: string
  workflow_thread_id: string
  owner: User
  token: string
  native_meeting_id: string
}

/** Where functions are served; its own process with its own environment. */
export interface FunctionsHost {
  url: string
  close(): Promise<void>
}

/** A whole project: the stack, and what tests do with it over HTTP. */
export interface Project {
  stack: Stack
  functions_url: string
  /** The database as its owner. */
  sql: postgres.Sql
  superuser: postgres.Sql
  /** A new signed-in user. */
  user(): Promise<User>
  /** A user that signed in after becoming an operator. */
  operator(): Promise<User>
  call(path: string, init?: CallInit): Promise<Reply>
  /** Joins a new meeting without a machine; for the same user each time unless one is given. */
  play(more?: Record<string, unknown>, owner?: User): Promise<PlayedBot>
  /** A callback of the bot with its right token. `path` as in `/joining`. */
  report(bot: PlayedBot, path: string, body?: Record<string, unknown>): Promise<Reply>
  /** Brings a new bot to a meeting status. */
  playTo(status: MeetingState, more?: Record<string, unknown>): Promise<PlayedBot>
  /** The row, its history (one machine), its pushes and rejections: everything that a refusal must leave alone. */
  row(bot: { bot_id: string }): Promise<Record<string, Json>>
  history(bot: { bot_id: string }, machine: 'bot' | 'meeting'): Promise<HistoryRow[]>
  pushes(bot: { bot_id: string }): Promise<number>
  rejections(bot: { bot_id: string }): Promise<number>
  /** Serves the functions once more, with other variables. Ends with the project. */
  host(env: Record<string, string>): Promise<FunctionsHost>
  /** Where the database posts due work: a functions URL, or null for nowhere. */
  wakes(functions_url: string | null): Promise<void>
  close(): Promise<void>
}

export type MeetingState =
  | 'requested'
  | 'joining'
  | 'awaiting_admission'
  | 'active'
  | 'stopping'
  | 'completed'
  | 'failed'

export interface HistoryRow {
  seq: number
  from_status: string | null
  to_status: string
  source: string
  reason: string | null
  details: Json
  implied: boolean
}

export interface CallInit {
  method?: string
  as?: User | 'secret' | null
  /** Sent as JSON unless it is text or bytes. */
  body?: unknown
  headers?: Record<string, string>
  /** Another host of the functions. */
  url?: string
}

export const transcript = [
  { speaker: 'Ada', text: 'Who takes the notes?', started_at: '2030-01-01T09:00:00.000Z', ended_at: null },
  { speaker: 'Grace', text: 'I will take the notes.', started_at: null, ended_at: null },
]

/** Starts a stack of its own for a test file, on free ports, in a directory that is removed at the end. */
export async function startProject(): Promise<Project> {
  const dir = mkdtempSync(join(tmpdir(), 'rollcall-functions-'))
  const opened: (() => Promise<unknown>)[] = []
  const close = async () => {
    for (const end of opened.reverse()) await end()
    try {
      expectNoServerErrors(dir)
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }
  const stack = await startStack({ dir, port: 0, db_port: 0, durable: false, seeded: false })
  opened.push(() => stack.stop())
  const sql = postgres(stack.db_url, { max: 4, onnotice: () => {} })
  const superuser = postgres(stack.superuser_url, { max: 2, onnotice: () => {} })
  opened.push(() => Promise.all([sql.end({ timeout: 1 }), superuser.end({ timeout: 1 })]))

  async function authenticate(path: string, email: string): Promise<User> {
    const response = await fetch(`${stack.api_url}/auth/v1/${path}`, {
      method: 'POST',
      headers: { apikey: stack.publishable_key, 'content-type': 'application/json' },
      body: JSON.stringify({ email, password: 'correct-horse-battery' }),
    })
    const session = (await response.json()) as { access_token: string; user: { id: string } }
    if (!response.ok) throw new Error(`${path} answered ${response.status}: ${JSON.stringify(session)}`)
    return { id: session.user.id, token: session.access_token }
  }

  // Signing up costs a password hash: bots that need no owner of their own share one.
  let shared: Promise<User> | undefined
  const project: Project = {
    stack,
    functions_url: stack.functions_url,
    sql,
    superuser,
    user: () => authenticate('signup', `${randomUUID()}@example.com`),
    async operator() {
      const email = `${randomUUID()}@example.com`
      const { id } = await authenticate('signup', email)
      // Set as a whole: the local Auth keeps it as a JSON text inside the jsonb, to which || would append.
      await superuser`
        update auth.users set raw_app_meta_data = '{"provider": "email", "rollcall": "operator"}' where id = ${id}`
      return authenticate('token?grant_type=password', email)
    },
    async call(path, { method = 'GET', as = null, body, headers = {}, url = stack.functions_url } = {}) {
      const raw = body === undefined || typeof body === 'string' || body instanceof Uint8Array
      const response = await fetch(`${url}${path}`, {
        method,
        headers: {
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(as === 'secret' ? { apikey: stack.secret_key } : {}),
          ...(as !== null && as !== 'secret'
            ? { apikey: stack.publishable_key, authorization: `Bearer ${as.token}` }
            : {}),
          ...headers,
        },
        ...(body === undefined ? {} : { body: raw ? (body as string) : JSON.stringify(body) }),
      })
      const text = await response.text()
      return {
        status: response.status,
        headers: response.headers,
        body: text === '' ? null : JSON.parse(text),
      }
    },
    async play(more = {}, owner) {
      shared ??= project.user()
      const as = owner ?? (await shared)
      const native_meeting_id = `room-${randomUUID().slice(0, 8)}`
      const body = { platform: 'room', native_meeting_id, launch: false, ...more }
      const reply = await project.call('/join', { method: 'POST', as, body })
      if (reply.status !== 201)
        throw new Error(`join answered ${reply.status}: ${JSON.stringify(reply.body)}`)
      const { bot_id, workflow_thread_id, callback_token } = reply.body
      return {
        bot_id,
        workflow_thread_id,
        owner: as,
        token: callback_token,
        native_meeting_id: reply.body.native_meeting_id,
      }
    },
    report: (bot, path, body = {}) =>
      project.call(`/callback${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${bot.token}` },
        body: { bot_id: bot.bot_id, ...body },
      }),
    async playTo(status, more = {}) {
      const bot = await project.play(more)
      const say = async (word: string) => {
        const reply = await project.report(bot, '', { status: word })
        if (reply.status !== 200) throw new Error(`${word} answered ${reply.status}`)
      }
      if (status === 'stopping') {
        await say('active')
        await sql`
          update public.workflow_threads
          set meeting_status = 'stopping', stop_requested_at = lifecycle.now(), stop_reason = 'stopped'
          where bot_id = ${bot.bot_id}`
      } else if (status === 'completed' || status === 'failed') {
        await say('active')
        await say(status)
      } else if (status !== 'requested') {
        await say(status)
      }
      return bot
    },
    async row({ bot_id }) {
      const [row] = await sql`select * from public.workflow_threads where bot_id = ${bot_id}`
      if (row === undefined) throw new Error(`There is no bot ${bot_id}.`)
      return row
    },
    history: ({ bot_id }, machine) => sql<HistoryRow[]>`
      select seq, from_status, to_status, source, reason, details, implied from public.status_events
      where subject_id = ${bot_id} and machine = ${machine} order by seq`,
    async pushes({ bot_id }) {
      const [row] = await superuser`
        select count(*)::int as n from realtime.messages where topic = ${`bot:${bot_id}`}`
      return row?.n ?? 0
    },
    async rejections({ bot_id }) {
      const [row] = await sql`
        select count(*)::int as n from public.status_rejections where subject_id = ${bot_id}`
      return row?.n ?? 0
    },
    async host(env) {
      const own = mkdtempSync(join(tmpdir(), 'rollcall-host-'))
      const keys = loadKeys(stack.dir)
      const functions = await startFunctions({
        dir: own,
        jwt_secret: keys.jwt_secret,
        env: {
          SUPABASE_URL: stack.api_url,
          SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: keys.publishable_key }),
          SUPABASE_SECRET_KEYS: JSON.stringify({ default: keys.secret_key }),
          SUPABASE_JWKS: JSON.stringify(jwks(keys)),
          ROOM_URL: stack.room_url,
          ...env,
        },
      })
      const server = createServer((incoming, outgoing) => void functions.handle(incoming, outgoing))
      await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
      let closed = false
      const host: FunctionsHost = {
        url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/functions/v1`,
        async close() {
          if (closed) return
          closed = true
          server.closeAllConnections()
          await new Promise((done) => server.close(done))
          await functions.close()
          rmSync(own, { recursive: true, force: true })
        },
      }
      opened.push(() => host.close())
      return host
    },
    async wakes(url) {
      await superuser`
        select vault.update_secret(s.id, ${url ?? 'http://127.0.0.1:9/functions/v1'})
        from vault.secrets s where s.name = 'rollcall_functions_url'`
    },
    close,
  }
  return project
}
