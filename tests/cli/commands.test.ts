import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { botIn, report, requestBot, type TestBot } from '../support/bots.ts'
import { runCommand, shellCommand, startCommand, startInTerminal, startShell } from '../support/command.ts'
import { type FaultProxy, startFaultProxy } from '../support/fault_proxy.ts'
import { running } from '../support/flows.ts'
import { screenOf } from '../support/screen.ts'
import { type SignedUpUser, type StackAddress, sharedStack, signUp } from '../support/stack.ts'

let stack: StackAddress
let sql: postgres.Sql
let ada: SignedUpUser
let env: Record<string, string>
let proxy: FaultProxy | undefined

beforeAll(async () => {
  stack = await sharedStack()
  sql = postgres(stack.db_url, { max: 8, onnotice: () => {} })
  ada = await signUp(stack)
  env = {
    SUPABASE_URL: stack.api_url,
    SUPABASE_KEY: stack.publishable_key,
    ROLLCALL_TOKEN: ada.access_token,
  }
})
afterEach(async () => {
  await proxy?.close()
  proxy = undefined
})
afterAll(() => sql.end({ timeout: 1 }))

const bot = (more: Record<string, unknown> = {}) =>
  requestBot(sql, { owner_id: ada.user_id, launch: false, bot_name: 'daily standup', ...more })
const failNow = (it: TestBot) =>
  report(sql, it, 'failed', { error_code: 'BOT_CRASHED', error_message: 'Out of memory.' })
const live = async (it: TestBot) => {
  await report(sql, it, 'joining')
  await report(sql, it, 'active')
  await report(sql, it, 'completed', { completion_reason: 'meeting_ended' })
}
/** Waits until a watch has read its runs. */
const until = (text: () => string, pattern: RegExp) =>
  vi.waitFor(() => expect(text()).toMatch(pattern), { timeout: 20_000, interval: 50 })
const events = (stdout: string) =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

async function faulty(): Promise<FaultProxy> {
  proxy = await startFaultProxy(stack.api_url)
  return proxy
}

