import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type FaultMachine, type FaultMachines, startFaultMachines } from '../support/fault_machines.ts'
import { type FunctionsHost, type Project, type Reply, startProject, type User } from '../support/project.ts'

let project: Project
let user: User
let api: FaultMachines
let host: FunctionsHost

beforeAll(async () => {
  project = await startProject()
  user = await project.user()
  api = await startFaultMachines()
  host = await project.host({
    FLY_API_HOSTNAME: api.url,
    FLY_API_TOKEN: 'fly-token',
    FLY_APP_NAME: 'bots',
    BOT_IMAGE: 'bot',
    BOT_STOP_DELAY_SECONDS: '2',
    WORK_SECONDS: '100000',
  })
  await project.wakes(host.url)
  // The rhythm of hours in seconds: what is tested is the order of events, not how long they take.
  await project.sql`
    update lifecycle.settings set probe_interval = '200 ms', missing_limit = '1 s'`
  await project.sql`select cron.schedule('rollcall-sweep', '1 second', 'select lifecycle.sweep()')`
  await project.sql`select cron.schedule('rollcall-wake', '1 second', 'select lifecycle.wake()')`
})
afterEach(async () => {
  api.always = null
  api.lies = null
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
})
afterAll(async () => {
  await project?.close()
  await api?.close()
})

type Launched = { bot_id: string; native_meeting_id: string; machine: FaultMachine }

/** A bot whose machine is up, in this meeting status, older than the fast path. */
async function launched(
  status: 'requested' | 'joining' | 'awaiting_admission' | 'active',
): Promise<Launched> {
  const native_meeting_id = `room-${randomUUID().slice(0, 8)}`
  const body = { platform: 'room', native_meeting_id }
  const { bot_id } = (await project.call('/join', { method: 'POST', as: user, body, url: host.url })).body
  await expect
    .poll(() => project.row({ bot_id }), { timeout: 15_000 })
    .toMatchObject({ container_status: 'Up' })
  const machine = api.machines.find((one) => one.config.metadata?.rollcall_bot_id === bot_id) as FaultMachine
  const bot = { bot_id, native_meeting_id, machine }
  if (status !== 'requested') expect((await callback(bot, status)).status).toBe(200)
  await project.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`update public.workflow_threads set created_at = created_at - interval '10 s' where bot_id = ${bot_id}`
  })
  return bot
}

function callback({ machine, bot_id }: Launched, status: string, more: object = {}): Promise<Reply> {
  const headers = { authorization: `Bearer ${machine.config.env?.ROLLCALL_CALLBACK_TOKEN}` }
  return project.call('/callback', { method: 'POST', headers, body: { bot_id, status, ...more } })
}

const stopBot = (bot_id: string, as: User | 'secret' = user, more: object = {}) =>
  project.call('/stop', { method: 'POST', as, body: { bot_id, ...more }, url: host.url })
const stopMeeting = (path: string, as: User | 'secret' | null = user) =>
  project.call(`/stop/${path}`, { method: 'DELETE', as, url: host.url })
const becomes = (bot: { bot_id: string }, wanted: Record<string, unknown>) =>
  expect.poll(() => project.row(bot), { timeout: 20_000 }).toMatchObject(wanted)
const commands = (bot: Launched, method: string) =>
  api.requests.filter((request) => request.method === method && request.path.includes(`/${bot.machine.id}`))

