import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  type Answer,
  botIn,
  historyOf,
  pushesOf,
  report,
  requestBot,
  rowOf,
  type TestBot,
  transcript,
} from '../support/bots.ts'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'

let database: TestDatabase
let clock: ClockedSession
beforeEach(async () => {
  database = await createTestDatabase()
  clock = await openClock(database)
})
afterEach(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

type Stop = {
  ok: boolean
  code?: string
  message: string
  bots: Answer[]
  machines: { bot_id: string; container_id: string; action: string }[]
}
type Probe = { bot_id: string; probe_token: string; container_id: string; action: 'probe' | 'destroy' }

const stop = (bot: TestBot, more: Record<string, unknown> = {}, sql = clock.sql) =>
  rpc<Stop>(sql, 'stop_bot', { owner_id: bot.owner_id, bot_id: bot.bot_id, ...more })
const sweep = () => rpc(clock.sql, 'lifecycle.sweep')
const claim = () => rpc<Probe | null>(clock.sql, 'claim_probe', { worker: 'w' })
const record = (probe: Probe | null, outcome: string, more: Record<string, unknown> = {}) =>
  rpc<Answer>(clock.sql, 'record_probe', {
    bot_id: probe?.bot_id,
    probe_token: probe?.probe_token,
    outcome,
    ...more,
  })

/** A launched bot whose machine `m` is up. */
async function launchedIn(
  status: 'requested' | 'joining' | 'awaiting_admission' | 'active',
): Promise<TestBot> {
  const bot = await requestBot(clock.sql)
  await rpc(clock.sql, 'record_container', {
    bot_id: bot.bot_id,
    launch_token: bot.launch_token,
    container_id: 'm',
    status_text: 'started',
  })
  if (status !== 'requested') await report(clock.sql, bot, status)
  return bot
}

/** A launched bot that was told to leave and did not, at its deadline. */
async function overdue(status: 'joining' | 'active' = 'active'): Promise<TestBot> {
  const bot = await launchedIn(status)
  await clock.advance(10)
  await stop(bot)
  await clock.advance(30)
  await sweep()
  return bot
}

describe('stop', () => {
  test('D01 without a bot is not found', async () => {
    expect(await stop({ owner_id: randomUUID(), bot_id: randomUUID() } as TestBot)).toEqual({
      ok: false,
      code: 'bot_not_found',
      message: 'No meeting found to stop.',
    })
    const bot = await botIn(clock.sql, 'active')
    expect(await stop(bot, { owner_id: randomUUID() })).toEqual({
      ok: false,
      code: 'bot_not_found',
      message: 'No meeting found to stop.',
    })
  })

  test('D02 of an ended bot changes nothing', async () => {
    for (const [end, message] of [
      ['completed', 'Meeting already completed.'],
      ['failed', 'Meeting already failed.'],
    ] as const) {
      const bot = await botIn(clock.sql, 'active')
      await report(clock.sql, bot, end)
      const before = await rowOf(clock.sql, bot)
      expect(await stop(bot)).toMatchObject({
        ok: true,
        changed: false,
        message,
        bots: [{ bot_id: bot.bot_id }],
        machines: [],
      })
      expect(await rowOf(clock.sql, bot)).toEqual(before)
    }
  })

  test('D04 of a requested bot without a container ends it at once', async () => {
    const bot = await requestBot(clock.sql)
    await clock.advance(60)
    expect(await stop(bot)).toMatchObject({ ok: true, message: 'Stop request accepted.', machines: [] })
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'stopped',
      bot_status: 'failed',
      error_stage: 'machine_start',
      error_code: 'STOPPED_BEFORE_JOIN',
      stop_requested_at: clock.now(),
      launch_due_at: null,
    })
  })

  test('of a young bot that is not in the room ends it at once, and its machine is destroyed', async () => {
    const bot = await launchedIn('joining')
    await clock.advance(4.9)
    expect(await stop(bot)).toMatchObject({
      machines: [{ bot_id: bot.bot_id, container_id: 'm', action: 'destroy' }],
    })
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      meeting_status: 'completed',
      error_code: 'STOPPED_BEFORE_JOIN',
      error_stage: 'joining',
    })
  })

  test('D06 of an active bot stores the intent, gives one leave command and a deadline', async () => {
    const bot = await launchedIn('active')
    expect(await stop(bot)).toMatchObject({
      message: 'Stop request accepted.',
      machines: [{ bot_id: bot.bot_id, container_id: 'm', action: 'stop' }],
    })
    const stopped = await rowOf(clock.sql, bot)
    expect(stopped).toMatchObject({
      meeting_status: 'stopping',
      bot_status: 'running',
      stop_requested_at: clock.now(),
      stop_reason: 'stopped',
      container_status: 'Stopping',
      deadline_at: new Date(clock.now().getTime() + 30_000),
    })
    await clock.advance(10)
    expect(await stop(bot)).toMatchObject({
      ok: true,
      changed: false,
      message: 'Stop request accepted.',
      machines: [],
    })
    expect(await rowOf(clock.sql, bot)).toEqual(stopped)
    for (const status of ['heartbeat', 'joining', 'active']) {
      expect(await report(clock.sql, bot, status)).toMatchObject({ ok: true, command: 'leave' })
    }
  })

  test('takes the time to leave from its caller', async () => {
    const bot = await botIn(clock.sql, 'active')
    await stop(bot, { delay_s: 90 })
    expect((await rowOf(clock.sql, bot)).deadline_at).toEqual(new Date(clock.now().getTime() + 90_000))
    expect((await refusal(stop(bot, { delay_s: 0 }))).code).toBe('PT422')
  })

  test("of a meeting stops all its open bots of this owner, and nobody else's", async () => {
    const owner_id = randomUUID()
    const meeting = { owner_id, platform: 'room', native_meeting_id: 'all' }
    const first = await botIn(clock.sql, 'active', meeting)
    await stop(first)
    const second = await botIn(clock.sql, 'active', meeting)
    const other = await botIn(clock.sql, 'active', { platform: 'room', native_meeting_id: 'all' })
    const answer = await rpc<Stop>(clock.sql, 'stop_bot', meeting)
    expect(answer.bots.map((bot) => bot.bot_id).sort()).toEqual([first.bot_id, second.bot_id].sort())
    expect(await rowOf(clock.sql, other)).toMatchObject({ meeting_status: 'active' })
  })

  test('D07 D12 E09 a bot that leaves before the deadline has left for the stop; the finalizer finds nothing', async () => {
    for (const [status, end] of [
      ['completed', { meeting_status: 'completed', completion_reason: 'stopped' }],
      ['failed', { meeting_status: 'failed' }],
    ] as const) {
      const bot = await launchedIn('active')
      await stop(bot)
      expect(await report(clock.sql, bot, status, { reason: 'evicted' })).toMatchObject(end)
      await clock.advance(31)
      expect(await sweep()).toEqual({ checked: 0, changed: 0, errors: 0 })
    }
  })

  test('E01 E03 before its deadline a stopping bot is left alone; after it, any later sweep ends it', async () => {
    const bot = await botIn(clock.sql, 'active', { launch: false })
    await stop(bot)
    await clock.advance(29)
    expect(await sweep()).toEqual({ checked: 0, changed: 0, errors: 0 })
    await clock.advance(3600)
    expect(await sweep()).toMatchObject({ changed: 1 })
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'stopped',
      bot_status: 'completed',
    })
  })

  test('D14 in the lobby does not wait for the lobby; the history keeps the stage', async () => {
    const bot = await botIn(clock.sql, 'awaiting_admission', { launch: false })
    await clock.advance(60)
    await stop(bot)
    await clock.advance(30)
    expect(await sweep()).toMatchObject({ changed: 1 })
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'stopped',
      error_code: 'STOPPED_BEFORE_JOIN',
      error_stage: 'joining',
    })
    expect((await historyOf(clock.sql, bot, 'meeting')).map((event) => event.to_status)).toEqual([
      'requested',
      'joining',
      'awaiting_admission',
      'stopping',
      'completed',
    ])
  })

  test('D22 at the moment of admission: the bot ends stopping', async () => {
    const real = database.connect('postgres', { max: 4 })
    for (let round = 0; round < 10; round++) {
      const bot = await botIn(real, 'awaiting_admission', { launch: false })
      await database.superuser`set session_replication_role = replica`
      await database.superuser`update public.workflow_threads set created_at = now() - interval '1 min' where bot_id = ${bot.bot_id}`
      await database.superuser`set session_replication_role = origin`
      await Promise.all([stop(bot, {}, real), report(real, bot, 'active')])
      expect(await rowOf(real, bot)).toMatchObject({ meeting_status: 'stopping' })
    }
  })

  test("is told to an operator's name", async () => {
    const bot = await botIn(clock.sql, 'active')
    const actor = randomUUID()
    await stop(bot, { owner_id: null, actor })
    expect((await historyOf(clock.sql, bot, 'meeting')).at(-1)).toMatchObject({
      to_status: 'stopping',
      source: 'user',
      details: { actor },
    })
  })

  test('D20 and a start cannot miss each other, whichever step comes first', async () => {
    const steps = ['created', 'started'] as const
    for (let at = 0; at <= steps.length; at++) {
      const bot = await requestBot(clock.sql)
      const seen: boolean[] = []
      for (const [i, status_text] of steps.entries()) {
        if (i === at) await stop(bot)
        const answer = await rpc<Answer & { stop_requested: boolean }>(clock.sql, 'record_container', {
          bot_id: bot.bot_id,
          launch_token: bot.launch_token,
          container_id: 'm',
          status_text,
        })
        seen.push(answer.stop_requested)
      }
      const last = at === steps.length ? await stop(bot) : null
      // Whoever came second knows: the starter is told to destroy, or the stopper knows what to destroy.
      expect(seen.some(Boolean) || last?.machines[0]?.action === 'destroy', `stop before step ${at}`).toBe(
        true,
      )
      expect(await rowOf(clock.sql, bot)).toMatchObject({
        meeting_status: 'completed',
        completion_reason: 'stopped',
      })
    }
  })
})

