import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { type Claimed, claimExecution, executionOf, running, storeResult } from '../support/flows.ts'
import { refusal, rpc } from '../support/rpc.ts'

// A database for each test: a claim takes whatever is due, whoever's it is.
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

const stale = { ok: false, code: 'stale_lease' }
const claim = async (worker = 'w') => (await claimExecution(clock.sql, worker)) as Claimed
const sweep = () => rpc<{ changed: number }>(clock.sql, 'lifecycle.sweep')
const end = (claimed: Claimed, more: Record<string, unknown> = {}) =>
  rpc(clock.sql, 'complete_execution', {
    id: claimed.id,
    lease_token: claimed.lease_token,
    status: 'failed',
    error: 'Prompt 1 of 1: no.',
    error_code: 'AGENT_REFUSED',
    ...more,
  })

describe('a result', () => {
  test('moves the execution on by one, and the last completes it in the same transaction', async () => {
    const { execution } = await running(clock.sql, ['a', 'b'])
    const lease = await claim()
    expect(lease).toMatchObject({ id: execution.id, current_prompt_index: 0, conversation: [] })
    await clock.advance(5)
    expect(
      await storeResult(clock.sql, lease, 0, {
        response: 'A',
        duration_ms: 5000,
        usage: { total_tokens: 7 },
      }),
    ).toMatchObject({
      ok: true,
      changed: true,
      status: 'running',
      current_prompt_index: 1,
    })
    expect(await storeResult(clock.sql, lease, 1, { response: 'B' })).toMatchObject({ status: 'completed' })
    expect(
      await rpc(clock.sql, 'complete_execution', {
        ...{ id: lease.id, lease_token: lease.lease_token },
        status: 'completed',
      }),
    ).toMatchObject({ ok: true, changed: false, result: 'unchanged' })
    const whole = await executionOf(clock.sql, execution)
    expect(whole.prompt_results).toMatchObject([
      {
        index: 0,
        prompt: 'a',
        response: 'A',
        duration_ms: 5000,
        usage: { total_tokens: 7 },
        started_at: '2026-03-01T12:00:00+00:00',
      },
      { index: 1, response: 'B' },
    ])
    expect(whole.events).toMatchObject([
      { to_status: 'running', source: 'user' },
      { from_status: 'running', to_status: 'completed', source: 'worker' },
    ])
  })

  test('is stored once: again it is unchanged, another one or one too far is refused', async () => {
    await running(clock.sql, ['a', 'b', 'c'])
    const lease = await claim()
    await storeResult(clock.sql, lease, 0, { response: 'A' })
    const before = await executionOf(clock.sql, lease)
    expect(await storeResult(clock.sql, lease, 0, { response: 'A' })).toMatchObject({
      ok: true,
      result: 'unchanged',
    })
    for (const [index, result] of [
      [0, 'other'],
      [2, 'C'],
      [3, 'D'],
      [-1, 'x'],
    ] as const) {
      expect(await storeResult(clock.sql, lease, index, { response: result })).toMatchObject({
        ok: false,
        code: 'wrong_prompt_index',
        current_prompt_index: 1,
      })
    }
    for (const bad of [
      {},
      { response: 'a', error: 'b' },
      { error: ' ' },
      { response: 'a'.repeat(262_145) },
    ]) {
      expect(await refusal(storeResult(clock.sql, lease, 1, bad))).toMatchObject({ code: 'PT422' })
    }
    expect(await executionOf(clock.sql, lease)).toEqual(before)
    // Of the last one too, though that has ended it.
    await storeResult(clock.sql, lease, 1, { response: 'B' })
    await storeResult(clock.sql, lease, 2, { response: 'C' })
    expect(await storeResult(clock.sql, lease, 2, { response: 'C' })).toMatchObject({
      ok: true,
      result: 'unchanged',
    })
    expect(await storeResult(clock.sql, lease, 2, { response: 'D' })).toMatchObject({
      ok: false,
      code: 'already_ended',
    })
  })

  test('that is an error is kept and moves nothing; a later answer takes its place', async () => {
    await running(clock.sql, ['a', 'b'])
    const lease = await claim()
    expect(await storeResult(clock.sql, lease, 0, { error: 'Prompt 1 of 2: no.' })).toMatchObject({
      ok: true,
      changed: true,
      current_prompt_index: 0,
      status: 'running',
    })
    expect(await storeResult(clock.sql, lease, 0, { error: 'Prompt 1 of 2: no.' })).toMatchObject({
      result: 'unchanged',
    })
    expect((await executionOf(clock.sql, lease)).prompt_results).toMatchObject([
      { response: null, error: 'Prompt 1 of 2: no.' },
    ])
    await storeResult(clock.sql, lease, 0, { response: 'A' })
    expect((await executionOf(clock.sql, lease)).prompt_results).toMatchObject([
      { response: 'A', error: null },
    ])
    await end(lease, { error: '  ', error_code: 'AGENT_TIMEOUT' })
    expect(await executionOf(clock.sql, lease)).toMatchObject({
      status: 'failed',
      error: 'The agent did not answer in time.',
      error_code: 'AGENT_TIMEOUT',
      attribution: 'system',
      retryable: true,
    })
  })

  test('is pushed as progress, with a hint to the owner', async () => {
    const { execution } = await running(clock.sql, ['a', 'b'])
    const lease = await claim()
    await clock.advance(1)
    for (const [index, response] of ['A', 'B'].entries())
      await storeResult(clock.sql, lease, index, { response })
    const pushes = await database.superuser`
      select event, payload from realtime.messages where topic = ${`flow_execution:${execution.id}`}
      order by (payload ->> 'at'), (payload ->> 'current_prompt_index'), event`
    expect(pushes.map(({ event, payload }) => [event, payload.current_prompt_index, payload.seq])).toEqual([
      ['status_changed', 0, 1],
      ['progress', 1, 1],
      ['progress', 2, 1],
      ['status_changed', 2, 2],
    ])
    for (const { payload } of pushes) {
      expect(payload).toMatchObject({ machine: 'flow_execution', subject_id: execution.id, total_prompts: 2 })
      expect(Buffer.byteLength(JSON.stringify(payload))).toBeLessThan(1024)
    }
    const [hints] = await database.superuser`
      select count(*)::int as n from realtime.messages where topic = ${`owner:${execution.owner_id}`}`
    expect(hints?.n).toBeGreaterThanOrEqual(2)
  })
})