describe('asking', () => {
  test('D01 for no bot is 404', async () => {
    expect(await stopMeeting(`room/${randomUUID()}`)).toMatchObject({
      status: 404,
      body: { code: 'bot_not_found', message: 'No meeting found to stop.' },
    })
    expect(await stopBot(randomUUID())).toMatchObject({ status: 404, body: { code: 'bot_not_found' } })
  })

  test("for another owner's bot is 404, and changes nothing", async () => {
    const bot = await project.playTo('active')
    expect((await stopBot(bot.bot_id, await project.user())).status).toBe(404)
    expect(await project.row(bot)).toMatchObject({ meeting_status: 'active', stop_requested_at: null })
  })

  test('D18 with an unknown platform, or a bad id, is 422', async () => {
    for (const path of ['skype/abc', 'room', 'room/', 'room/a%20b', 'room/%', 'room/a/b', '']) {
      expect((await stopMeeting(path)).status, path).toBe(422)
    }
    for (const body of [{}, { bot_id: 'x' }, { bot_id: null }, []]) {
      const reply = await project.call('/stop', { method: 'POST', as: user, body, url: host.url })
      expect(reply.status, JSON.stringify(body)).toBe(422)
    }
    expect((await project.call('/stop/room/x', { method: 'PUT', as: user, url: host.url })).status).toBe(405)
  })

  test('D19 without credentials is 401', async () => {
    expect((await stopMeeting('room/x', null)).status).toBe(401)
    expect(
      (await project.call('/stop', { method: 'POST', body: { bot_id: randomUUID() }, url: host.url })).status,
    ).toBe(401)
  })

  test('D02 for an ended bot is 202 and changes nothing', async () => {
    for (const end of ['completed', 'failed'] as const) {
      const bot = await project.playTo(end)
      const before = await project.row(bot)
      expect(await stopMeeting(`room/${bot.native_meeting_id}`, bot.owner)).toMatchObject({
        status: 202,
        body: { message: `Meeting already ${end}.`, bots: [{ bot_id: bot.bot_id, meeting_status: end }] },
      })
      expect(await project.row(bot)).toEqual(before)
    }
  })

  test('a secret key stops any bot by its id, and a meeting of the owner it names', async () => {
    const bot = await project.playTo('active')
    expect((await stopMeeting(`room/${bot.native_meeting_id}`, 'secret')).status).toBe(422)
    expect(
      await stopMeeting(`room/${bot.native_meeting_id}?owner_id=${bot.owner.id}`, 'secret'),
    ).toMatchObject({ status: 202 })
    const other = await project.playTo('active')
    expect(await stopBot(other.bot_id, 'secret')).toMatchObject({
      status: 202,
      body: { bots: [{ meeting_status: 'stopping' }] },
    })
  })

  test("an operator stops anybody's bot, and the history knows who did", async () => {
    const operator = await project.operator()
    const bot = await project.playTo('active')
    expect(await stopBot(bot.bot_id, operator)).toMatchObject({ status: 202 })
    expect((await project.history(bot, 'meeting')).at(-1)).toMatchObject({
      to_status: 'stopping',
      source: 'user',
      details: { actor: operator.id },
    })
  })
})

test('the history keeps why somebody stopped it', async () => {
  const { bot_id } = await launched('active')
  const body = { bot_id, reason: 'the meeting was moved' }
  expect((await project.call('/stop', { method: 'POST', as: user, body, url: host.url })).status).toBe(202)
  const events = await project.sql`
    select to_status, reason from public.status_events where subject_id = ${bot_id} and reason is not null`
  expect(events).toEqual([{ to_status: 'stopping', reason: 'the meeting was moved' }])
})

test('D04 a requested bot without a container ends at once', async () => {
  const bot = await project.playTo('requested')
  expect(await stopBot(bot.bot_id, bot.owner)).toMatchObject({
    status: 202,
    body: {
      message: 'Stop request accepted.',
      bots: [
        {
          meeting_status: 'completed',
          completion_reason: 'stopped',
          error: { code: 'STOPPED_BEFORE_JOIN', attribution: 'user' },
        },
      ],
    },
  })
  expect(await project.history(bot, 'meeting')).toHaveLength(2)
})