describe('watch', () => {
  test('tells each transition in a line, and ends with the run: completed is 0', async () => {
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id.slice(-8)], env)
    await until(() => watch.stdout, /pending/)
    await live(it)
    const { code, stdout, stderr } = await watch.finished
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const lines = stdout.trim().split('\n')
    const words = lines.slice(1).map((line) => line.split(' ').slice(2, 7).join(' '))
    expect(words).toEqual([
      'meeting daily-standup requested -> joining',
      'bot daily-standup pending -> starting',
      'meeting daily-standup joining -> awaiting_admission',
      'meeting daily-standup awaiting_admission -> active',
      'bot daily-standup starting -> running',
      'meeting daily-standup active -> completed',
      'bot daily-standup running -> completed',
    ])
    for (const line of lines) expect(line).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [0-9a-f]{8} /)
    expect(stdout).not.toContain('\x1b')
  })

  test('a failed run is 1, with its error, and --no-exit-status makes that 0', async () => {
    const it = await bot()
    await failNow(it)
    const { code, stdout, stderr } = await runCommand(['watch', it.bot_id], env)
    expect(code).toBe(1)
    expect(stdout).toContain('failed BOT_CRASHED')
    expect(stderr).toContain('BOT_CRASHED: Out of memory.')
    expect((await runCommand(['watch', it.bot_id, '--no-exit-status'], env)).code).toBe(0)
  })

  test('a run that was stopped is 6, and of several runs the worst counts', async () => {
    const [stopped, failed] = [await bot(), await bot()]
    const stop = await runCommand(['stop', stopped.bot_id, '--yes', '--wait'], env)
    expect(stop.code).toBe(6)
    await failNow(failed)
    const both = await runCommand(['watch', stopped.bot_id, failed.bot_id], env)
    expect(both.code).toBe(1)
  })

  test('--json: one object a line, the last one is the result', async () => {
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id, '--json'], env)
    await until(() => watch.stdout, /"snapshot"/)
    await live(it)
    const { code, stdout } = await watch.finished
    const all = events(stdout)
    for (const event of all)
      expect(event).toMatchObject({ v: 1, at: expect.any(String), type: expect.any(String) })
    const transitions = all.filter(({ type }) => type === 'transition')
    expect(transitions).toHaveLength(7)
    expect(transitions.at(-1)).toMatchObject({ run_id: it.bot_id, machine: 'bot', to_status: 'completed' })
    expect(all.at(-1)).toMatchObject({ type: 'result', run_id: it.bot_id, state: 'completed', exit_code: 0 })
    expect(code).toBe(0)
  })

  test('--until ends at a state, also one that is past; never reached is 1', async () => {
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id, '--until', 'awaiting_admission'], env)
    await until(() => watch.stdout, /pending/)
    await report(sql, it, 'joining')
    await report(sql, it, 'awaiting_admission')
    expect((await watch.finished).code).toBe(0)
    await report(sql, it, 'active')
    expect((await runCommand(['watch', it.bot_id, '--until', 'awaiting_admission'], env)).code).toBe(0)
    const other = await bot()
    await failNow(other)
    expect((await runCommand(['watch', other.bot_id, '--until', 'running'], env)).code).toBe(1)
  })

  test('--timeout ends with 124 and says how to go on', async () => {
    const it = await bot()
    const { code, stderr } = await runCommand(['watch', it.bot_id, '--timeout', '1s'], env)
    expect(code).toBe(124)
    expect(stderr).toContain(`rollcall watch ${it.bot_id.slice(-8)}`)
  })

  test('--interval polls and opens no socket', async () => {
    const through = await faulty()
    let sockets = 0
    through.sockets = false
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id, '--interval', '300ms', '--json'], {
      ...env,
      SUPABASE_URL: through.url,
    })
    await until(() => watch.stdout, /"snapshot"/)
    await live(it)
    expect((await watch.finished).code).toBe(0)
    sockets = through.requests.filter((path) => path.startsWith('/realtime')).length
    expect(sockets).toBe(0)
  })

  test('without any socket it is right all the same', async () => {
    const through = await faulty()
    through.sockets = false
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id], { ...env, SUPABASE_URL: through.url })
    await until(() => watch.stdout, /pending/)
    await live(it)
    const { code, stdout } = await watch.finished
    expect(code).toBe(0)
    expect(stdout.match(/ -> /g)).toHaveLength(7)
  })

  test('502 five times in a row ends nothing', async () => {
    const through = await faulty()
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id, '--interval', '200ms'], {
      ...env,
      SUPABASE_URL: through.url,
    })
    await until(() => watch.stdout, /pending/)
    let left = 3
    through.fault = (path) => (path.includes('runs_get') && left-- > 0 ? { status: 502 } : null)
    await until(() => watch.stderr, /reconnecting \(3\)/)
    await live(it)
    const { code, stderr } = await watch.finished
    expect(code).toBe(0)
    expect(stderr).toMatch(/reconnecting \(1\)[\s\S]*polling/)
  })

  test('failures at the very beginning end nothing either, and Retry-After is heard', async () => {
    const through = await faulty()
    const it = await bot()
    await failNow(it)
    let left = 2
    through.fault = () =>
      left-- > 0 ? { status: left === 1 ? 503 : 429, headers: { 'retry-after': '1' } } : null
    const { code, stderr } = await runCommand(['watch', it.bot_id], { ...env, SUPABASE_URL: through.url })
    expect(code).toBe(1)
    expect(stderr).toMatch(/reconnecting \(1\)\nreconnecting \(2\)/)
  })

  test('--give-up ends with 5 what fails for so long', async () => {
    const through = await faulty()
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id, '--interval', '200ms', '--give-up', '2s'], {
      ...env,
      SUPABASE_URL: through.url,
    })
    await until(() => watch.stdout, /pending/)
    through.fault = () => 'cut'
    const { code, stderr } = await watch.finished
    expect(code).toBe(5)
    expect(stderr).toContain('did not answer')
  })

  test('a token that runs out ends with 4 at once', async () => {
    const through = await faulty()
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id, '--interval', '200ms', '--json'], {
      ...env,
      SUPABASE_URL: through.url,
    })
    await until(() => watch.stdout, /"snapshot"/)
    through.fault = () => ({ status: 401 })
    const { code, stdout } = await watch.finished
    expect(code).toBe(4)
    expect(events(stdout).at(-1)).toMatchObject({
      type: 'result',
      exit_code: 4,
      error: { code: 'unauthorized' },
    })
  })

  test('Ctrl-C ends with 130 and says how to go on', async () => {
    const it = await bot()
    const watch = startCommand(['watch', it.bot_id], env)
    await until(() => watch.stdout, /pending/)
    watch.child.kill('SIGINT')
    const { code, stderr } = await watch.finished
    expect(code).toBe(130)
    expect(stderr).toContain(`rollcall watch ${it.bot_id.slice(-8)}`)
  })

  test('follows executions, with their progress', async () => {
    const { execution } = await running(sql, ['one', 'two'], { owner_id: ada.user_id })
    const { code, stdout } = await runCommand(['watch', execution.id, '--json'], env)
    expect(code).toBe(0)
    expect(events(stdout).at(-1)).toMatchObject({ type: 'result', state: 'completed' })
  })

  test('without an id asks where somebody can be asked, and is wrong usage elsewhere', async () => {
    expect((await runCommand(['watch'], env)).code).toBe(2)
    expect((await runCommand(['watch', '--json'], env)).code).toBe(2)
  })
})

