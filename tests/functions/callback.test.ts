import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CompletionReason } from '../../src/contract/bots.ts'
import { CallbackResponse } from '../../src/contract/callback.ts'
import {
  type MeetingState,
  type PlayedBot,
  type Project,
  startProject,
  transcript,
} from '../support/project.ts'

let project: Project

beforeAll(async () => {
  project = await startProject()
})

afterAll(() => project?.close())

const states = async (bot: PlayedBot) => {
  const { bot_status, meeting_status } = await project.row(bot)
  return { bot_status, meeting_status }
}

const steps = async (bot: PlayedBot, machine: 'bot' | 'meeting') =>
  (await project.history(bot, machine)).map(({ to_status, implied }) =>
    implied ? `(${to_status})` : to_status,
  )

/** Everything that a refused or repeated report leaves alone. A heartbeat time is no news. */
async function picture(bot: PlayedBot) {
  const { last_heartbeat_at, ...row } = await project.row(bot)
  return {
    row,
    bot: await project.history(bot, 'bot'),
    meeting: await project.history(bot, 'meeting'),
    pushes: await project.pushes(bot),
  }
}

describe('legal callbacks', () => {
  test('B01 joining', async () => {
    const bot = await project.play()
    const { status, body } = await project.report(bot, '/joining', { container_id: 'c-1' })
    expect(status).toBe(200)
    expect(CallbackResponse.safeParse(body).error).toBeUndefined()
    expect(body).toMatchObject({
      result: 'processed',
      bot_id: bot.bot_id,
      container_id: 'c-1',
      meeting_status: 'joining',
      bot_status: 'starting',
      status: 'starting',
      error: null,
    })
    expect(body).not.toHaveProperty('ok')
    expect(body).not.toHaveProperty('command')
    expect(body).not.toHaveProperty('transcript')
  })

  test('B02 B03 the lobby, then the room', async () => {
    const bot = await project.playTo('joining')
    expect((await project.report(bot, '/awaiting_admission')).body).toMatchObject({
      result: 'processed',
      meeting_status: 'awaiting_admission',
    })
    const { body } = await project.report(bot, '/started', { participant_count: 3 })
    expect(body).toMatchObject({ meeting_status: 'active', bot_status: 'running', participant_count: 3 })
    expect(body.joined_at).not.toBeNull()
    expect(body.bot_started_at).not.toBeNull()
  })

  test('B04 P10 P21 left alone with a transcript: completed only after processing', async () => {
    const bot = await project.playTo('active')
    const { body } = await project.report(bot, '', { status: 'completed', reason: 'left_alone', transcript })
    expect(body).toMatchObject({
      result: 'processed',
      meeting_status: 'completed',
      completion_reason: 'left_alone',
      bot_status: 'running',
      bot_completed_at: null,
    })
    expect(body.left_at).not.toBeNull()
    await expect.poll(() => states(bot), { timeout: 10_000 }).toMatchObject({ bot_status: 'completed' })
    const row = await project.row(bot)
    expect(row).toMatchObject({
      transcript,
      error_stage: null,
      error_code: null,
      error_message: null,
      error_details: null,
      qa_pairs: [
        {
          question: 'Who takes the notes?',
          answer: 'I will take the notes.',
          asked_by: 'Ada',
          answered_by: 'Grace',
        },
      ],
    })
    expect(row.bot_completed_at).not.toBeNull()
    expect(row.insights.action_items).toEqual(['Grace: I will take the notes.'])
  })

  test('B06 failed before joining', async () => {
    const bot = await project.play()
    await project.report(bot, '', {
      status: 'failed',
      error_code: 'VALIDATION_ERROR',
      error_message: 'Bad link.',
    })
    expect(await project.row(bot)).toMatchObject({
      meeting_status: 'failed',
      failure_stage: 'requested',
      bot_status: 'failed',
      error_stage: 'machine_start',
      error_code: 'VALIDATION_ERROR',
      error_message: 'Bad link.',
    })
  })

  test('B07 B08 G12 failed in every open state, whatever stage the bot names', async () => {
    for (const [from, failure_stage, error_stage] of [
      ['requested', 'requested', 'machine_start'],
      ['joining', 'joining', 'joining'],
      ['awaiting_admission', 'awaiting_admission', 'joining'],
      ['active', 'active', 'running'],
      ['stopping', 'active', 'running'],
    ] as const) {
      const bot = await project.playTo(from)
      const { status, body } = await project.report(bot, '', { status: 'failed', failure_stage: 'nowhere' })
      expect(status).toBe(200)
      expect(body).toMatchObject({
        failure_stage,
        error: {
          stage: error_stage,
          code: 'BOT_CRASHED',
          message: 'The bot reported a failure.',
          attribution: 'system',
          retryable: true,
          details: { reported: { failure_stage: 'nowhere' } },
        },
      })
    }
  })

  test('B09 left without having been in the room', async () => {
    for (const from of ['joining', 'awaiting_admission'] as const) {
      const bot = await project.playTo(from)
      await project.report(bot, '', {
        status: 'completed',
        completion_reason: 'meeting_ended',
        reason: 'evicted',
      })
      expect(await project.row(bot)).toMatchObject({
        meeting_status: 'completed',
        completion_reason: 'meeting_ended',
        bot_status: 'failed',
        error_stage: 'joining',
        error_code: 'LEFT_BEFORE_JOIN',
      })
    }
  })

  test('B10 a bot that is told to leave ends', async () => {
    const left = await project.playTo('stopping')
    expect((await project.report(left, '', { status: 'completed' })).status).toBe(200)
    expect(await project.row(left)).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'stopped',
    })
    const failed = await project.playTo('stopping')
    expect((await project.report(failed, '', { status: 'failed' })).status).toBe(200)
    expect(await states(failed)).toEqual({ meeting_status: 'failed', bot_status: 'failed' })
  })

  test('B11 admitted at once', async () => {
    const bot = await project.playTo('joining')
    await project.report(bot, '', { status: 'active' })
    expect(await steps(bot, 'meeting')).toEqual(['requested', 'joining', '(awaiting_admission)', 'active'])
  })

  test('B12 C10 the first word is that it is in the room', async () => {
    const bot = await project.play()
    expect((await project.report(bot, '/started')).body).toMatchObject({ meeting_status: 'active' })
    expect(await steps(bot, 'meeting')).toEqual(['requested', '(joining)', '(awaiting_admission)', 'active'])
    expect(await steps(bot, 'bot')).toEqual(['pending', '(starting)', 'running'])
  })

  test('B13 H10 the whole way', async () => {
    const bot = await project.play()
    for (const path of ['/joining', '/awaiting_admission', '/started']) await project.report(bot, path)
    await project.report(bot, '/exited', { exit_code: 0, transcript })
    await expect.poll(() => states(bot), { timeout: 10_000 }).toMatchObject({ bot_status: 'completed' })
    const meeting = await project.history(bot, 'meeting')
    expect(meeting.map(({ seq, to_status }) => [seq, to_status])).toEqual([
      [1, 'requested'],
      [2, 'joining'],
      [3, 'awaiting_admission'],
      [4, 'active'],
      [5, 'completed'],
    ])
    expect(await steps(bot, 'bot')).toEqual(['pending', 'starting', 'running', 'completed'])
    for (const machine of ['meeting', 'bot'] as const) {
      const rows = await project.history(bot, machine)
      for (const [index, row] of rows.entries()) {
        expect(row.from_status).toBe(index === 0 ? null : rows[index - 1]?.to_status)
      }
    }
    expect(await project.pushes(bot)).toBe(9)
  })

  test('B16 failed with only a reason', async () => {
    const bot = await project.playTo('active')
    const { body } = await project.report(bot, '', { status: 'failed', reason: 'out of memory' })
    expect(body.error.message).toContain('out of memory')
  })

  test('B17 completed for a reason that nobody knows', async () => {
    const bot = await project.playTo('active')
    const { body } = await project.report(bot, '', { status: 'completed', reason: 'the cat did it' })
    expect(body.completion_reason).toBe('other')
    expect((await project.history(bot, 'meeting')).at(-1)?.reason).toBe('the cat did it')
  })

  test('P03 each state is stamped', async () => {
    const bot = await project.play()
    const stamps = [(await project.row(bot)).bot_status_updated_at]
    expect((await project.row(bot)).bot_started_at).toBeNull()
    for (const path of ['/joining', '/started']) {
      stamps.push((await project.report(bot, path)).body.bot_status_updated_at)
    }
    const times = stamps.map((stamp) => new Date(stamp).getTime())
    expect(times).toEqual([...new Set(times)].sort())
    expect((await project.row(bot)).bot_started_at).not.toBeNull()
  })

  test('P08 the room wants another password', async () => {
    const bot = await project.playTo('joining')
    const { body } = await project.report(bot, '', {
      status: 'failed',
      error_code: 'JOIN_ROOM_AUTH_FAILED',
      error_message: 'The room refused the token.',
    })
    expect(body.error).toMatchObject({
      stage: 'joining',
      code: 'JOIN_ROOM_AUTH_FAILED',
      attribution: 'user',
      retryable: false,
    })
    expect(body.error.next_step).toEqual(expect.any(String))
  })

  test('a code from outside is kept as it is', async () => {
    const bot = await project.playTo('joining')
    const { body } = await project.report(bot, '', { status: 'failed', error_code: 'PARTY_OVER' })
    expect(body.error).toMatchObject({ code: 'PARTY_OVER', attribution: null, meaning: null })
  })
})