test('D06 an active bot is told to leave once: by its machine, and by every answer', async () => {
  const bot = await launched('active')
  const first = await stopMeeting(`room/${bot.native_meeting_id}`)
  expect(first).toMatchObject({
    status: 202,
    body: {
      message: 'Stop request accepted.',
      bots: [{ bot_id: bot.bot_id, meeting_status: 'stopping', stop_reason: 'stopped' }],
    },
  })
  const again = await stopMeeting(`room/${bot.native_meeting_id}`)
  expect(again.body.bots[0].deadline_at).toBe(first.body.bots[0].deadline_at)
  await expect
    .poll(() => commands(bot, 'POST'))
    .toMatchObject([{ path: expect.stringMatching(/\/stop$/), body: { signal: 'SIGTERM', timeout: '2s' } }])
  expect((await callback(bot, 'heartbeat')).body).toMatchObject({ command: 'leave' })
  expect((await callback(bot, 'completed', { completion_reason: 'evicted' })).body).toMatchObject({
    meeting_status: 'completed',
    completion_reason: 'stopped',
  })
  expect(commands(bot, 'POST')).toHaveLength(1)
})

test('F07 a bot that does not leave is completed once its machine is destroyed', async () => {
  const bot = await launched('active')
  await stopBot(bot.bot_id)
  await becomes(bot, {
    meeting_status: 'completed',
    completion_reason: 'stopped',
    container_status: 'Exited',
  })
  expect(bot.machine.state).toBe('destroyed')
  expect((await project.history(bot, 'meeting')).at(-1)).toMatchObject({ source: 'sweep' })
})

test('D15 E06 with the machines API down the intent is stored, and five failed destroys end the bot', async () => {
  const bot = await launched('active')
  api.always = { status: 503 }
  expect(await stopBot(bot.bot_id)).toMatchObject({
    status: 202,
    body: { bots: [{ meeting_status: 'stopping' }] },
  })
  await becomes(bot, {
    bot_status: 'failed',
    error_code: 'TEARDOWN_UNCONFIRMED',
    failure_stage: 'active',
    error_stage: 'running',
  })
  expect((await project.row(bot)).error_details.attempts).toHaveLength(5)
})

test('a machine that the API only says it destroyed does not count', async () => {
  const bot = await launched('active')
  api.lies = 'undead'
  await stopBot(bot.bot_id)
  await becomes(bot, { bot_status: 'failed', error_code: 'TEARDOWN_UNCONFIRMED' })
  expect((await project.row(bot)).error_details.attempts[0].error).toMatch(/the machine is/)
})

test('F08 a machine that the API has forgotten holds a stopping bot only for so long', async () => {
  const bot = await launched('active')
  api.lies = 'forgetful'
  await stopBot(bot.bot_id)
  await becomes(bot, { meeting_status: 'completed', completion_reason: 'stopped' })
  expect((await project.history(bot, 'meeting')).at(-1)).toMatchObject({ reason: 'presumed lost' })
})

test('D20 a stop while the machine is being made leaves no machine', async () => {
  const native_meeting_id = `room-${randomUUID().slice(0, 8)}`
  let stopped: Promise<Reply> | undefined
  api.on_created = async (machine) => {
    stopped ??= stopBot(machine.config.metadata?.rollcall_bot_id ?? '')
    await stopped
  }
  try {
    const body = { platform: 'room', native_meeting_id }
    const { bot_id } = (await project.call('/join', { method: 'POST', as: user, body, url: host.url })).body
    await becomes(
      { bot_id },
      { meeting_status: 'completed', completion_reason: 'stopped', error_code: 'STOPPED_BEFORE_JOIN' },
    )
    const machines = () => api.machines.filter((one) => one.config.metadata?.rollcall_bot_id === bot_id)
    await expect.poll(() => machines().map((one) => one.state)).toEqual(['destroyed'])
  } finally {
    api.on_created = () => {}
  }
})