describe('in a terminal', () => {
  const size = { cols: 80, rows: 24 }

  test('a watch redraws in place, and its last frame stays once', async () => {
    const it = await bot()
    const watch = startInTerminal(`${shellCommand(['watch', it.bot_id])}; echo "exit $?"`, size, env)
    await until(() => watch.stdout, /pending/)
    await live(it)
    const { stdout } = await watch.finished
    expect(stdout).toContain('\x1b[?2026h')
    expect(stdout.lastIndexOf('\x1b[?25h')).toBeGreaterThan(stdout.lastIndexOf('\x1b[?25l'))
    const shown = screenOf(stdout, size).map((line) => line.trimEnd())
    expect(shown.filter((line) => line.includes('daily standup'))).toHaveLength(1)
    expect(shown.filter((line) => line.includes('✓ completed'))).toHaveLength(1)
    expect(shown).toContain('exit 0')
    for (const line of shown) expect(line.length).toBeLessThanOrEqual(80)
  })

  test('Ctrl-C restores the cursor', async () => {
    const it = await bot()
    const line = `${shellCommand(['watch', it.bot_id])} & sleep 3; kill -INT $!; wait $!; echo "exit $?"`
    const { stdout } = await startInTerminal(line, size, env).finished
    expect(stdout).toContain('exit 130')
    expect(stdout.lastIndexOf('\x1b[?25h')).toBeGreaterThan(stdout.lastIndexOf('\x1b[?25l'))
    expect(stdout).toContain(`rollcall watch ${it.bot_id.slice(-8)}`)
  })

  test('a resize redraws to the new size', async () => {
    const it = await bot()
    const tty = 'exec 3<>/dev/tty'
    const line = `${tty}; (sleep 2; stty cols 44 rows 12 <&3) & ${shellCommand(['watch', it.bot_id])}`
    const watch = startInTerminal(line, size, env)
    await until(() => watch.stdout, /pending/)
    await new Promise((done) => setTimeout(done, 3000))
    await live(it)
    const { stdout } = await watch.finished
    const frames = stdout.split('\x1b[?2026h')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colors take no columns
    const last = (frames.at(-1) ?? '').replaceAll(/\x1b\[[?0-9;]*[A-Za-z]/g, '').split('\r\n')
    for (const line of last) expect(line.trim().length).toBeLessThanOrEqual(44)
    expect(last[0]).toMatch(/completed/)
  })

  test.each([
    [{}, true, true],
    [{ NO_COLOR: '1' }, false, true],
    [{ TERM: 'dumb' }, false, false],
    [{ CI: 'true' }, true, false],
  ])('with %j colors are %s and redrawing is %s', async (more, has_colors, redraws) => {
    const it = await bot()
    await failNow(it)
    const { stdout } = await startInTerminal(shellCommand(['watch', it.bot_id]), size, { ...env, ...more })
      .finished
    expect(stdout.includes('\x1b[?2026h')).toBe(redraws)
    const list = await startInTerminal(shellCommand(['ls', '--limit', '3']), size, { ...env, ...more })
      .finished
    expect(list.stdout.includes('\x1b[3')).toBe(has_colors)
    // The state is a word, whatever the colors.
    expect(list.stdout).toContain('failed')
  })

  test('FORCE_COLOR colors a pipe too', async () => {
    const list = await runCommand(['ls', '--limit', '3'], { ...env, FORCE_COLOR: '1' })
    expect(list.stdout).toContain('\x1b[3')
    expect(
      (await runCommand(['ls', '--limit', '3', '--color', 'never'], { ...env, FORCE_COLOR: '1' })).stdout,
    ).not.toContain('\x1b')
  })

  test('stop asks: anything but yes keeps the run', async () => {
    const it = await bot()
    const stop = (typed: string) =>
      startInTerminal(
        `${shellCommand(['stop', it.bot_id])}; echo "exit $?"`,
        size,
        env,
        `sleep 4; echo ${typed}; sleep 4`,
      ).finished
    const no = await stop('n')
    expect(no.stdout).toMatch(/is pending\. Stop it\? \[y\/N\]/)
    expect(no.stdout).toContain('exit 1')
    const asked = () => sql`select stop_requested_at from public.workflow_threads where bot_id = ${it.bot_id}`
    expect((await asked())[0]?.stop_requested_at).toBeNull()
    expect((await stop('y')).stdout).toContain('exit 0')
    expect((await asked())[0]?.stop_requested_at).not.toBeNull()
  }, 60_000)

  test('a watch without ids lets one choose among what is going on', async () => {
    const bob = await signUp(stack)
    await bot({ owner_id: bob.user_id, bot_name: 'first' })
    const second = await bot({ owner_id: bob.user_id, bot_name: 'second' })
    const line = `${shellCommand(['watch', '--kind', 'bot', '--timeout', '1s'])}; echo "exit $?"`
    const own = { ...env, ROLLCALL_TOKEN: bob.access_token }
    const { stdout } = await startInTerminal(line, size, own, 'sleep 5; echo 1; sleep 6').finished
    expect(stdout).toMatch(/1 .*second[\s\S]*2 .*first/)
    expect(stdout).toContain('exit 124')
    expect(stdout).toContain(`rollcall watch ${second.bot_id.slice(-8)}`)
  }, 60_000)

  test('a hundred updates a second redraw it at most ten times a second', async () => {
    const bots: TestBot[] = []
    for (let i = 0; i < 100; i++) bots.push(await bot({ bot_name: `bot ${i}` }))
    const line = shellCommand(['watch', ...bots.map(({ bot_id }) => bot_id)])
    const watch = startInTerminal(`${line} & echo "pid $!"; wait $!`, size, env)
    await until(() => watch.stdout, /100 pending/)
    const pid = /pid (\d+)/.exec(watch.stdout)?.[1]
    // Each frame is written between these two.
    const frames = () => watch.stdout.split('\u001b[?2026h').length
    const [drawn, started_at] = [frames(), performance.now()]
    // Each callback makes one to three transitions.
    for (const it of bots) await report(sql, it, 'joining')
    await until(() => watch.stdout, /100 starting/)
    const seconds = (performance.now() - started_at) / 1000
    expect(frames() - drawn).toBeLessThan(11 * (seconds + 1))
    process.kill(Number(pid), 'SIGINT')
    await watch.finished
  })
})

describe('ls, show, counts and stuck', () => {
  test('ls shows runs of the caller, narrowed by its options', async () => {
    const bob = await signUp(stack)
    const own = { ...env, ROLLCALL_TOKEN: bob.access_token }
    expect(await runCommand(['ls'], own)).toMatchObject({ code: 0, stdout: '', stderr: 'No runs match.\n' })
    const one = await bot({ owner_id: bob.user_id, bot_name: 'one' })
    const two = await bot({ owner_id: bob.user_id, bot_name: 'two' })
    await failNow(two)
    const { stdout } = await runCommand(['ls'], own)
    expect(
      stdout
        .trim()
        .split('\n')
        .map((line) => line.trim().split(/\s+/).slice(0, 5).join(' ')),
    ).toEqual([
      'STATE NAME ID KIND IN',
      `✕ failed two ${two.bot_id.slice(-8)} bot`,
      `◌ pending one ${one.bot_id.slice(-8)} bot`,
    ])
    expect((await runCommand(['ls', '--state', 'failed,completed', '--ascii'], own)).stdout).toMatch(
      /\nx failed {2}two/,
    )
    const json = events(
      (await runCommand(['ls', '--kind', 'bot', '--code', 'BOT_CRASHED', '--since', '1h', '--json'], own))
        .stdout,
    )
    expect(json.map(({ type, run_id }) => run_id ?? type)).toEqual([two.bot_id, 'result'])
    const limited = await runCommand(['ls', '--limit', '1'], own)
    expect(limited.stdout.trim().split('\n')).toHaveLength(2)
    expect(limited.stderr).toContain('There are more')
    const counted = await runCommand(['counts'], own)
    expect(counted.stdout).toMatch(/bot\s+1 pending {2}1 failed/)
    expect(counted.stdout).toMatch(/failed\s+1 in the last hour/)
  })

  test('show has the facts, the error, and every transition with its duration', async () => {
    const it = await botIn(sql, 'active', { owner_id: ada.user_id, bot_name: 'review' })
    await failNow(it)
    const { code, stdout } = await runCommand(['show', it.bot_id.slice(0, 8)], env)
    expect(code).toBe(0)
    expect(stdout).toContain('stage running   code BOT_CRASHED')
    expect(stdout).toContain('Out of memory.')
    expect(stdout).toMatch(/bot starting -> running.*for \d+/)
    expect(stdout).toContain(it.bot_id)
    const json = events((await runCommand(['show', it.bot_id, '--json'], env)).stdout)
    expect(json[0]).toMatchObject({ type: 'snapshot', run_id: it.bot_id, detail: { bot_id: it.bot_id } })
    expect(json.at(-1)).toMatchObject({ type: 'result', state: 'failed' })
    const raw = await runCommand(['show', it.bot_id, '--raw'], env)
    expect(JSON.parse(raw.stdout)).toMatchObject({ bot_id: it.bot_id })
  })

  test('what comes from the database moves no cursor', async () => {
    const it = await bot({ bot_name: 'a\x1b[2Jb\u202ec' })
    await report(sql, it, 'failed', { error_code: 'X', error_message: 'x\x1b]0;y\x07z\u2066' })
    for (const args of [
      ['show', it.bot_id],
      ['ls', '--limit', '5'],
      ['show', it.bot_id, '--raw'],
      ['ls', '--json'],
      ['tail', '--no-follow'],
    ]) {
      const { stdout } = await runCommand(args, env)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: that is the point
      expect(stdout, args.join(' ')).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/)
    }
  })

  test('stuck names the rule in words', async () => {
    const bob = await signUp(stack)
    const own = { ...env, ROLLCALL_TOKEN: bob.access_token }
    expect((await runCommand(['stuck'], own)).stderr).toContain('Nothing is stuck.')
    const it = await bot({ owner_id: bob.user_id })
    const superuser = postgres(stack.superuser_url, { max: 1, onnotice: () => {} })
    await superuser.begin(async (work) => {
      await work`set local session_replication_role = replica`
      await work`update public.workflow_threads set launch_due_at = now() - interval '90 s' where bot_id = ${it.bot_id}`
    })
    await superuser.end()
    const { stdout } = await runCommand(['stuck'], own)
    expect(stdout).toContain(it.bot_id.slice(-8))
    expect(stdout).toContain('no worker takes that up')
  })
})