describe('illegal, repeated and late callbacks', () => {
  test('C01 C03 C04 C07 C09 C18 what is not in the machine is refused and changes nothing', async () => {
    const illegal: [from: MeetingState, to: string][] = [
      ['awaiting_admission', 'joining'],
      ['active', 'joining'],
      ['active', 'awaiting_admission'],
      ['completed', 'joining'],
      ['completed', 'awaiting_admission'],
      ['completed', 'active'],
      ['completed', 'failed'],
      ['failed', 'joining'],
      ['failed', 'awaiting_admission'],
      ['failed', 'active'],
      ['failed', 'completed'],
    ]
    for (const [from, to] of illegal) {
      const bot = await project.playTo(from)
      const before = await picture(bot)
      const { status, body } = await project.report(bot, '', { status: to, container_id: 'late' })
      expect([from, to, status]).toEqual([from, to, 409])
      expect(body).toMatchObject({ code: 'illegal_transition', details: { from, to, current: from } })
      expect(body.details.allowed).toEqual(expect.any(Array))
      expect(await picture(bot)).toEqual(before)
      expect(await project.rejections(bot)).toBe(1)
    }
  })

  test('C04 a failed bot is not started', async () => {
    const bot = await project.playTo('failed')
    expect((await project.report(bot, '/started')).status).toBe(409)
  })

  test('C07 the same status again changes nothing', async () => {
    for (const status of ['joining', 'awaiting_admission', 'active', 'completed', 'failed'] as const) {
      const bot = await project.playTo(status)
      const before = await picture(bot)
      const reply = await project.report(bot, '', { status, reason: 'again' })
      expect([status, reply.status, reply.body.result]).toEqual([status, 200, 'unchanged'])
      expect(await picture(bot)).toEqual(before)
      expect(await project.rejections(bot)).toBe(0)
    }
  })

  test('a known event_id is answered, and counts once', async () => {
    const bot = await project.play()
    const event_id = randomUUID()
    expect((await project.report(bot, '/joining', { event_id })).body.result).toBe('processed')
    await project.report(bot, '/started')
    const before = await picture(bot)
    const again = await project.report(bot, '/joining', { event_id })
    expect([again.status, again.body.result, again.body.meeting_status]).toEqual([200, 'unchanged', 'active'])
    expect(await picture(bot)).toEqual(before)
  })

  test('twenty identical callbacks at once make one step', async () => {
    const bot = await project.play()
    const replies = await Promise.all(Array.from({ length: 20 }, () => project.report(bot, '/joining')))
    expect(replies.every(({ status }) => status === 200)).toBe(true)
    expect(replies.filter(({ body }) => body.result === 'processed')).toHaveLength(1)
    expect(await steps(bot, 'meeting')).toEqual(['requested', 'joining'])
  })

  test('the same status from another container stores its id', async () => {
    const bot = await project.play()
    await project.report(bot, '/joining', { container_id: 'a' })
    const { body } = await project.report(bot, '/joining', { container_id: 'b' })
    expect(body).toMatchObject({ result: 'container_updated', container_id: 'b' })
  })

  test('after stop was asked for, what is no end is ignored and answered with leave', async () => {
    const bot = await project.playTo('stopping')
    const before = await picture(bot)
    for (const status of ['joining', 'active'] as const) {
      const reply = await project.report(bot, '', { status })
      expect(reply.body).toMatchObject({ result: 'ignored', command: 'leave', meeting_status: 'stopping' })
    }
    expect((await project.report(bot, '/heartbeat')).body).toMatchObject({ command: 'leave' })
    expect(await picture(bot)).toEqual(before)
  })

  test('C13 C21 what is no valid report is refused', async () => {
    const bot = await project.play()
    const before = await picture(bot)
    const headers = { authorization: `Bearer ${bot.token}` }
    const post = (body: unknown, path = '') =>
      project.call(`/callback${path}`, { method: 'POST', headers, body })
    const { bot_id } = bot
    for (const body of [
      '',
      [],
      { bot_id },
      { status: 'joining' },
      { bot_id, status: 'bogus' },
      { bot_id, status: 'requested' },
      { bot_id, status: 'stopping' },
      { bot_id, status: 'pending' },
      { bot_id: 'not-a-uuid', status: 'joining' },
      { bot_id, status: 'joining', reason: null },
      { bot_id, status: 'joining', reason: '' },
      { bot_id, status: 'joining', exit_code: '1' },
      { bot_id, status: 'joining', reason: 'nul \0' },
    ]) {
      const reply = await post(body)
      expect([body, reply.status, reply.body.code]).toEqual([body, 422, 'invalid_request'])
    }
    expect((await post({ bot_id, status: 'active' }, '/joining')).status).toBe(422)
    expect((await post({ bot_id }, '/exited')).status).toBe(422)
    expect((await post({ bot_id, exit_code: 1, status: 'completed' }, '/exited')).status).toBe(422)
    expect((await post({ bot_id }, '/dancing')).status).toBe(404)
    expect(await picture(bot)).toEqual(before)
  })

  test('C19 a wrong token, and an unknown bot, are 401 alike', async () => {
    const bot = await project.play()
    const other = await project.play()
    const before = await picture(bot)
    const post = (bot_id: string, headers: Record<string, string>) =>
      project.call('/callback', { method: 'POST', headers, body: { bot_id, status: 'joining' } })
    const replies = [
      await post(bot.bot_id, {}),
      await post(bot.bot_id, { authorization: 'Bearer short' }),
      await post(bot.bot_id, { authorization: bot.token }),
      await post(bot.bot_id, { authorization: `Bearer ${bot.token}x` }),
      await post(bot.bot_id, { authorization: `Bearer ${other.token}` }),
      await post(randomUUID(), { authorization: `Bearer ${bot.token}` }),
      await post(bot.bot_id, { authorization: `Bearer ${bot.owner.token}` }),
      await post(bot.bot_id, { apikey: project.stack.secret_key }),
    ]
    for (const { status, body } of replies) {
      expect(status).toBe(401)
      expect(body.code).toBe('unauthorized')
    }
    expect(replies[4]?.body).toEqual(replies[5]?.body)
    expect(await picture(bot)).toEqual(before)
  })
})

