import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterEach, describe, expect, test, vi } from 'vitest'
import type { SentRow } from '../../src/client/live/run.ts'
import { createRollcall } from '../../src/index.ts'
import { demo_user } from '../../src/local/demo_user.ts'
import type { StackFile } from '../../src/local/stack.ts'
import { validateScript } from '../../src/worker/script/validate_script.ts'
import { signUp } from '../support/stack.ts'
import {
  cleanUp,
  dataDirectory,
  processesOf,
  type Run,
  type RunOptions,
  runEnv,
  running,
  runStart,
} from '../support/stack_process.ts'

// Each test starts whole stacks, on a machine that may be busy with other tests.
vi.setConfig({ testTimeout: 120_000 })

const starts: Run[] = []
const dirs: string[] = []

function newDirectory(): string {
  const dir = dataDirectory()
  dirs.push(dir)
  return dir
}

function start(options: RunOptions): Run {
  const begun = runStart(options)
  starts.push(begun)
  return begun
}

afterEach(() => cleanUp(starts.splice(0), dirs.splice(0)))

const root = process.getuid?.() === 0

async function stop(begun: Run, signal: NodeJS.Signals): Promise<{ code: number | null; took_ms: number }> {
  const from = Date.now()
  begun.child.kill(signal)
  const code = await begun.ended
  return { code, took_ms: Date.now() - from }
}

function answers(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url)
  return new Promise((done) => {
    const socket = connect(Number(port), hostname)
    socket.once('connect', () => {
      socket.destroy()
      done(true)
    })
    socket.once('error', () => done(false))
  })
}

async function count(stack: StackFile): Promise<number> {
  const sql = postgres(stack.db_url, { max: 1, onnotice: () => {} })
  try {
    const [row] = await sql<{ users: number }[]>`select count(*)::int as users from auth.users`
    return row?.users ?? -1
  } finally {
    await sql.end()
  }
}