describe('tail', () => {
  test('prints what was and what comes, one line a transition', async () => {
    const it = await bot({ bot_name: 'tailed' })
    const tail = startCommand(['tail', 'tailed', '--since', '5m'], env)
    await until(() => tail.stdout, /bot tailed -> pending/)
    await report(sql, it, 'joining')
    await until(() => tail.stdout, /bot tailed pending -> starting/)
    tail.child.kill('SIGINT')
    expect((await tail.finished).code).toBe(130)
    expect(tail.stdout.trim().split('\n')).toHaveLength(4)
  })

  test('--no-follow ends, and filters by state and code', async () => {
    const it = await bot({ bot_name: 'quick' })
    await failNow(it)
    const { code, stdout } = await runCommand(
      ['tail', 'quick', '--no-follow', '--code', 'BOT_CRASHED', '--kind', 'bot', '-o', 'json'],
      env,
    )
    expect(code).toBe(0)
    const all = events(stdout)
    expect(
      all
        .slice(0, -1)
        .map(({ machine, to_status }) => `${machine} ${to_status}`)
        .sort(),
    ).toEqual(['bot failed', 'meeting failed'])
    expect(all.at(-1)).toMatchObject({ type: 'result', n: 2 })
  })

  test('whoever reads no more ends it quietly', async () => {
    await bot()
    for (const reader of ['head -1', 'true']) {
      const line = `set -o pipefail; ${shellCommand(['tail', '--no-follow'])} | ${reader}`
      const { code, stderr } = await startShell(line, env).finished
      expect({ reader, code, stderr }).toEqual({ reader, code: 0, stderr: '' })
    }
  })
})