describe('reconciliation', () => {
  /** The bot falls silent: its grace is over now. */
  const silent = async (bot: Launched) => {
    await project.sql`
      update public.workflow_threads
      set last_heartbeat_at = last_heartbeat_at - interval '10 min', probe_due_at = lifecycle.now() - interval '1 s'
      where bot_id = ${bot.bot_id}`
    await project.superuser.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`
        update public.workflow_threads set meeting_status_updated_at = meeting_status_updated_at - interval '10 min'
        where bot_id = ${bot.bot_id}`
    })
    await project.call('/work?lane=containers', { method: 'POST', as: 'secret', url: host.url })
  }
  const exited = (exit_code: number, guest_signal = -1) => [
    {
      type: 'exit',
      status: 'stopped',
      request: {
        exit_event: {
          exit_code,
          guest_exit_code: guest_signal > 0 ? 0 : exit_code,
          guest_signal,
          signal: guest_signal,
          oom_killed: false,
          requested_stop: false,
        },
      },
    },
  ]

  test('F01 an active bot whose machine ended with code 0 has left', async () => {
    const bot = await launched('active')
    Object.assign(bot.machine, { state: 'destroyed', events: exited(0) })
    await silent(bot)
    await becomes(bot, {
      meeting_status: 'completed',
      completion_reason: 'left_alone',
      bot_status: 'completed',
    })
    expect((await project.history(bot, 'meeting')).at(-1)).toMatchObject({
      source: 'reconcile',
      details: { evidence: { exit_code: 0, status: 'destroyed' } },
    })
  })

  test('F20 an active bot whose machine was killed has crashed', async () => {
    const bot = await launched('active')
    Object.assign(bot.machine, { state: 'stopped', events: exited(137, 9) })
    await silent(bot)
    await becomes(bot, {
      bot_status: 'failed',
      error_code: 'BOT_CRASHED',
      error_message: 'Bot exited with code 137.',
    })
  })

  test('F12 a joining bot whose machine ended has lost it', async () => {
    const bot = await launched('joining')
    Object.assign(bot.machine, { state: 'destroyed', events: exited(0) })
    await silent(bot)
    await becomes(bot, { bot_status: 'failed', error_code: 'MACHINE_LOST', error_stage: 'joining' })
  })

  test('a machine that is alive, or an API that fails, hangs or lies, ends nothing', async () => {
    const bot = await launched('active')
    for (const fault of [null, { status: 500 }, 'cut', 'garbage', 'hang'] as const) {
      api.always = fault
      const before = api.requests.length
      await silent(bot)
      await expect.poll(() => api.requests.length).toBeGreaterThan(before)
      await expect.poll(async () => (await project.row(bot)).probe_token, { timeout: 20_000 }).toBeNull()
      expect(await project.row(bot)).toMatchObject({ bot_status: 'running', meeting_status: 'active' })
    }
  }, 60_000)

  test('F14 machines of no bot are destroyed, F15 those of open bots are left', async () => {
    const bot = await launched('active')
    const orphan: FaultMachine = {
      id: 'orphan',
      name: 'orphan',
      state: 'started',
      config: { metadata: { rollcall: 'bot', rollcall_bot_id: randomUUID() } },
    }
    const stranger: FaultMachine = {
      id: 'stranger',
      name: 'stranger',
      state: 'started',
      config: { metadata: {} },
    }
    api.machines.push(orphan, stranger)
    await silent(bot)
    await expect.poll(() => orphan.state, { timeout: 15_000 }).toBe('destroyed')
    expect(stranger.state).toBe('started')
    expect(bot.machine.state).toBe('started')
  })

  test('the machine of a bot that failed is destroyed', async () => {
    const bot = await launched('active')
    await callback(bot, 'failed')
    await project.sql`update public.workflow_threads set probe_due_at = lifecycle.now() where bot_id = ${bot.bot_id}`
    await expect.poll(() => bot.machine.state, { timeout: 15_000 }).toBe('destroyed')
    await becomes(bot, { container_status: 'Exited', probe_due_at: null })
  })
})
