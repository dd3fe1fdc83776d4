import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type FaultMachine, type FaultMachines, startFaultMachines } from '../support/fault_machines.ts'
import { type FunctionsHost, type Project, type Reply, startProject, type User } from '../support/project.ts'

let project: Project
let user: User
let api: FaultMachines
let host: FunctionsHost
const fly = () => ({
  FLY_API_HOSTNAME: api.url,
  FLY_API_TOKEN: 'fly-token',
  FLY_APP_NAME: 'bots',
  BOT_IMAGE: 'registry.fly.io/bots:1',
  BOT_CPUS: '2',
  BOT_MEMORY_MB: '2048',
  WORK_SECONDS: '100000',
})

beforeAll(async () => {
  project = await startProject()
  user = await project.user()
  api = await startFaultMachines()
  host = await project.host(fly())
  await project.wakes(host.url)
})

afterEach(() => {
  api.creations = []
  api.always = null
  api.on_created = () => {}
  api.state_after_creation = 'started'
})

afterAll(async () => {
  await project?.close()
  await api?.close()
})

type Joined = { bot_id: string; workflow_thread_id: string }

async function join(more: Record<string, unknown> = {}, url = host.url): Promise<Joined> {
  const body = { platform: 'room', native_meeting_id: `room-${randomUUID().slice(0, 8)}`, ...more }
  const reply = await project.call('/join', { method: 'POST', as: user, body, url })
  expect(reply.status).toBe(201)
  expect(reply.body).toMatchObject({ status: 'pending', container_status: 'Requested' })
  expect(reply.body).not.toHaveProperty('callback_token')
  return reply.body
}

const machinesOf = (bot: Joined) =>
  api.machines.filter((one) => one.config.metadata?.rollcall_bot_id === bot.bot_id)

/** A callback with the token that this machine was given. */
function callback(machine: FaultMachine | undefined, path: string): Promise<Reply> {
  const { ROLLCALL_BOT_ID: bot_id, ROLLCALL_CALLBACK_TOKEN: token } = machine?.config.env ?? {}
  const headers = { authorization: `Bearer ${token}` }
  return project.call(`/callback${path}`, { method: 'POST', headers, body: { bot_id } })
}

const becomes = (bot: Joined, wanted: Record<string, unknown>) =>
  expect.poll(() => project.row(bot), { timeout: 15_000 }).toMatchObject(wanted)

/** The one who held the launch is gone: its lease runs out now, and a worker is woken. */
async function leaseEnds(bot: Joined): Promise<void> {
  await project.sql`
    update public.workflow_threads set launch_due_at = lifecycle.now() - interval '1 s' where bot_id = ${bot.bot_id}`
  await project.call('/work?lane=containers', { method: 'POST', as: 'secret', url: host.url })
}

describe('a launch', () => {
  test('P03 goes from pending over starting to running, with all that the bot must know', async () => {
    const bot = await join({ bot_name: 'Ada', bot_config: { alone_after_s: 9 }, passcode: 'sesame' })
    await becomes(bot, { bot_status: 'starting', meeting_status: 'requested', container_status: 'Up' })
    const [machine] = machinesOf(bot)
    const row = await project.row(bot)
    expect(row.container_id).toBe(machine?.id)
    expect(machine?.config).toMatchObject({
      image: 'registry.fly.io/bots:1',
      guest: { cpu_kind: 'shared', cpus: 2, memory_mb: 2048 },
      auto_destroy: true,
      restart: { policy: 'no' },
      metadata: { rollcall: 'bot', rollcall_bot_id: bot.bot_id },
    })
    expect(machine?.config.env).toEqual({
      ROLLCALL_CALLBACK_URL: `${project.functions_url}/callback`,
      ROLLCALL_CALLBACK_TOKEN: expect.stringMatching(/^[\w-]{43}$/),
      ROLLCALL_BOT_ID: bot.bot_id,
      ROLLCALL_PLATFORM: 'room',
      ROLLCALL_NATIVE_MEETING_ID: row.native_meeting_id,
      ROLLCALL_MEETING_URL: row.meeting_url,
      ROLLCALL_PASSCODE: 'sesame',
      ROLLCALL_BOT_NAME: 'Ada',
      ROLLCALL_BOT_CONFIG: '{"alone_after_s":9}',
    })
    expect((await callback(machine, '/started')).body).toMatchObject({
      bot_status: 'running',
      result: 'processed',
    })
    expect((await project.history(bot, 'bot')).map(({ to_status }) => to_status)).toEqual([
      'pending',
      'starting',
      'running',
    ])
  })

  test('A19 takes a callback that comes before the machines API has answered', async () => {
    let early: Reply | undefined
    api.on_created = async (machine) => {
      early = await callback(machine, '/joining')
    }
    const bot = await join()
    await becomes(bot, { container_status: 'Up', meeting_status: 'joining', bot_status: 'starting' })
    expect(early).toMatchObject({ status: 200, body: { result: 'processed' } })
    expect(machinesOf(bot)).toHaveLength(1)
  })

  test('P04 A17 fails when every attempt is refused, and says so', async () => {
    api.creations = [{ status: 500 }, { status: 502 }, { status: 503 }]
    const bot = await join()
    await becomes(bot, { bot_status: 'failed' })
    const reply = await project.call(`/status?bot_id=${bot.bot_id}`, { as: user })
    expect(reply.body).toMatchObject({
      meeting_status: 'failed',
      failure_stage: 'requested',
      container_status: 'Failed',
      error: {
        stage: 'machine_start',
        code: 'MACHINE_START_FAILED',
        details: { attempts: 3, last_status: 503 },
        attribution: 'system',
        retryable: true,
      },
    })
    expect(reply.body.error.message).toContain('503')
    expect((await project.history(bot, 'bot')).at(-1)).toMatchObject({
      to_status: 'failed',
      source: 'worker',
    })
    expect((await project.history(bot, 'meeting')).at(-1)).toMatchObject({ to_status: 'failed' })
    expect(await project.pushes(bot)).toBe(4)
  }, 30_000)

  test('P05 is tried again after 429 and 5xx, and makes one machine', async () => {
    api.creations = [{ status: 429, retry_after: 1 }, 'answer_lost']
    const bot = await join()
    await becomes(bot, { bot_status: 'starting', container_status: 'Up' })
    expect(machinesOf(bot)).toHaveLength(1)
  }, 30_000)

  test('fails at once where another attempt would be refused alike', async () => {
    api.creations = [{ status: 422 }]
    const bot = await join()
    await becomes(bot, { bot_status: 'failed', error_details: { attempts: 1, last_status: 422 } })
  })

  test('fails and names what is not set where no machines API is configured', async () => {
    const bare = await project.host({})
    const bot = await join({}, bare.url)
    await becomes(bot, { bot_status: 'failed', error_code: 'MACHINE_START_FAILED' })
    expect((await project.row(bot)).error_message).toContain('FLY_API_TOKEN, FLY_APP_NAME, BOT_IMAGE')
    await bare.close()
  })

  test('never shows its token', async () => {
    const bot = await join()
    await becomes(bot, { container_status: 'Up' })
    const token = machinesOf(bot)[0]?.config.env?.ROLLCALL_CALLBACK_TOKEN
    const read = await project.call(`/status?bot_id=${bot.bot_id}&include=events,transcript`, { as: user })
    expect(JSON.stringify(read.body)).not.toContain(token)
  })
})