describe('stop and retry', () => {
  test('stop needs --yes where nobody can be asked, and says what it saw', async () => {
    const it = await bot()
    expect((await runCommand(['stop', it.bot_id], env)).code).toBe(2)
    const { code, stdout } = await runCommand(['stop', it.bot_id, '--yes'], env)
    expect(code).toBe(0)
    expect(stdout).toContain('was pending')
    const again = await runCommand(['stop', it.bot_id, '--yes'], env)
    expect(again.code).toBe(1)
    expect(again.stderr).toMatch(/already ended failed .* ago/)
  })

  test('retry makes a new run and can watch it', async () => {
    const { execution } = await running(sql, ['one'], { owner_id: ada.user_id })
    await runCommand(['stop', execution.id, '--yes'], env)
    const watched = await runCommand(['watch', execution.id], env)
    if (watched.code === 0) return
    expect(watched.code).toBe(6)
    const { code, stdout } = await runCommand(
      ['retry', execution.id, '--from', 'start', '--watch', '--json'],
      env,
    )
    expect(code).toBe(0)
    expect(events(stdout).at(-1)).toMatchObject({ type: 'result', state: 'completed' })
  })

  test('retry of a bot asks for it anew', async () => {
    const it = await bot()
    await failNow(it)
    const { code, stdout } = await runCommand(['retry', it.bot_id], env)
    expect(code).toBe(0)
    const id = stdout.trim()
    const shown = events((await runCommand(['show', id, '--json'], env)).stdout)
    expect(shown[0].run.retry_of).toBe(it.bot_id)
    await runCommand(['stop', id, '--yes'], env)
  })
})

