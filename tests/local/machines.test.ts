import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { ExitEvent, MachineEvent, MachineView } from '../../src/local/machines/machine.ts'
import { type Machines, startMachines } from '../../src/local/machines/server.ts'

/** What the test images run: what it does is told by the machine's environment. */
const PROGRAM = `
  const act = process.env.ACT ?? 'obey'
  if (act === 'exit') process.exit(Number(process.env.CODE))
  if (act === 'environment') { console.log(JSON.stringify(process.env)); process.exit(0) }
  if (act === 'child') {
    const child = require('node:child_process').spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' })
    console.log('child ' + child.pid)
  }
  process.on('SIGTERM', () => { console.log('got SIGTERM'); if (act !== 'stubborn') process.exit(0) })
  process.on('SIGUSR1', () => console.log('got SIGUSR1'))
  setInterval(() => {}, 1000)
  console.log('ready')
`
const IMAGES = {
  bot: { command: process.execPath, args: ['-e', PROGRAM] },
  broken: { command: '/nowhere/at/all', args: [] },
}

type Answer<T> = { status: number; body: T }

let dir: string
let machines: Machines

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'machines-'))
  machines = await startMachines({ dir, images: IMAGES, token: 'secret-token', grace_ms: 300 })
})

afterEach(async () => {
  await machines.close()
  rmSync(dir, { recursive: true, force: true })
})