describe('the life of the stack', () => {
  test('two stacks run beside each other, and each keeps its data over a restart', async () => {
    const [a, b] = [newDirectory(), newDirectory()]
    const [first, second] = [start({ dir: a }), start({ dir: b })]
    const [one, two] = await Promise.all([running(first, a), running(second, b)])
    expect(one.api_url).not.toBe(two.api_url)
    const before = await count(one)
    await signUp(one)
    expect([await count(one), await count(two)]).toEqual([before + 1, before])
    await stop(first, 'SIGTERM')
    expect(await answers(two.api_url)).toBe(true)
    const again = start({ dir: a })
    const restarted = await running(again, a)
    expect(await count(restarted)).toBe(before + 1)
    expect(restarted.secret_key).toBe(one.secret_key)
  })

  test('the demo user signs in to a new one, and has some runs to look at', async () => {
    const dir = newDirectory()
    const stack = await running(start({ dir }), dir)
    const client = createClient(stack.api_url, stack.publishable_key, { auth: { persistSession: false } })
    const { data, error } = await client.auth.signInWithPassword(demo_user)
    expect(error).toBeNull()
    const seen = await client.rpc('runs_list', { filter: {} })
    expect(seen.data.items.map(({ kind, state }: SentRow) => `${kind} ${state}`).toSorted()).toEqual([
      ...['bot failed', 'flow completed', 'flow failed', 'workflow ready'],
    ])
    const { workflows } = createRollcall(client)
    const [greeting] = (await workflows.list()).items
    expect(greeting).toMatchObject({ owner_id: data.user?.id, title: 'Hourly greeting' })
    // What the database holds of the script is what its validator reads.
    const { code, config } = await workflows.get_script(
      greeting?.id ?? '',
      (await workflows.scripts(greeting?.id ?? '')).items[0]?.id ?? '',
    )
    expect(await validateScript(code)).toEqual({ config, issues: [] })
    await client.auth.stopAutoRefresh()
  })

  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    '%s ends every process within 5 s and leaves no lock, no port, no file of a running stack',
    async (signal) => {
      const dir = newDirectory()
      const begun = start({ dir })
      const stack = await running(begun, dir)
      expect(processesOf(dir).length).toBeGreaterThan(1)
      const { code, took_ms } = await stop(begun, signal)
      expect(code).toBe(0)
      expect(took_ms).toBeLessThan(5000)
      expect(processesOf(dir)).toEqual([])
      expect(await answers(stack.api_url)).toBe(false)
      expect(await answers(stack.db_url)).toBe(false)
      for (const name of ['stack.json', 'stack.lock', 'db/postmaster.pid']) {
        expect(existsSync(join(dir, name))).toBe(false)
      }
    },
  )

  test('Ctrl-C in the middle of a first start ends it too, and the next start finishes the work', async () => {
    const dir = newDirectory()
    const begun = start({ dir })
    await expect.poll(() => begun.output(), { timeout: 20_000, interval: 5 }).toContain('migrations')
    const { code, took_ms } = await stop(begun, 'SIGINT')
    expect(code).toBe(0)
    expect(took_ms).toBeLessThan(5000)
    expect(processesOf(dir)).toEqual([])
    await running(start({ dir }), dir)
  })

  test('after kill -9 the next start on the same ports recovers by itself', async () => {
    const dir = newDirectory()
    const killed = start({ dir })
    const before = await running(killed, dir)
    await signUp(before)
    const users = await count(before)
    await stop(killed, 'SIGKILL')
    // Postgres outlives its parent; the next start must not trip over it.
    expect(processesOf(dir).length).toBeGreaterThan(0)
    const ports = {
      ROLLCALL_PORT: new URL(before.api_url).port,
      ROLLCALL_DB_PORT: new URL(before.db_url).port,
    }
    const again = start({ dir, env: ports })
    const after = await running(again, dir)
    expect(after.api_url).toBe(before.api_url)
    expect(await count(after)).toBe(users)
    await stop(again, 'SIGTERM')
    expect(processesOf(dir)).toEqual([])
  })

  test('a second start on a running directory is refused in one line, and the first goes on', async () => {
    const dir = newDirectory()
    const first = start({ dir })
    const stack = await running(first, dir)
    const second = start({ dir })
    expect(await second.ended).toBe(1)
    expect(second.errors().trim().split('\n')).toHaveLength(1)
    expect(second.errors()).toContain('ROLLCALL_DIR')
    expect(
      (await fetch(`${stack.api_url}/auth/v1/health`, { headers: { apikey: stack.publishable_key } })).ok,
    ).toBe(true)
    expect(await second.ended).toBe(1)
  })

  test('--reset forgets the data of the directory and nothing else in it', async () => {
    const dir = newDirectory()
    const first = start({ dir })
    const before = await running(first, dir)
    const users = await count(before)
    await signUp(before)
    await stop(first, 'SIGKILL')
    writeFileSync(join(dir, 'mine.txt'), 'keep me')
    const again = start({ dir, flags: ['--reset'] })
    const after = await running(again, dir)
    expect(await count(after)).toBe(users)
    expect(after.secret_key).not.toBe(before.secret_key)
    expect(readFileSync(join(dir, 'mine.txt'), 'utf8')).toBe('keep me')
    // Nor does the killed stack's Postgres stay behind, without its files.
    await stop(again, 'SIGTERM')
    expect(processesOf(dir)).toEqual([])
  })

  test('the time zone and the locale of the machine change nothing', async () => {
    const dir = newDirectory()
    const begun = start({
      dir,
      env: { TZ: 'Pacific/Kiritimati', LC_ALL: 'tr_TR.UTF-8', LANG: 'tr_TR.UTF-8' },
    })
    const stack = await running(begun, dir)
    const sql = postgres(stack.db_url, { max: 1, onnotice: () => {} })
    const [row] = await sql`
      select current_setting('timezone') as timezone, lower('TITLE Ä') as lower, pg_database.datcollate as collate
      from pg_database where datname = current_database()`
    await sql.end()
    expect(row).toEqual({ timezone: 'UTC', lower: 'title ä', collate: 'C' })
    const cron_in_future = await fetch(`${stack.functions_url}/join`, { method: 'OPTIONS' })
    expect(cron_in_future.status).toBeLessThan(500)
  })
})