describe('what is wrong', () => {
  test.each([
    [['ls', '--kind', 'cat'], 2, /--kind is bot/],
    [['ls', '--state', 'faild'], 2, /completed/],
    [['ls', '--limit', '0'], 2, /--limit/],
    [['ls', '--since', 'yesterday'], 2, /24h/],
    [['ls', '--nonsense'], 2, /nonsense/],
    [['fly'], 2, /no command "fly"/],
    [['show'], 2, /one id/],
    [['show', 'abc'], 2, /6/],
    [['show', randomUUID()], 3, /There is no run/],
    [['watch', randomUUID()], 3, /There is no run/],
    [['doctor'], 4, /operator/],
  ])('%j ends with %i and says so', async (args, code, words) => {
    const finished = await runCommand(args, env)
    expect(finished.code).toBe(code)
    expect(finished.stderr).toMatch(words)
    expect(finished.stdout).toBe('')
    const json = await runCommand([...args, '--json'], env)
    expect(events(json.stdout).at(-1)).toMatchObject({ type: 'result', exit_code: code })
  })

  test('an ambiguous id lists who is meant', async () => {
    const [one, two] = [await bot(), await bot()]
    const start = '7a7a7a7a-7a7a-4a7a-8a7a-'
    const ids = [`${start}${randomUUID().slice(-12)}`, `${start}${randomUUID().slice(-12)}`]
    const superuser = postgres(stack.superuser_url, { max: 1, onnotice: () => {} })
    await superuser.begin(async (work) => {
      await work`set local session_replication_role = replica`
      for (const [i, it] of [one, two].entries()) {
        await work`update public.status_events set subject_id = ${ids[i] as string} where subject_id = ${it.bot_id}`
        await work`update public.workflow_threads set bot_id = ${ids[i] as string} where bot_id = ${it.bot_id}`
      }
    })
    await superuser.end()
    const { code, stderr } = await runCommand(['show', '7a7a7a7a'], env)
    expect(code).toBe(3)
    for (const id of ids) expect(stderr).toContain(id)
  })

  test('a key that is not one is 4, a project that is not there 5, and no project 2', async () => {
    expect((await runCommand(['ls'], { ...env, ROLLCALL_TOKEN: 'x.y.z' })).code).toBe(4)
    expect((await runCommand(['ls'], { ...env, SUPABASE_URL: 'http://127.0.0.1:9' })).code).toBe(5)
    const { code, stderr } = await startShell(`cd / && ${shellCommand(['ls'])}`).finished
    expect(code).toBe(2)
    expect(stderr).toContain('SUPABASE_URL')
  })

  test('no key is ever printed', async () => {
    const secret = { SUPABASE_URL: stack.api_url, SUPABASE_KEY: stack.secret_key }
    for (const args of [['doctor'], ['ls', '--json'], ['ls', '--nonsense'], ['show', 'x'], ['--help']]) {
      const { stdout, stderr } = await runCommand(args, secret)
      expect(stdout + stderr).not.toContain(stack.secret_key)
    }
  })
})