async function call<T = MachineView>(
  method: string,
  path: string,
  body?: unknown,
  token = 'secret-token',
): Promise<Answer<T>> {
  const response = await fetch(`${machines.url}/v1/apps/demo/machines${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  return { status: response.status, body: (await response.json()) as T }
}

async function create(
  config: Record<string, unknown> = {},
  rest: Record<string, unknown> = {},
): Promise<MachineView> {
  const defaults = { image: 'bot', restart: { policy: 'no' } }
  const answer = await call('POST', '', { ...rest, config: { ...defaults, ...config } })
  expect(answer.status, JSON.stringify(answer.body)).toBe(200)
  return answer.body
}

const log = (id: string) =>
  existsSync(join(dir, `${id}.log`)) ? readFileSync(join(dir, `${id}.log`), 'utf8') : ''
const untilLog = (id: string, text: string) => vi.waitFor(() => expect(log(id)).toContain(text), 10_000)
const untilState = (id: string, state: string) =>
  vi.waitFor(async () => expect((await call('GET', `/${id}`)).body.state).toBe(state), 10_000)

async function ready(config: Record<string, unknown> = {}): Promise<MachineView> {
  const machine = await create(config)
  await untilLog(machine.id, 'ready')
  return machine
}

async function exitOf(id: string): Promise<ExitEvent | undefined> {
  const { body } = await call('GET', `/${id}`)
  return body.events.find((event) => event.type === 'exit')?.request?.exit_event
}

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')
  } catch {
    return false
  }
}

describe('creation', () => {
  test('a new machine is created, then started', async () => {
    const machine = await create({ metadata: { rollcall: 'bot' } }, { name: 'bot-1', region: 'fra' })
    expect(machine).toMatchObject({ name: 'bot-1', state: 'created', region: 'fra', host_status: 'ok' })
    expect(machine.id).toMatch(/^[0-9a-f]{14}$/)
    expect(machine.instance_id).toMatch(/^[0-9A-Z]{26}$/)
    expect(machine.config).toMatchObject({ image: 'bot', metadata: { rollcall: 'bot' } })
    expect(await call('GET', `/${machine.id}/wait?state=started`)).toEqual({
      status: 200,
      body: { ok: true },
    })
    const { body } = await call('GET', `/${machine.id}`)
    expect(body.state).toBe('started')
    expect(body.events.map((event) => [event.type, event.status, event.source])).toEqual([
      ['start', 'started', 'flyd'],
      ['start', 'starting', 'flyd'],
      ['launch', 'created', 'user'],
    ])
  })

  test('the answer tells nothing of the process behind a machine', async () => {
    const machine = await create()
    const { body } = await call('GET', `/${machine.id}`)
    for (const answer of [machine, body]) {
      expect(answer).not.toHaveProperty('process')
      expect(answer).not.toHaveProperty('pid')
      expect(answer).not.toHaveProperty('restart_count')
    }
  })

  test('skip_launch leaves a machine created until it is started', async () => {
    const machine = await create({}, { skip_launch: true })
    expect((await call('GET', `/${machine.id}`)).body.state).toBe('created')
    expect(log(machine.id)).toBe('')
    expect((await call('POST', `/${machine.id}/start`)).body).toEqual({ previous_state: 'created' })
    await untilLog(machine.id, 'ready')
  })

  test('a name is held by one machine at a time, and free again once that is destroyed', async () => {
    const first = await create({}, { name: 'only' })
    const second = await call('POST', '', { name: 'only', config: { image: 'bot' } })
    expect(second).toEqual({
      status: 409,
      body: {
        error: `already_exists: unique machine name violation, machine ID ${first.id} already exists with name "only"`,
      },
    })
    await call('DELETE', `/${first.id}?force=true`)
    await untilState(first.id, 'destroyed')
    expect((await create({}, { name: 'only' })).id).not.toBe(first.id)
  })

  test('a process sees its own environment and a minimal base, nothing of the stack', async () => {
    vi.stubEnv('DATABASE_PASSWORD', 'for the stack alone')
    const machine = await create({
      image: 'bot',
      env: { ACT: 'environment', GREETING: 'hello', FLY_REGION: 'mine' },
    })
    await untilLog(machine.id, '\n')
    vi.unstubAllEnvs()
    const env = JSON.parse(log(machine.id))
    expect(env).toMatchObject({
      GREETING: 'hello',
      TZ: 'UTC',
      PATH: process.env.PATH,
      FLY_MACHINE_ID: machine.id,
      FLY_APP_NAME: 'demo',
      FLY_REGION: 'loc',
      FLY_MACHINE_VERSION: machine.instance_id,
      FLY_IMAGE_REF: 'bot',
    })
    expect(env).not.toHaveProperty('DATABASE_PASSWORD')
    expect(env).not.toHaveProperty('VITEST')
  })

  test.each([
    ['no JSON', '{"config":', 400],
    ['no object', '[]', 422],
    ['no config', {}, 422],
    ['no image', { config: {} }, 422],
    ['an unknown image', { config: { image: 'constructor' } }, 400],
    ['an unknown restart policy', { config: { image: 'bot', restart: { policy: 'sometimes' } } }, 422],
    ['an odd amount of memory', { config: { image: 'bot', guest: { memory_mb: 300 } } }, 422],
    ['an environment that is not text', { config: { image: 'bot', env: { A: 1 } } }, 422],
    ['a name with a blank', { name: 'a b', config: { image: 'bot' } }, 422],
  ])('%s is refused', async (_what, body, status) => {
    const answer = await call<{ error: string }>('POST', '', body)
    expect(answer.status).toBe(status)
    expect(answer.body.error).toMatch(/^invalid_argument: /)
    expect((await call('GET', '')).body).toEqual([])
  })

  test('a program that can not be run leaves the machine failed', async () => {
    const machine = await create({ image: 'broken', auto_destroy: true })
    await untilState(machine.id, 'failed')
    expect(log(machine.id)).toContain('ENOENT')
    expect((await call('DELETE', `/${machine.id}`)).status).toBe(200)
  })
})

describe('who may ask', () => {
  test.each([['another token'], ['']])('the token "%s" is refused', async (token) => {
    expect(await call('GET', '', undefined, token)).toEqual({
      status: 401,
      body: { error: 'unauthenticated: token is invalid' },
    })
  })

  test('no other app sees a machine', async () => {
    const machine = await create()
    const headers = { authorization: 'Bearer secret-token' }
    const other = await fetch(`${machines.url}/v1/apps/other/machines/${machine.id}`, { headers })
    expect(other.status).toBe(404)
    expect(await (await fetch(`${machines.url}/v1/apps/other/machines`, { headers })).json()).toEqual([])
  })

  test('records and logs are for their owner alone', async () => {
    const machine = await ready({ env: { TOKEN: 'a secret' } })
    for (const name of [`${machine.id}.json`, `${machine.id}.log`]) {
      expect(statSync(join(dir, name)).mode & 0o077).toBe(0)
    }
  })
})

describe('an unknown machine', () => {
  test.each([
    ['GET', ''],
    ['GET', '/wait'],
    ['GET', '/events'],
    ['POST', '/start'],
    ['POST', '/stop'],
    ['POST', '/signal', { signal: 9 }],
    ['DELETE', ''],
  ])('answers %s %s with 404', async (method, path, body?: unknown) => {
    expect(await call(method, `/0123456789abcd${path}`, body)).toEqual({
      status: 404,
      body: { error: 'not_found: machine not found' },
    })
  })
})

describe('the list', () => {
  test('is filtered by metadata and region, oldest first', async () => {
    const a = await create({ metadata: { owner: 'a', kind: 'bot' } }, { skip_launch: true, region: 'fra' })
    const b = await create({ metadata: { owner: 'b', kind: 'bot' } }, { skip_launch: true, region: 'iad' })
    const ids = async (query: string) =>
      (await call<MachineView[]>('GET', query)).body.map((machine) => machine.id)
    expect(await ids('')).toEqual([a.id, b.id])
    expect(await ids('?metadata.kind=bot')).toEqual([a.id, b.id])
    expect(await ids('?metadata.kind=bot&metadata.owner=b')).toEqual([b.id])
    expect(await ids('?metadata.owner=c')).toEqual([])
    expect(await ids('?region=fra')).toEqual([a.id])
  })

  test('has destroyed machines only with include_deleted, and GET still answers them', async () => {
    const machine = await create()
    await call('DELETE', `/${machine.id}?force=true`)
    await untilState(machine.id, 'destroyed')
    expect((await call('GET', '')).body).toEqual([])
    expect((await call('GET', '?include_deleted=true')).body).toMatchObject([
      { id: machine.id, state: 'destroyed' },
    ])
  })
})

describe('the end of a process', () => {
  test.each([0, 3])('exit code %i is told in the exit event', async (code) => {
    const machine = await create({ env: { ACT: 'exit', CODE: String(code) } })
    await untilState(machine.id, 'stopped')
    expect(await exitOf(machine.id)).toMatchObject({
      exit_code: code,
      oom_killed: false,
      requested_stop: false,
      restarting: false,
      signal: -1,
    })
    const { body } = await call<MachineEvent[]>('GET', `/${machine.id}/events`)
    expect(body[0]).toMatchObject({ type: 'exit', status: 'stopped', source: 'flyd' })
  })

  test('auto_destroy destroys the machine when its process ends', async () => {
    const machine = await create({ env: { ACT: 'exit', CODE: '1' }, auto_destroy: true })
    expect((await call('GET', `/${machine.id}/wait?state=destroyed`)).status).toBe(200)
    expect(await exitOf(machine.id)).toMatchObject({ exit_code: 1 })
  })

  test('whatever the process had started ends with it', async () => {
    const machine = await ready({ env: { ACT: 'child' } })
    const child = Number(/child (\d+)/.exec(log(machine.id))?.[1])
    expect(runs(child)).toBe(true)
    await call('POST', `/${machine.id}/stop`, { signal: 'SIGTERM' })
    await untilState(machine.id, 'stopped')
    await vi.waitFor(() => expect(runs(child)).toBe(false))
  })

  test('restart on-failure starts it again, max_retries times', async () => {
    const restart = { policy: 'on-failure', max_retries: 2 }
    const machine = await create({ env: { ACT: 'exit', CODE: '5' }, restart })
    await untilState(machine.id, 'stopped')
    const { body } = await call('GET', `/${machine.id}`)
    const exits = body.events.filter((event) => event.type === 'exit').map((event) => event.request)
    expect(exits.map((request) => [request?.restart_count, request?.exit_event.restarting])).toEqual([
      [2, false],
      [1, true],
      [0, true],
    ])
  })

  test('restart on-failure leaves a good end alone', async () => {
    const machine = await create({ env: { ACT: 'exit', CODE: '0' }, restart: { policy: 'on-failure' } })
    await untilState(machine.id, 'stopped')
    expect(await exitOf(machine.id)).toMatchObject({ restarting: false })
  })
})

describe('stop', () => {
  test('sends the signal, and the process may end by itself', async () => {
    const machine = await ready()
    expect((await call('POST', `/${machine.id}/stop`, { signal: 'SIGTERM', timeout: '30s' })).body).toEqual({
      ok: true,
    })
    await untilState(machine.id, 'stopped')
    expect(log(machine.id)).toContain('got SIGTERM')
    expect(await exitOf(machine.id)).toMatchObject({ exit_code: 0, requested_stop: true, signal: -1 })
  })

  test('without a body sends SIGINT', async () => {
    const machine = await ready()
    await call('POST', `/${machine.id}/stop`)
    await untilState(machine.id, 'stopped')
    expect(await exitOf(machine.id)).toMatchObject({ exit_code: 130, signal: 2, requested_stop: true })
  })

  test('kills a process that does not end within the time-out', async () => {
    const machine = await ready({ env: { ACT: 'stubborn' } })
    await call('POST', `/${machine.id}/stop`, { signal: 'SIGTERM', timeout: '200ms' })
    expect((await call('GET', `/${machine.id}`)).body.state).toBe('stopping')
    await untilState(machine.id, 'stopped')
    expect(log(machine.id)).toContain('got SIGTERM')
    expect(await exitOf(machine.id)).toMatchObject({ exit_code: 137, signal: 9, requested_stop: true })
  })

  test('a stopped machine is stopped again without a word, and may be started', async () => {
    const machine = await ready()
    await call('POST', `/${machine.id}/stop`, { signal: 'SIGTERM' })
    await untilState(machine.id, 'stopped')
    expect((await call('POST', `/${machine.id}/stop`, {})).body).toEqual({ ok: true })
    expect((await call('POST', `/${machine.id}/start`)).body).toEqual({ previous_state: 'stopped' })
    await untilState(machine.id, 'started')
    expect(await call('POST', `/${machine.id}/start`)).toEqual({
      status: 412,
      body: { error: 'failed_precondition: machine still active, refusing to start' },
    })
  })

  test.each([
    ['an unknown signal', { signal: 'SIGWHATEVER' }],
    ['a time-out without a unit', { timeout: '10' }],
    ['a list', []],
  ])('%s is refused', async (_what, body) => {
    const machine = await create()
    expect((await call('POST', `/${machine.id}/stop`, body)).status).toBe(400)
  })
})

describe('signal', () => {
  test('reaches the process by name', async () => {
    const machine = await ready()
    expect((await call('POST', `/${machine.id}/signal`, { signal: 'SIGUSR1' })).body).toEqual({ ok: true })
    await untilLog(machine.id, 'got SIGUSR1')
    expect((await call('GET', `/${machine.id}`)).body.state).toBe('started')
  })

  test('9 kills it, which nobody calls a requested stop', async () => {
    const machine = await ready()
    await call('POST', `/${machine.id}/signal`, { signal: 9 })
    await untilState(machine.id, 'stopped')
    expect(await exitOf(machine.id)).toMatchObject({ exit_code: 137, signal: 9, requested_stop: false })
  })

  test('is refused without a process', async () => {
    const machine = await create({}, { skip_launch: true })
    expect((await call('POST', `/${machine.id}/signal`, { signal: 'SIGTERM' })).status).toBe(412)
  })
})

describe('wait', () => {
  test('answers 408 when the state is not reached in time', async () => {
    const machine = await ready()
    expect(await call('GET', `/${machine.id}/wait?state=destroyed&timeout=1`)).toEqual({
      status: 408,
      body: {
        error: 'deadline_exceeded: machine failed to reach desired state, destroyed, currently started',
      },
    })
  })

  test('for stopped needs the instance', async () => {
    const machine = await ready()
    expect((await call('GET', `/${machine.id}/wait?state=stopped`)).status).toBe(400)
    await call('POST', `/${machine.id}/stop`, { signal: 'SIGTERM' })
    const query = `state=stopped&instance_id=${machine.instance_id}`
    expect((await call('GET', `/${machine.id}/wait?${query}`)).status).toBe(200)
    expect((await call('GET', `/${machine.id}/wait?state=stopped&instance_id=other`)).status).toBe(404)
  })

  test.each(['state=happy', 'timeout=soon', 'timeout=0'])('%s is refused', async (query) => {
    const machine = await create()
    expect((await call('GET', `/${machine.id}/wait?${query}`)).status).toBe(400)
  })
})

describe('destruction', () => {
  test('of a running machine needs force', async () => {
    const machine = await ready()
    const refused = await call<{ error: string }>('DELETE', `/${machine.id}`)
    expect(refused.status).toBe(412)
    expect(refused.body.error).toContain('unable to destroy machine')
    expect((await call('GET', `/${machine.id}`)).body.state).toBe('started')
  })

  test('by force kills the process', async () => {
    const machine = await ready({ env: { ACT: 'stubborn' } })
    expect(await call('DELETE', `/${machine.id}?force=true`)).toEqual({ status: 200, body: { ok: true } })
    await untilState(machine.id, 'destroyed')
    expect(await exitOf(machine.id)).toMatchObject({ exit_code: 137, requested_stop: true })
  })

  test('ends a stop that still waits', async () => {
    const machine = await ready({ env: { ACT: 'stubborn' } })
    await call('POST', `/${machine.id}/stop`, { signal: 'SIGTERM', timeout: '10m' })
    await call('DELETE', `/${machine.id}?force=true`)
    await untilState(machine.id, 'destroyed')
  })

  test('is final', async () => {
    const machine = await create({}, { skip_launch: true })
    expect((await call('DELETE', `/${machine.id}`)).status).toBe(200)
    for (const [method, path] of [
      ['POST', '/start'],
      ['POST', '/stop'],
      ['DELETE', '?force=true'],
    ] as const) {
      expect((await call(method, `/${machine.id}${path}`)).status).toBe(404)
    }
    expect((await call('GET', `/${machine.id}`)).body.state).toBe('destroyed')
  })
})

describe('the end of the stack', () => {
  const pidOf = (id: string) =>
    JSON.parse(readFileSync(join(dir, `${id}.json`), 'utf8')).process.pid as number
  const restart = async () => {
    machines = await startMachines({ dir, images: IMAGES, token: 'secret-token', grace_ms: 300 })
  }

  test('close lets processes end by themselves and kills the others', async () => {
    const good = await ready({ auto_destroy: true })
    const bad = await ready({ env: { ACT: 'stubborn' } })
    const pids = [pidOf(good.id), pidOf(bad.id)]
    await machines.close()
    expect(pids.map(runs)).toEqual([false, false])
    await restart()
    expect(await exitOf(good.id)).toMatchObject({ exit_code: 0, requested_stop: true })
    expect((await call('GET', `/${good.id}`)).body.state).toBe('destroyed')
    expect(await exitOf(bad.id)).toMatchObject({ exit_code: 137, requested_stop: true })
    expect((await call('GET', `/${bad.id}`)).body.state).toBe('stopped')
  })

  test('after kill -9 of the stack the next start kills what it left and says so', async () => {
    const server = new URL('../../src/local/machines/server.ts', import.meta.url).href
    const code = `
      import { startMachines } from ${JSON.stringify(server)}
      const images = ${JSON.stringify(IMAGES)}
      const { url } = await startMachines({ dir: ${JSON.stringify(dir)}, images, token: 'secret-token' })
      const made = await fetch(url + '/v1/apps/demo/machines', {
        method: 'POST',
        headers: { authorization: 'Bearer secret-token' },
        body: JSON.stringify({ config: { image: 'bot', env: { ACT: 'child' }, restart: { policy: 'no' } } }),
      })
      console.log((await made.json()).id)
    `
    const stack = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let id = ''
    stack.stdout.on('data', (chunk) => {
      id += chunk
    })
    await vi.waitFor(() => expect(id).toContain('\n'), 10_000)
    id = id.trim()
    await untilLog(id, 'ready')
    const pids = [pidOf(id), Number(/child (\d+)/.exec(log(id))?.[1])]
    stack.kill('SIGKILL')
    await new Promise((resolve) => stack.once('exit', resolve))
    expect(pids.map(runs)).toEqual([true, true])
    await machines.close()
    await restart()
    await vi.waitFor(() => expect(pids.map(runs)).toEqual([false, false]))
    expect((await call('GET', '')).body).toEqual([])
    expect((await call('GET', `/${id}`)).body.state).toBe('destroyed')
    expect(await exitOf(id)).toMatchObject({ exit_code: 137, signal: 9, requested_stop: false })
  })

  test('a pid that now belongs to another process is left alone', async () => {
    const bystander = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { detached: true })
    const machine = await ready()
    await machines.close()
    const path = join(dir, `${machine.id}.json`)
    const record = JSON.parse(readFileSync(path, 'utf8'))
    const process_record = { pid: bystander.pid, identity: 'of an earlier process' }
    writeFileSync(path, JSON.stringify({ ...record, state: 'started', events: [], process: process_record }))
    await restart()
    expect((await call('GET', `/${machine.id}`)).body.state).toBe('destroyed')
    expect(await exitOf(machine.id)).toBeUndefined()
    expect(runs(bystander.pid ?? 0)).toBe(true)
    bystander.kill('SIGKILL')
  })
})