describe('taking the machine down', () => {
  test('F07 a stopping bot of ours is completed when its machine is destroyed', async () => {
    const bot = await overdue()
    expect(await rowOf(clock.sql, bot)).toMatchObject({ meeting_status: 'stopping' })
    const probe = await claim()
    expect(probe).toMatchObject({ bot_id: bot.bot_id, container_id: 'm', action: 'destroy' })
    expect(await claim()).toBeNull()
    expect(await record(probe, 'destroyed')).toMatchObject({
      result: 'finalized',
      meeting_status: 'completed',
      completion_reason: 'stopped',
      container_status: 'Exited',
    })
    expect((await historyOf(clock.sql, bot, 'meeting')).at(-1)).toMatchObject({
      source: 'sweep',
      details: { evidence: { outcome: 'destroyed' } },
    })
    expect(await record(probe, 'destroyed')).toEqual({ ok: false, code: 'stale_lease' })
  })

  test('E05 a failed destroy is tried again after 30 s, and the attempts are kept', async () => {
    const bot = await overdue()
    expect(await record(await claim(), 'error', { evidence: { error: '503' } })).toMatchObject({
      result: 'error',
      meeting_status: 'stopping',
    })
    expect(await claim()).toBeNull()
    await clock.advance(30)
    expect(await record(await claim(), 'destroyed')).toMatchObject({ result: 'finalized' })
    expect((await historyOf(clock.sql, bot, 'meeting')).at(-1)?.details).toMatchObject({
      attempts: [{ error: '503' }],
    })
  })

  test('E06 D15 five failed destroys fail the bot, and its transcript is kept', async () => {
    const bot = await launchedIn('active')
    await report(clock.sql, bot, 'transcript', { chunk: 0, utterances: transcript })
    await stop(bot)
    await clock.advance(30)
    await sweep()
    for (let i = 0; i < 5; i++) {
      expect(await rowOf(clock.sql, bot)).toMatchObject({ meeting_status: 'stopping' })
      await record(await claim(), 'error', { evidence: { error: 'down' } })
      await clock.advance(30)
    }
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      meeting_status: 'failed',
      failure_stage: 'active',
      bot_status: 'failed',
      error_stage: 'running',
      error_code: 'TEARDOWN_UNCONFIRMED',
      transcript,
    })
    const seen = await rpc<Answer>(clock.sql, 'get_bot', { bot_id: bot.bot_id })
    expect(seen.error).toMatchObject({
      attribution: 'system',
      details: { attempts: [{ error: 'down' }, {}, {}, {}, {}] },
    })
  })

  test('F08 an unknown machine holds a stopping bot for 600 s without a break', async () => {
    const bot = await overdue()
    for (let elapsed = 0; elapsed < 600; elapsed += 30) {
      expect(await record(await claim(), 'not_found')).toMatchObject({
        result: 'not_found',
        meeting_status: 'stopping',
      })
      await clock.advance(30)
    }
    expect(await record(await claim(), 'not_found')).toMatchObject({
      result: 'finalized',
      meeting_status: 'completed',
      completion_reason: 'stopped',
    })
    expect(await claim()).toBeNull()
    expect(await rowOf(clock.sql, bot)).toMatchObject({ container_status: 'Exited' })
  })

  test('without any worker the bot is failed in the end', async () => {
    const bot = await overdue()
    await clock.advance(1799)
    await sweep()
    expect(await rowOf(clock.sql, bot)).toMatchObject({ meeting_status: 'stopping' })
    await clock.advance(1)
    await sweep()
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      bot_status: 'failed',
      error_code: 'TEARDOWN_UNCONFIRMED',
    })
  })

  test('the machine of an ended bot is destroyed 30 s later, unless it has ended', async () => {
    const bot = await launchedIn('active')
    await report(clock.sql, bot, 'failed')
    await clock.advance(29)
    expect(await claim()).toBeNull()
    await clock.advance(1)
    const probe = await claim()
    expect(probe).toMatchObject({ action: 'destroy' })
    expect(await record(probe, 'error', { evidence: { error: '500' } })).toMatchObject({
      result: 'unchanged',
    })
    await clock.advance(30)
    expect(await record(await claim(), 'not_found')).toMatchObject({
      result: 'unchanged',
      container_status: 'Exited',
      out_of_sync: false,
    })
    await clock.advance(3600)
    expect(await claim()).toBeNull()
    expect(await pushesOf(clock.sql, bot)).toHaveLength(9)
  })
})

