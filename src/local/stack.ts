import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import postgres from 'postgres'
import { createApi } from './api.ts'
import { startTicker } from './cron.ts'
import { createDashboard } from './dashboard.ts'
import { makeDataDirectory } from './data_directory.ts'
import { demo_user } from './demo_user.ts'
import { startFunctions } from './functions_host.ts'
import { startGateway } from './gateway.ts'
import { jwks, type Keys, legacyKey, loadKeys } from './keys.ts'
import { takeLock } from './lock.ts'
import { startMachines } from './machines/server.ts'
import { pushMigrations } from './migrations.ts'
import { installPlatform } from './platform.ts'
import { startPostgres, stopLeftoverPostgres, superuser } from './postgres.ts'
import { project_dir } from './project.ts'
import { createRealtime } from './realtime/server.ts'
import { createRoom } from './room/room.ts'
import { curable } from './start_error.ts'

export type StackOptions = {
  /** The data directory, made when missing. */
  dir: string
  /** The port of the gateway; 0 takes any free one. */
  port: number
  /** The port of Postgres; 0 takes any free one. */
  db_port: number
  /** The project to run: its supabase/ and functions/. Default this one. */
  project?: string
  /** Realtime's realism mode, as in ROLLCALL_REALTIME_CHAOS. */
  chaos?: string | undefined
  /** True removes what an earlier stack left in the directory. */
  reset?: boolean
  /** False leaves out supabase/seed.sql. Default true. */
  seeded?: boolean
  /** False skips fsync, for stacks of a test run. Default true. */
  durable?: boolean
  /** Ends a start that is under way. */
  signal?: AbortSignal
  log?: (line: string) => void
}

export type Stack = {
  dir: string
  api_url: string
  functions_url: string
  /** As `postgres`, the role that pushes migrations. */
  db_url: string
  superuser_url: string
  publishable_key: string
  secret_key: string
  jwt_secret: string
  dashboard_url: string
  room_url: string
  /** Ends every process and frees every port, within 5 s. */
  stop(): Promise<void>
}

/** What a stack keeps in its directory: `reset` removes these names and nothing else. */
const kept = [
  'db',
  'db.password',
  'postgres.log',
  'keys.json',
  'functions.log',
  'functions.pid',
  'deno',
  'machines',
]
const marks = ['seeded', 'stack.json']

/**
 * Starts everything a hosted project has, on this machine, with this project's migrations and functions.
 * @throws StartError, in one line, when a port is taken, the directory can not be used or is in use.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const log = options.log ?? (() => {})
  const project = options.project ?? project_dir
  const opened: (() => unknown)[] = []
  const stop = async () => {
    // The newest part first: nothing loses what it stands on.
    for (const close of opened.splice(0).reverse()) {
      await Promise.resolve(close()).catch((error: Error) => log(error.message))
    }
  }
  const running = () => options.signal?.throwIfAborted()
  try {
    const dir = makeDataDirectory(options.dir)
    opened.push(takeLock(dir))
    if (options.reset) await removeData(dir)
    rmSync(join(dir, 'stack.json'), { force: true })

    const gateway = await startGateway({ port: options.port })
    opened.push(() => gateway.close())
    const api_url = `http://127.0.0.1:${gateway.port}`
    const room_url = `${api_url}/room`
    const keys = loadKeys(dir)

    const database = await startPostgres({
      dir,
      port: options.db_port,
      durable: options.durable ?? true,
      log,
    })
    opened.push(() => database.stop())
    running()
    const db_url = database.url('postgres')
    const superuser_url = database.url(superuser)
    await installPlatform(superuser_url)
    running()

    // Deno boots and the machines answer while the migrations are pushed.
    const machines = await startMachines({
      dir: join(dir, 'machines'),
      images: {
        'rollcall-bot': { command: process.execPath, args: [join(project_dir, 'src', 'bot', 'main.ts')] },
      },
    })
    opened.push(() => machines.close())
    const fly = {
      FLY_API_HOSTNAME: machines.url,
      FLY_API_TOKEN: machines.token,
      FLY_APP_NAME: 'rollcall-local',
    }
    const booting = startFunctions({
      dir,
      project,
      jwt_secret: keys.jwt_secret,
      env: {
        ...(await supabaseEnvironment(keys, api_url, db_url)),
        ...fly,
        BOT_IMAGE: 'rollcall-bot',
        ROOM_URL: room_url,
        // Where the developer names no agent.
        AGENT_BUILT_IN: '1',
        // Feeds and receivers of a developer are on this machine.
        SCRIPTS_ALLOW_PRIVATE: process.env.SCRIPTS_ALLOW_PRIVATE || '1',
        // Here nobody ends an isolate: it works as long as the stack runs.
        WORK_SECONDS: '1000000000',
      },
    })
    opened.push(async () => (await booting.catch(() => undefined))?.close())
    // It is awaited below: a failure until then is nobody's unhandled rejection.
    booting.catch(() => {})

    log('bringing the migrations up to date')
    await pushMigrations(db_url, { project, ...(options.signal && { signal: options.signal }) })
    running()
    if (options.seeded ?? true) await seed(dir, project, db_url)
    await keepSecrets(superuser_url, keys, api_url)

    const api = await createApi({
      authenticator_url: database.url('authenticator'),
      auth_admin_url: database.url('supabase_auth_admin'),
      superuser_url,
      keys,
      api_url,
    })
    opened.push(() => api.close())
    const realtime = await createRealtime({
      db_url: superuser_url,
      jwt_secret: keys.jwt_secret,
      api_keys: { publishable: keys.publishable_key, secret: keys.secret_key },
      chaos: options.chaos,
    })
    opened.push(() => realtime.close())
    const room = createRoom({ api_url, ...keys })
    opened.push(() => room.close())
    const functions = await booting
    running()
    gateway.open({
      api: api.fetch,
      functions: functions.handle,
      realtime,
      room: room.fetch,
      dashboard: createDashboard({
        url: api_url,
        key: keys.publishable_key,
        name: 'local stack',
        sign_in: demo_user,
      }).fetch,
    })
    // Closed again first: what is behind it is about to go.
    opened.push(() => gateway.close())
    // Bots leave their meetings while there is somebody to report to.
    opened.push(() => machines.close())
    const ticker = await startTicker({ superuser_url, url: database.url })
    opened.push(() => ticker.close())

    await answers(api_url, keys)
    running()
    const stack: Stack = {
      dir,
      api_url,
      functions_url: `${api_url}/functions/v1`,
      db_url,
      superuser_url,
      publishable_key: keys.publishable_key,
      secret_key: keys.secret_key,
      jwt_secret: keys.jwt_secret,
      dashboard_url: `${api_url}/dashboard`,
      room_url,
      stop,
    }
    writeStackFile(stack)
    opened.push(() => rmSync(join(dir, 'stack.json'), { force: true }))
    return stack
  } catch (error) {
    await stop()
    throw curable(error)
  }
}

/** What stack.json tells other programs about a running stack. */
export type StackFile = Pick<
  Stack,
  'api_url' | 'functions_url' | 'db_url' | 'publishable_key' | 'secret_key' | 'dashboard_url' | 'room_url'