describe('heartbeats and transcripts', () => {
  test('a heartbeat writes its time and how many are there, and moves nothing', async () => {
    const bot = await project.playTo('active')
    const before = await picture(bot)
    const beat = (await project.row(bot)).last_heartbeat_at
    const { body } = await project.report(bot, '/heartbeat', { participant_count: 4 })
    expect(body).toMatchObject({ result: 'processed', meeting_status: 'active', participant_count: 4 })
    const after = await picture(bot)
    expect({ ...after, row: { ...after.row, participant_count: null } }).toEqual(before)
    expect((await project.row(bot)).last_heartbeat_at > beat).toBe(true)
  })

  test('more than 20 a second are too many, and are told when to come again', async () => {
    const bot = await project.playTo('active')
    const replies = await Promise.all(Array.from({ length: 60 }, () => project.report(bot, '/heartbeat')))
    const refused = replies.filter(({ status }) => status === 429)
    expect(replies.filter(({ status }) => status === 200).length).toBeGreaterThanOrEqual(18)
    expect(refused.length).toBeGreaterThan(0)
    expect(refused[0]?.body.code).toBe('limit_reached')
    expect(Number(refused[0]?.headers.get('retry-after'))).toBeGreaterThan(0)
    await expect
      .poll(async () => (await project.report(bot, '/heartbeat')).status, { timeout: 5_000 })
      .toBe(200)
  })

  test('chunks of a transcript are put together in their order, each once', async () => {
    const bot = await project.playTo('active')
    const [first, second] = transcript
    expect((await project.report(bot, '/transcript', { chunk: 1, utterances: [second] })).body.result).toBe(
      'processed',
    )
    await project.report(bot, '/transcript', { chunk: 0, utterances: [first] })
    const again = await project.report(bot, '/transcript', { chunk: 0, utterances: [first] })
    expect(again.body.result).toBe('unchanged')
    const read = await project.call(`/status?bot_id=${bot.bot_id}&include=transcript`, { as: bot.owner })
    expect(read.body.transcript).toEqual(transcript)
    await project.report(bot, '/exited', { exit_code: 0 })
    await expect.poll(() => states(bot), { timeout: 10_000 }).toMatchObject({ bot_status: 'completed' })
    expect((await project.row(bot)).transcript).toEqual(transcript)
  })
})