describe('a lease', () => {
  test('that ran out is taken over, and the old worker is refused everything', async () => {
    await running(clock.sql, ['a', 'b', 'c'])
    const first = await claim()
    await storeResult(clock.sql, first, 0, { response: 'A' })
    expect(await claim()).toBeNull()
    await clock.advance(59)
    expect(await claim()).toBeNull()
    await clock.advance(1)
    const second = await claim('other')
    expect(second).toMatchObject({
      id: first.id,
      current_prompt_index: 1,
      conversation: [{ prompt: 'a', response: 'A' }],
    })
    const before = await executionOf(clock.sql, first)
    for (const [name, args] of [
      ['update_execution_progress', { prompt_index: 1, prompt_result: { response: 'late' } }],
      ['update_execution_progress', { prompt_index: 0, prompt_result: { response: 'A' } }],
      ['renew_execution_lease', {}],
      ['yield_execution', {}],
      ['yield_execution', { failed: true }],
      ['complete_execution', { status: 'failed', error: 'x', error_code: 'X' }],
      ['complete_execution', { status: 'completed' }],
    ] as const) {
      const { id, lease_token } = first
      expect(await rpc(clock.sql, name, { id, lease_token, ...args }), name).toEqual(stale)
    }
    expect(await executionOf(clock.sql, first)).toEqual(before)
    expect(
      await rpc(clock.sql, 'complete_execution', {
        id: second.id,
        lease_token: second.lease_token,
        status: 'completed',
      }),
    ).toMatchObject({ ok: false, code: 'illegal_transition', allowed: ['failed'] })
  })

  test('is renewed by the worker and by each result, and given back at once', async () => {
    await running(clock.sql, ['a', 'b'])
    const first = await claim()
    await clock.advance(40)
    await rpc(clock.sql, 'renew_execution_lease', { id: first.id, lease_token: first.lease_token })
    await clock.advance(40)
    await storeResult(clock.sql, first, 0, { response: 'A' })
    await clock.advance(40)
    expect(await claim()).toBeNull()
    expect(
      await rpc(clock.sql, 'yield_execution', { id: first.id, lease_token: first.lease_token }),
    ).toMatchObject({ ok: true })
    expect(await claim()).toMatchObject({ current_prompt_index: 1, prompt_attempts: 0 })
  })

  test('of an attempt in vain is given back for 1 s, 4 s, 16 s; after the fourth none is left', async () => {
    await running(clock.sql, ['a'])
    for (const [attempts, wait] of [1, 4, 16].entries()) {
      const lease = await claim()
      expect(lease.prompt_attempts).toBe(attempts)
      expect(
        await rpc(clock.sql, 'yield_execution', {
          id: lease.id,
          lease_token: lease.lease_token,
          failed: true,
        }),
      ).toMatchObject({ ok: true, result: 'retrying', wait_s: wait })
      await clock.advance(wait - 0.1)
      expect(await claim()).toBeNull()
      await clock.advance(0.1)
    }
    const { id, lease_token } = await claim()
    expect(await rpc(clock.sql, 'yield_execution', { id, lease_token, failed: true })).toMatchObject({
      ok: false,
      code: 'no_attempt_left',
    })
  })

  test('waits for as long as the agent asks, up to 300 s, and beyond that not at all', async () => {
    await running(clock.sql, ['a'])
    const { id, lease_token } = await claim()
    expect(
      await rpc(clock.sql, 'yield_execution', { id, lease_token, failed: true, retry_after_s: 301 }),
    ).toMatchObject({ ok: false, code: 'no_attempt_left' })
    expect(
      await rpc(clock.sql, 'yield_execution', { id, lease_token, failed: true, retry_after_s: 300 }),
    ).toMatchObject({ ok: true, wait_s: 300 })
    await clock.advance(299)
    expect(await claim()).toBeNull()
    await clock.advance(1)
    expect(await claim()).toMatchObject({ id, prompt_attempts: 1 })
  })

  test('that ten workers in a row lost at one prompt is the last', async () => {
    const { execution } = await running(clock.sql, ['a', 'b'])
    for (let lost = 0; lost < 10; lost++) {
      expect(await claim()).toMatchObject({ id: execution.id })
      await clock.advance(60)
    }
    expect(await claim()).toBeNull()
    expect(await executionOf(clock.sql, execution)).toMatchObject({
      status: 'failed',
      error_code: 'EXECUTION_LOST',
      error: '10 workers in a row were lost at prompt 1 of 2.',
    })
  })

  test('goes to the owner with the fewest, then to the oldest: a long queue starves nobody', async () => {
    const crowd = randomUUID()
    for (let n = 0; n < 6; n++) await running(clock.sql, ['a'], { owner_id: crowd })
    await clock.advance(1)
    const others = [randomUUID(), randomUUID()]
    for (const owner_id of others) {
      await running(clock.sql, ['a'], { owner_id })
      await clock.advance(1)
    }
    const owners: unknown[] = []
    for (let n = 0; n < 8; n++) owners.push((await executionOf(clock.sql, await claim())).owner_id)
    expect(owners).toEqual([crowd, ...others, crowd, crowd, crowd, crowd, crowd])
  })

  test('is given once, however many ask at the same time', async () => {
    for (let n = 0; n < 40; n++)
      await running(database.owner, ['a'], n < 30 ? { owner_id: '00000000-0000-0000-0000-000000000001' } : {})
    const many = database.connect('postgres', { max: 8 })
    const claims = await Promise.all(Array.from({ length: 60 }, () => claimExecution(many)))
    const ids = claims.flatMap((one) => one?.id ?? [])
    expect(new Set(ids).size).toBe(ids.length)
    expect(ids).toHaveLength(40)
  })
})