describe('where the project comes from', () => {
  test('flags, then the environment, then the file, then the project around', async () => {
    const home = mkdtempSync(join(tmpdir(), 'rollcall-home-'))
    try {
      mkdirSync(join(home, '.config', 'rollcall'), { recursive: true })
      mkdirSync(join(home, 'app', 'supabase'), { recursive: true })
      mkdirSync(join(home, 'app', '.rollcall'), { recursive: true })
      mkdirSync(join(home, 'app', 'deep', 'down'), { recursive: true })
      writeFileSync(join(home, 'app', 'supabase', 'config.toml'), 'project_id = "x"\n')
      writeFileSync(join(home, 'app', '.rollcall', 'stack.json'), JSON.stringify(stack))
      const inside = (line: string, more: Record<string, string> = {}) =>
        startShell(`cd ${home}/app/deep/down && ${line}`, { HOME: home, ...more }).finished
      expect((await inside(shellCommand(['counts']))).code).toBe(0)
      const file = join(home, '.config', 'rollcall', 'config.json')
      writeFileSync(file, JSON.stringify({ url: 'http://127.0.0.1:9', key: 'sb_secret_x' }))
      expect((await inside(shellCommand(['counts']))).code).toBe(5)
      expect((await inside(shellCommand(['counts']), env)).code).toBe(0)
      expect((await inside(shellCommand(['counts', '--url', 'http://127.0.0.1:9']), env)).code).toBe(2)
      expect(
        (await inside(shellCommand(['counts', '--url', 'http://127.0.0.1:9', '--key', 'k']), env)).code,
      ).toBe(5)
      writeFileSync(file, '{')
      expect((await inside(shellCommand(['counts']))).stderr).toContain('is no JSON')
    } finally {
      rmSync(home, { recursive: true, force: true })
    }
  })
})

describe('doctor and ui', () => {
  test('ui serves the page for this project on this machine alone, without any secret', async () => {
    const keys = { SUPABASE_PUBLISHABLE_KEY: stack.publishable_key, SUPABASE_SECRET_KEY: stack.secret_key }
    const ui = startCommand(['ui'], { SUPABASE_URL: stack.api_url, ...keys })
    const is_built = existsSync(join(import.meta.dirname, '../../dist/dashboard/index.html'))
    if (!is_built) {
      const { code, stderr } = await ui.finished
      expect(code).toBe(1)
      expect(stderr).toContain('npm run build')
      return
    }
    await until(() => ui.stdout, /^http:\/\/127\.0\.0\.1:\d+\/\n$/)
    const url = ui.stdout.trim()
    const page = await (await fetch(url)).text()
    expect(page).toContain(stack.api_url)
    expect(page).toContain(stack.publishable_key)
    expect(page).not.toContain(stack.secret_key)
    expect((await fetch(`${url}other`)).status).toBe(404)
    expect((await fetch(url, { method: 'POST' })).status).toBe(405)
    ui.child.kill('SIGINT')
    expect((await ui.finished).code).toBe(130)
  })

  test('doctor tells an operator of each check', async () => {
    const secret = { SUPABASE_URL: stack.api_url, SUPABASE_KEY: stack.secret_key }
    const { code, stdout } = await runCommand(['doctor'], secret)
    expect([0, 1]).toContain(code)
    expect(stdout).toMatch(/cron jobs {2}/)
    const [result] = events((await runCommand(['doctor', '--json'], secret)).stdout)
    expect(result).toMatchObject({ type: 'result', checks: expect.any(Array) })
  })
})