describe('asking after a machine', () => {
  const after = { requested: 60, joining: 60, awaiting_admission: 120, active: 60 } as const

  test('waits for the grace of its state, from the last news', async () => {
    for (const [status, grace] of Object.entries(after)) {
      const bot = await launchedIn(status as keyof typeof after)
      await clock.advance(grace - 1)
      expect(await claim(), status).toBeNull()
      if (status !== 'requested') {
        await report(clock.sql, bot, 'heartbeat')
        await clock.advance(1)
        expect(await claim(), status).toBeNull()
        await clock.advance(grace - 1)
      } else {
        await clock.advance(1)
      }
      const probe = await claim()
      expect(probe).toMatchObject({ bot_id: bot.bot_id, action: 'probe' })
      expect(await record(probe, 'alive', { status_text: 'started' })).toMatchObject({
        result: 'still_running',
        meeting_status: status,
      })
      await database.superuser`update public.workflow_threads set probe_due_at = null where bot_id = ${bot.bot_id}`
    }
  })

  test('F02 F22 a machine that is alive, or an API that is down, ends nothing', async () => {
    const bot = await launchedIn('active')
    for (let elapsed = 0; elapsed < 3600; elapsed += 60) {
      await clock.advance(60)
      const probe = await claim()
      if (probe) await record(probe, elapsed % 120 ? 'alive' : 'error', { evidence: { error: 'down' } })
      await report(clock.sql, bot, 'heartbeat')
      await sweep()
    }
    expect(await rowOf(clock.sql, bot)).toMatchObject({
      bot_status: 'running',
      meeting_status: 'active',
      teardowns: [],
    })
  })

  const gone = async (status: keyof typeof after, evidence: Record<string, unknown>) => {
    const bot = await launchedIn(status)
    await clock.advance(after[status])
    return { bot, answer: await record(await claim(), 'ended', { status_text: 'stopped', evidence }) }
  }

  test('F01 F20 active and ended with code 0, or none: the bot has left alone', async () => {
    for (const evidence of [{ exit_code: 0 }, {}]) {
      const { bot, answer } = await gone('active', evidence)
      expect(answer).toMatchObject({
        result: 'finalized',
        meeting_status: 'completed',
        completion_reason: 'left_alone',
        bot_status: 'completed',
        container_status: 'Exited',
      })
      expect((await historyOf(clock.sql, bot, 'meeting')).at(-1)).toMatchObject({
        source: 'reconcile',
        details: { evidence: { outcome: 'ended', status: 'stopped' } },
      })
    }
  })

  test('F20 active and ended otherwise: the bot crashed', async () => {
    for (const evidence of [{ exit_code: 137 }, { signal: 'SIGKILL' }]) {
      const { answer } = await gone('active', evidence)
      expect(answer).toMatchObject({
        meeting_status: 'failed',
        failure_stage: 'active',
        error: { stage: 'running', code: 'BOT_CRASHED' },
      })
    }
  })

  test('F11 F12 ended before it was in the room: the machine is lost', async () => {
    for (const [status, stage] of [
      ['requested', 'machine_start'],
      ['joining', 'joining'],
      ['awaiting_admission', 'joining'],
    ] as const) {
      const { answer } = await gone(status, { exit_code: 0 })
      expect(answer).toMatchObject({
        meeting_status: 'failed',
        failure_stage: status,
        error: { stage, code: 'MACHINE_LOST' },
      })
    }
  })

  test('F20 stopping and ended: the bot has left for the stop', async () => {
    const bot = await launchedIn('active')
    await stop(bot, { delay_s: 300 })
    await clock.advance(45)
    const probe = await claim()
    expect(probe).toMatchObject({ action: 'probe' })
    expect(await record(probe, 'ended', { evidence: { exit_code: 137 } })).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'stopped',
    })
  })

  test('F03 F06 an unknown machine is presumed lost after 600 s without a break, once; a callback starts the count anew', async () => {
    const bot = await launchedIn('awaiting_admission')
    await clock.advance(120)
    const miss = async (seconds: number) => {
      for (let elapsed = 0; elapsed < seconds; elapsed += 30) {
        expect(await record(await claim(), 'not_found')).toMatchObject({
          result: 'not_found',
          meeting_status: 'awaiting_admission',
        })
        await clock.advance(30)
      }
    }
    await miss(570)
    await report(clock.sql, bot, 'heartbeat')
    // Another lobby's limit than the default, so that this test is about the machine alone.
    await database.superuser`update lifecycle.states set time_limit = '1 day' where state = 'awaiting_admission'`
    await clock.advance(120)
    await miss(600)
    expect(await record(await claim(), 'not_found')).toMatchObject({
      result: 'finalized',
      meeting_status: 'failed',
      failure_stage: 'awaiting_admission',
      error: { code: 'MACHINE_LOST', message: expect.stringMatching(/presumed lost/) },
    })
    await clock.advance(600)
    expect(await claim()).toBeNull()
  })

  test('a machine seen alive in between starts the count anew', async () => {
    await launchedIn('active')
    await clock.advance(60)
    await record(await claim(), 'not_found')
    await clock.advance(30)
    const answer = await record(await claim(), 'alive', { status_text: 'started' })
    expect(answer).toMatchObject({ result: 'still_running' })
    const [row] = await clock.sql`select missing_since from public.workflow_threads`
    expect(row?.missing_since).toBeNull()
  })

  test('a bot that its owner runs is never asked after', async () => {
    await botIn(clock.sql, 'active', { launch: false })
    await clock.advance(170)
    expect(await claim()).toBeNull()
  })
})