describe('the deadline', () => {
  test('of a claimed execution is 15 minutes after the newest claim or result', async () => {
    const { execution } = await running(clock.sql, ['a', 'b'])
    await clock.advance(10 * 60)
    const lease = await claim()
    await clock.advance(14 * 60)
    expect(await sweep()).toMatchObject({ changed: 0 })
    await storeResult(clock.sql, lease, 0, { response: 'A' })
    await clock.advance(15 * 60 - 1)
    expect(await sweep()).toMatchObject({ changed: 0 })
    await clock.advance(1)
    expect(await sweep()).toMatchObject({ changed: 1 })
    expect(await executionOf(clock.sql, execution)).toMatchObject({
      status: 'failed',
      error_code: 'EXECUTION_LOST',
      attribution: 'system',
      error: expect.stringContaining('prompt 2 of 2'),
      events: [{}, { source: 'sweep', error_stage: 'prompt' }],
    })
    expect(await storeResult(clock.sql, lease, 1, { response: 'late' })).toEqual(stale)
  })

  test('of one that nobody took is a day', async () => {
    const { execution } = await running(clock.sql, ['a'])
    for (let hours = 0; hours < 23; hours++) {
      await clock.advance(3600)
      expect(await sweep()).toMatchObject({ changed: 0 })
    }
    expect(await executionOf(clock.sql, execution)).toMatchObject({ status: 'running', started: false })
    await clock.advance(3600)
    expect(await sweep()).toMatchObject({ changed: 1 })
    expect(await executionOf(clock.sql, execution)).toMatchObject({
      error_code: 'QUEUE_TIMEOUT',
      attribution: 'platform',
      retryable: true,
      started: false,
    })
  })
})