describe('exits', () => {
  test('G01 G13 of code 0 without a reason', async () => {
    const bot = await project.playTo('active')
    const { status, body } = await project.report(bot, '/exited', { exit_code: 0 })
    expect(status).toBe(200)
    expect(body).toMatchObject({
      result: 'processed',
      bot_id: bot.bot_id,
      meeting_status: 'completed',
      completion_reason: 'stopped',
      // Nothing was said, so there is nothing to process.
      bot_status: 'completed',
    })
  })

  test('G02 G03 of code 0 with a reason', async () => {
    for (const reason of ['left_alone', 'evicted']) {
      const bot = await project.playTo('active')
      const { body } = await project.report(bot, '/exited', { exit_code: 0, reason, transcript })
      expect(body).toMatchObject({ completion_reason: reason, bot_status: 'running' })
      await expect.poll(() => states(bot), { timeout: 10_000 }).toMatchObject({ bot_status: 'completed' })
    }
  })

  test('G04 of a bot that nobody admitted', async () => {
    const bot = await project.playTo('awaiting_admission')
    const { body } = await project.report(bot, '/exited', {
      exit_code: 0,
      reason: 'awaiting_admission_timeout',
    })
    expect(body).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'awaiting_admission_timeout',
      bot_status: 'failed',
      error: { code: 'ADMISSION_TIMEOUT', attribution: 'host' },
    })
  })

  test('G05 of a bot that was stopped before it was in the room', async () => {
    const bot = await project.playTo('joining')
    await project.sql`
      update public.workflow_threads
      set meeting_status = 'stopping', stop_requested_at = lifecycle.now(), stop_reason = 'stopped'
      where bot_id = ${bot.bot_id}`
    const { body } = await project.report(bot, '/exited', { exit_code: 143 })
    expect(body).toMatchObject({
      meeting_status: 'completed',
      completion_reason: 'stopped',
      bot_status: 'failed',
      error: { stage: 'joining', code: 'STOPPED_BEFORE_JOIN', attribution: 'user' },
    })
  })

  test('G11 for every reason, in the room and before', async () => {
    const codes: Record<string, string> = {
      awaiting_admission_timeout: 'ADMISSION_TIMEOUT',
      awaiting_admission_rejected: 'ADMISSION_REJECTED',
      validation_error: 'VALIDATION_ERROR',
    }
    for (const reason of CompletionReason.options) {
      const inside = await project.playTo('active')
      expect((await project.report(inside, '', { status: 'completed', reason })).body).toMatchObject({
        meeting_status: 'completed',
        completion_reason: reason,
        bot_status: 'completed',
      })
      const outside = await project.playTo('joining')
      expect((await project.report(outside, '', { status: 'completed', reason })).body).toMatchObject({
        meeting_status: 'completed',
        completion_reason: reason,
        bot_status: 'failed',
        error: { code: codes[reason] ?? 'LEFT_BEFORE_JOIN' },
      })
    }
  })

  test('of another code is a crash, with its code and logs in the history', async () => {
    const bot = await project.playTo('active')
    const { body } = await project.report(bot, '/exited', {
      exit_code: 137,
      bot_logs: `${'x'.repeat(60_000)}end`,
    })
    expect(body).toMatchObject({
      meeting_status: 'failed',
      error: { stage: 'running', code: 'BOT_CRASHED', message: 'Bot exited with code 137.' },
    })
    const { details } = (await project.history(bot, 'meeting')).at(-1) ?? {}
    expect(details.exit_code).toBe(137)
    expect(details.bot_logs).toHaveLength(51_200)
    expect(details.bot_logs.endsWith('end')).toBe(true)
  })
})