test('F14 F15 machines of ended or unknown bots, and second machines, are to be destroyed; the others are left', async () => {
  const open = await launchedIn('active')
  const ended = await launchedIn('active')
  await report(clock.sql, ended, 'failed')
  const machines = [
    { id: 'm', bot_id: open.bot_id },
    { id: 'second', bot_id: open.bot_id },
    { id: 'x', bot_id: ended.bot_id },
    { id: 'nobody', bot_id: randomUUID() },
    { id: 'unlabelled', bot_id: null },
    { id: 'odd', bot_id: 'not-a-uuid' },
  ]
  expect((await rpc<string[]>(clock.sql, 'judge_machines', { machines })).sort()).toEqual(
    ['second', 'x', 'nobody', 'unlabelled', 'odd'].sort(),
  )
  expect(await rpc(clock.sql, 'claim_orphan_scan')).toBe(true)
  expect(await rpc(clock.sql, 'claim_orphan_scan')).toBe(false)
  await clock.advance(30)
  expect(await rpc(clock.sql, 'claim_orphan_scan')).toBe(true)
})

test("more than twenty callbacks of a bot in a second are refused, others' are not", async () => {
  const bot = await botIn(clock.sql, 'active', { launch: false })
  const other = await botIn(clock.sql, 'active', { launch: false })
  await clock.advance(1)
  for (let i = 0; i < 20; i++)
    expect(await report(clock.sql, bot, i % 2 ? 'heartbeat' : 'joining')).toMatchObject(
      i % 2 ? { ok: true } : { ok: false, code: 'illegal_transition' },
    )
  const refused = { ok: false, code: 'limit_reached', retry_after: 1 }
  expect(await report(clock.sql, bot, 'heartbeat')).toEqual(refused)
  expect(await report(clock.sql, bot, 'completed')).toEqual(refused)
  expect(await report(clock.sql, other, 'heartbeat')).toMatchObject({ ok: true })
  await clock.advance(1)
  expect(await report(clock.sql, bot, 'completed')).toMatchObject({ ok: true })
})