describe('what keeps the stack from starting is said in one line', () => {
  const refusal = async (begun: Run) => {
    expect(await begun.ended).toBe(1)
    const lines = begun.errors().trim().split('\n')
    expect(lines).toHaveLength(1)
    return lines[0]
  }

  test.each(['ROLLCALL_PORT', 'ROLLCALL_DB_PORT'])('a taken port names %s', async (variable) => {
    const holder = createServer()
    await new Promise<void>((done) => holder.listen(0, '127.0.0.1', done))
    const port = String((holder.address() as AddressInfo).port)
    const dir = newDirectory()
    try {
      const line = await refusal(start({ dir, env: { [variable]: port } }))
      expect(line).toContain(variable)
      expect(line).toContain(port)
      expect(processesOf(dir)).toEqual([])
    } finally {
      holder.close()
    }
  })

  test('a port that is none names its variable', async () => {
    expect(await refusal(start({ dir: newDirectory(), env: { ROLLCALL_PORT: 'http' } }))).toContain(
      'ROLLCALL_PORT',
    )
  })

  test('a file where the directory should be', async () => {
    const dir = newDirectory()
    writeFileSync(dir, '')
    expect(await refusal(start({ dir }))).toContain('ROLLCALL_DIR')
  })

  test.runIf(root)('a directory of somebody else', async () => {
    const dir = newDirectory()
    mkdirSync(dir, { mode: 0o700 })
    chmodSync(dirname(dir), 0o755)
    expect(await refusal(start({ dir, uid: 65_534 }))).toContain('ROLLCALL_DIR')
  })

  test('an unknown flag', async () => {
    const begun = start({ dir: newDirectory(), flags: ['--resett'] })
    expect(await begun.ended).toBe(1)
    expect(begun.errors()).toContain('--reset ')
  })
})

describe('who starts it', () => {
  test.runIf(root)('another user than root, without a home', async () => {
    const dir = newDirectory()
    mkdirSync(dir)
    chmodSync(dirname(dir), 0o755)
    chownSync(dir, 65_534, 65_534)
    const begun = start({ dir, uid: 65_534, env: { HOME: '/nonexistent' } })
    const stack = await running(begun, dir)
    await signUp(stack)
    expect((await stop(begun, 'SIGTERM')).code).toBe(0)
    expect(processesOf(dir)).toEqual([])
  })

  test.runIf(root)('root, in a directory that is closed to everybody else', async () => {
    const dir = newDirectory()
    chmodSync(dirname(dir), 0o700)
    const begun = start({ dir })
    await signUp(await running(begun, dir))
    expect((await stop(begun, 'SIGTERM')).code).toBe(0)
  })
})

describe('npm run env', () => {
  test('it prints how to reach the stack, and says when none runs', async () => {
    const dir = newDirectory()
    const none = runEnv({ dir })
    expect(await none.ended).toBe(1)
    expect(none.errors().trim().split('\n')).toHaveLength(1)
    expect(none.errors()).toContain('npm start')

    const begun = start({ dir })
    const stack = await running(begun, dir)
    const some = runEnv({ dir })
    expect(await some.ended).toBe(0)
    expect(some.output()).toContain(`SUPABASE_URL='${stack.api_url}'`)
    expect(some.output()).toContain(`SUPABASE_SECRET_KEY='${stack.secret_key}'`)

    await stop(begun, 'SIGKILL')
    const stale = runEnv({ dir })
    expect(await stale.ended).toBe(1)
    // What the killed stack left must not stay: the next start ends it.
    await running(start({ dir }), dir)
  })
})