describe('a stop that comes while the machine is made', () => {
  test('has it destroyed as soon as its id is stored', async () => {
    let bot: Joined | undefined
    api.on_created = async () => {
      await expect.poll(() => bot).toBeDefined()
      await project.sql`
        update public.workflow_threads
        set meeting_status = 'stopping', stop_requested_at = lifecycle.now(), stop_reason = 'stopped'
        where bot_id = ${bot?.bot_id ?? ''}`
    }
    bot = await join()
    await becomes(bot, { container_status: 'Exited' })
    expect(machinesOf(bot).map(({ state }) => state)).toEqual(['destroyed'])
  })
})

describe('a launch that nobody finished', () => {
  test('is repeated with a fresh token', async () => {
    const dying = await project.host(fly())
    api.always = 'hang'
    const bot = await join({}, dying.url)
    await dying.close()
    api.always = null
    expect(machinesOf(bot)).toHaveLength(0)
    await leaseEnds(bot)
    await becomes(bot, { container_status: 'Up', bot_status: 'starting', launch_attempts: 2 })
    const [machine] = machinesOf(bot)
    expect(machinesOf(bot)).toHaveLength(1)
    expect((await callback(machine, '/joining')).status).toBe(200)
  })

  test('keeps the machine that was made, whose token is the stored one', async () => {
    const dying = await project.host(fly())
    api.creations = ['answer_hangs']
    const bot = await join({}, dying.url)
    await expect.poll(() => machinesOf(bot)).toHaveLength(1)
    await dying.close()
    await leaseEnds(bot)
    await becomes(bot, { container_status: 'Up', container_id: machinesOf(bot)[0]?.id })
    expect(machinesOf(bot)).toHaveLength(1)
    expect((await callback(machinesOf(bot)[0], '/joining')).status).toBe(200)
  })

  test('and whose first worker was only slow ends with one machine, the one that can report', async () => {
    const slow = await project.host(fly())
    let release: (() => void) | undefined
    // The first creation is under way when the second worker finds nothing and makes its own.
    api.on_created = async (machine) => {
      if (release !== undefined) return
      const unseen = api.machines.indexOf(machine)
      api.machines.splice(unseen, 1)
      await new Promise<void>((done) => {
        release = done
      })
      api.machines.push(machine)
    }
    const bot = await join({}, slow.url)
    await expect.poll(() => release).toBeDefined()
    await leaseEnds(bot)
    await becomes(bot, { container_status: 'Up' })
    const [second] = machinesOf(bot)
    release?.()
    await expect
      .poll(() =>
        machinesOf(bot)
          .map(({ state }) => state)
          .sort(),
      )
      .toEqual(['destroyed', 'started'])
    expect(second?.state).toBe('started')
    expect(await project.row(bot)).toMatchObject({ container_id: second?.id })
    expect((await callback(second, '/joining')).status).toBe(200)
    await slow.close()
  })
})