test('of a conversation beyond 400,000 characters the newest whole pairs are shown', async () => {
  const prompts = Array.from({ length: 5 }, (_, n) => `${n}`.repeat(10))
  await running(clock.sql, prompts)
  const first = await claim()
  for (let n = 0; n < 4; n++) await storeResult(clock.sql, first, n, { response: `${n}`.repeat(150_000) })
  await rpc(clock.sql, 'yield_execution', { id: first.id, lease_token: first.lease_token })
  expect((await claim()).conversation.map(({ prompt }) => prompt[0])).toEqual(['2', '3'])
})

test('pruning, forgetting an owner and repairs know executions', async () => {
  const { execution } = await running(clock.sql, ['a'])
  const lease = await claim()
  await end(lease)
  const repaired = await rpc(clock.sql, 'lifecycle.repair', {
    machine: 'flow_execution',
    subject_id: execution.id,
    to_status: 'running',
    reason: 'The agent is back.',
  })
  expect(repaired).toMatchObject({ status: 'running', error: null, version: 3 })
  const again = await claim()
  await storeResult(clock.sql, again, 0, { response: 'A' })
  await clock.advance(91 * 86_400)
  expect(await rpc(clock.sql, 'lifecycle.prune')).toMatchObject({ events: 4 })
  expect(await executionOf(clock.sql, execution)).toMatchObject({ status: 'completed', events: [] })
  expect(await rpc(clock.sql, 'lifecycle.forget_owner', { owner_id: execution.owner_id })).toMatchObject({
    executions: 1,
  })
  expect(await executionOf(clock.sql, execution)).toBeNull()
})

test('a topic is heard by the owner and by operators alone', async () => {
  const { execution } = await running(database.owner, ['a'])
  const heard = (claims: { sub: string; app_metadata?: object }) =>
    database.as('authenticated', claims, async (sql) => {
      await sql`select set_config('realtime.topic', ${`flow_execution:${execution.id}`}, true)`
      const rows =
        await sql`select 1 from realtime.messages where topic = ${`flow_execution:${execution.id}`}`
      return rows.length
    })
  expect(await heard({ sub: execution.owner_id })).toBe(1)
  expect(await heard({ sub: randomUUID() })).toBe(0)
  expect(await heard({ sub: randomUUID(), app_metadata: { rollcall: 'operator' } })).toBe(1)
})

test('a webhook tells of the end, with the execution as lists show it', async () => {
  const owner_id = randomUUID()
  await rpc(clock.sql, 'create_webhook_endpoint', {
    owner_id,
    url: 'https://example.com/hook',
    events: ['flow_execution.completed'],
  })
  const { execution } = await running(clock.sql, ['a'], { owner_id })
  expect(await rpc(clock.sql, 'claim_delivery', { worker: 'w' })).toBeNull()
  await storeResult(clock.sql, await claim(), 0, { response: 'A' })
  const { body } = await rpc<{ body: string }>(clock.sql, 'claim_delivery', { worker: 'w' })
  const { type, data } = JSON.parse(body)
  expect(type).toBe('flow_execution.completed')
  expect(data).toMatchObject({
    event: { machine: 'flow_execution', to_status: 'completed', current_prompt_index: 1 },
    flow_execution: { id: execution.id, status: 'completed', latest_response: 'A' },
  })
  expect(data.flow_execution).not.toHaveProperty('prompts')
})

test('a result that is stored while the one before it is being stored moves the execution on as well', async () => {
  await running(clock.sql, ['a', 'b', 'c'])
  const claimed = await claim()
  let second: Promise<Record<string, unknown>> | undefined
  await clock.sql.begin(async (sql) => {
    await storeResult(sql as never, claimed, 0, { response: 'A' })
    second = storeResult(database.owner, claimed, 1, { response: 'B' })
    await expect
      .poll(
        () =>
          database.superuser`
            select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      )
      .toHaveLength(1)
  })
  expect(await second).toMatchObject({ ok: true, changed: true, current_prompt_index: 2 })
  expect(await executionOf(clock.sql, claimed)).toMatchObject({ status: 'running', current_prompt_index: 2 })
})