> & { pid: number }

function writeStackFile(stack: Stack): void {
  const { api_url, functions_url, db_url, publishable_key, secret_key, dashboard_url, room_url } = stack
  const content: StackFile = {
    api_url,
    functions_url,
    db_url,
    publishable_key,
    secret_key,
    dashboard_url,
    room_url,
    pid: process.pid,
  }
  const file = join(stack.dir, 'stack.json')
  // Renamed into place: who waits for the file never reads half of it.
  writeFileSync(`${file}.new`, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 })
  renameSync(`${file}.new`, file)
}

async function removeData(dir: string): Promise<void> {
  await stopLeftoverPostgres(dir)
  const machines = join(dir, 'machines')
  // Only the records know which processes a killed stack left behind.
  if (existsSync(machines)) await (await startMachines({ dir: machines, images: {}, grace_ms: 0 })).close()
  for (const name of [...kept, ...marks]) rmSync(join(dir, name), { recursive: true, force: true })
}

async function supabaseEnvironment(
  keys: Keys,
  api_url: string,
  db_url: string,
): Promise<Record<string, string>> {
  return {
    SUPABASE_URL: api_url,
    SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: keys.publishable_key }),
    SUPABASE_SECRET_KEYS: JSON.stringify({ default: keys.secret_key }),
    SUPABASE_JWKS: JSON.stringify(jwks(keys)),
    SUPABASE_ANON_KEY: await legacyKey(keys, 'anon'),
    SUPABASE_SERVICE_ROLE_KEY: await legacyKey(keys, 'service_role'),
    SUPABASE_DB_URL: db_url,
    SB_REGION: 'local',
    SB_EXECUTION_ID: crypto.randomUUID(),
  }
}

/** Runs supabase/seed.sql once for a data directory, as `supabase db reset` does. */
async function seed(dir: string, project: string, db_url: string): Promise<void> {
  const file = join(project, 'supabase', 'seed.sql')
  const mark = join(dir, 'seeded')
  if (existsSync(mark)) return
  if (existsSync(file)) {
    await withSql(db_url, (sql) => sql.unsafe(readFileSync(file, 'utf8')).simple())
  }
  writeFileSync(mark, '')
}

/** What the database needs to call the functions: where they are, and a key. The port may change at each start. */
async function keepSecrets(superuser_url: string, keys: Keys, api_url: string): Promise<void> {
  const secrets = {
    rollcall_functions_url: `${api_url}/functions/v1`,
    rollcall_secret_key: keys.secret_key,
  }
  await withSql(superuser_url, async (sql) => {
    for (const [name, secret] of Object.entries(secrets)) {
      const [known] = await sql<{ id: string }[]>`select id from vault.secrets where name = ${name}`
      if (known) await sql`select vault.update_secret(${known.id}, ${secret})`
      else await sql`select vault.create_secret(${secret}, ${name}, 'Set by the local stack.')`
    }
  })
}

async function withSql(url: string, work: (sql: postgres.Sql) => Promise<unknown>): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await work(sql)
  } finally {
    await sql.end()
  }
}

/** Waits until the parts answer through the gateway; REST reads the schema with its first request. */
async function answers(api_url: string, keys: Keys): Promise<void> {
  const headers = { apikey: keys.secret_key }
  for (const path of ['/auth/v1/health', '/rest/v1/rpc/is_there_anybody']) {
    const response = await fetch(`${api_url}${path}`, { headers })
    await response.body?.cancel()
    if (response.status >= 500) throw new Error(`${path} answers ${response.status}.`)
  }
}
