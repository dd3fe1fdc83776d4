import { beforeEach, describe, expect, test } from 'vitest'
import { RollcallError } from '../../src/client/errors.ts'
import { createLive, type Live, type LiveOptions } from '../../src/client/live/live.ts'
import { merge, withProgress } from '../../src/client/live/merge.ts'
import { toRunRow } from '../../src/client/live/run.ts'
import { liveVerdict } from '../../src/client/live/verdict.ts'
import { FakeRuns, ManualClock, no_answer } from '../support/fake_runs.ts'

let clock: ManualClock
let runs: FakeRuns

beforeEach(() => {
  clock = new ManualClock()
  runs = new FakeRuns(clock)
})

/** A list that has read its first page and hears its feed. */
async function started(options: Partial<LiveOptions> = {}): Promise<Live> {
  const live = createLive({ source: runs, clock, random: () => 0.5, ...options })
  live.start()
  await clock.advance(10)
  runs.topics.get('everything')?.ready()
  await clock.advance(1000)
  return live
}

const ids = (live: Live) => live.snapshot().rows.map(({ id }) => id)
const row = (live: Live, id: string) => live.snapshot().rows.find((shown) => shown.id === id)

async function several(n: number): Promise<void> {
  for (let i = 1; i <= n; i++) {
    runs.put(`r${String(i).padStart(2, '0')}`)
    await clock.advance(1000)
  }
}

describe('merge', () => {
  const base = toRunRow({
    id: 'a',
    kind: 'flow',
    name: 'a',
    state: 'running',
    state_since: '',
    version: 2,
    updated_at: '2026-01-01T00:00:02.000000Z',
    created_at: '2026-01-01T00:00:00.000000Z',
    attempt: 1,
    allowed_actions: [],
    progress_done: 2,
    progress_total: 7,
  })
  const ended = { ...base, version: 3, state: 'failed', finished_at: '2026-01-01T00:00:03.000Z' }

  test('the newer version wins, then the newer time', () => {
    expect(merge(base, { ...base, version: 1, state: 'pending' })).toBe(base)
    expect(merge(base, ended)).toBe(ended)
    expect(merge(base, { ...base, updated_at: '2026-01-01T00:00:01.000000Z', name: 'old' })).toBe(base)
    expect(merge(base, { ...base, updated_at: '2026-01-01T00:00:03.000000Z', name: 'new' }).name).toBe('new')
  })

  test('an ended run never goes back, whatever version is claimed', () => {
    expect(merge(ended, { ...base, version: 99 })).toBe(ended)
    expect(merge({ ...base, version: 99 }, ended)).toBe(ended)
  })

  test('a row that says the same is the same object', () => {
    expect(merge(base, { ...base })).toBe(base)
  })

  test('a pushed progress patches the progress, forward only', () => {
    const next = withProgress(base, { version: 2, current_prompt_index: 4, total_prompts: 7 })
    expect(next).toEqual({ ...base, progress_done: 4, progress_label: null })
    expect(withProgress(next, { version: 2, current_prompt_index: 3 })).toBe(next)
    expect(withProgress(next, { version: 1, current_prompt_index: 6 })).toBe(next)
    expect(withProgress(ended, { version: 3, current_prompt_index: 6 })).toBe(ended)
    // A read that is older than the push does not take it back.
    expect(merge(next, base).progress_done).toBe(4)
  })
})

describe('the verdict', () => {
  const fine = { is_paused: false, signed_out: false, reachable: true, hears: true, data_age_ms: 0 }
  test.each([
    [{}, 'live'],
    [{ data_age_ms: null }, 'connecting'],
    [{ data_age_ms: null, reachable: false }, 'offline'],
    [{ hears: false }, 'polling'],
    [{ data_age_ms: 19_999 }, 'live'],
    [{ data_age_ms: 20_000 }, 'polling'],
    [{ data_age_ms: 60_001 }, 'stale'],
    [{ reachable: false }, 'offline'],
    [{ signed_out: true, is_paused: true }, 'signed_out'],
    [{ is_paused: true, reachable: false }, 'paused'],
  ])('%j is %s', (facts, connection) => {
    expect(liveVerdict({ ...fine, ...facts })).toBe(connection)
  })
})

describe('the list', () => {
  test('subscribes, then reads: what changes in between is not missed', async () => {
    runs.put('a')
    const live = createLive({ source: runs, clock })
    live.start()
    expect(runs.topics.has('everything')).toBe(true)
    await clock.advance(0)
    runs.end('a')
    runs.topics.get('everything')?.ready()
    await clock.advance(600)
    expect(row(live, 'a')?.state).toBe('completed')
    expect(live.snapshot().connection).toBe('live')
    live.stop()
  })

  test('a transition patches its row where it is, and replaces no other', async () => {
    await several(5)
    const live = await started()
    const before = live.snapshot().rows
    runs.end('r03', 'failed', { error_code: 'BOT_CRASHED' })
    runs.ring()
    await clock.advance(500)
    const after = live.snapshot().rows
    expect(ids(live)).toEqual(['r05', 'r04', 'r03', 'r02', 'r01'])
    expect(after[2]).toMatchObject({ state: 'failed', error_code: 'BOT_CRASHED' })
    for (const i of [0, 1, 3, 4]) expect(after[i]).toBe(before[i])
    live.stop()
  })

  test('without any hint it is right within 15 s, and without a feed within 5 s', async () => {
    runs.put('a')
    const live = await started()
    runs.end('a')
    await clock.advance(15_000)
    expect(row(live, 'a')?.state).toBe('completed')
    runs.topics.get('everything')?.lost()
    await clock.advance(5000)
    expect(live.snapshot().connection).toBe('polling')
    runs.put('b')
    await clock.advance(5300)
    expect(live.snapshot().new_count).toBe(1)
    live.stop()
  })

  test('hints that pour in are read at most every 500 ms, one read at a time', async () => {
    await several(3)
    const live = await started()
    runs.latency_ms = 120
    runs.most_running = 0
    const before = runs.count('changes')
    for (let i = 0; i < 100; i++) {
      runs.put(`r0${1 + (i % 3)}`, { state: i % 2 ? 'running' : 'starting' })
      runs.ring()
      await clock.advance(50)
    }
    await clock.advance(1000)
    expect(runs.count('changes') - before).toBeLessThanOrEqual(13)
    expect(runs.count('counts')).toBeLessThanOrEqual(5)
    expect(runs.most_running).toBe(1)
    for (const id of ['r01', 'r02', 'r03']) expect(row(live, id)?.version).toBe(runs.rows.get(id)?.version)
    live.stop()
  })

  test('answers that overtake one another take nothing back', async () => {
    runs.put('a')
    const live = await started()
    const old = runs.rows.get('a')
    runs.end('a')
    runs.ring()
    await clock.advance(600)
    runs.rows.set('a', { ...(old as NonNullable<typeof old>) })
    runs.history.push('a')
    runs.ring()
    await clock.advance(600)
    expect(row(live, 'a')?.state).toBe('completed')
    live.stop()
  })

  test('new runs are counted, and come by a click', async () => {
    await several(2)
    const live = await started()
    runs.put('r03')
    runs.put('r04')
    runs.ring()
    await clock.advance(600)
    expect(ids(live)).toEqual(['r02', 'r01'])
    expect(live.snapshot().new_count).toBe(2)
    live.showNew()
    expect(ids(live)).toEqual(['r04', 'r03', 'r02', 'r01'])
    expect(live.snapshot().new_count).toBe(0)
    live.stop()
  })

  test('the first run of an empty list comes by itself', async () => {
    const live = await started()
    runs.put('a')
    runs.ring()
    await clock.advance(600)
    expect(ids(live)).toEqual(['a'])
    live.stop()
  })

  test('following brings new runs, but not while somebody is in the table', async () => {
    await several(1)
    const live = await started()
    live.follow(true)
    runs.put('r02')
    runs.ring()
    await clock.advance(600)
    expect(ids(live)).toEqual(['r02', 'r01'])
    live.setBusy(true)
    runs.put('r03')
    runs.ring()
    await clock.advance(600)
    expect(ids(live)).toEqual(['r02', 'r01'])
    live.setBusy(false)
    expect(ids(live)).toEqual(['r03', 'r02', 'r01'])
    live.stop()
  })

  test('a row that no longer matches stays, dimmed, until a refresh', async () => {
    runs.put('a')
    runs.put('b')
    const live = await started({ filter: { state: 'running' } })
    runs.end('a')
    runs.ring()
    await clock.advance(600)
    expect(row(live, 'a')).toMatchObject({ state: 'completed', matches: false })
    live.refresh()
    expect(ids(live)).toEqual(['b'])
    live.stop()
  })

  test('paused, rows stand still and changes are counted; resumed, all is as the database has it', async () => {
    await several(3)
    const live = await started()
    live.pause()
    runs.end('r01')
    runs.end('r02')
    runs.put('r04')
    runs.ring()
    await clock.advance(1200)
    expect(live.snapshot()).toMatchObject({ connection: 'paused', waiting: 3, new_count: 0 })
    expect(row(live, 'r01')?.state).toBe('running')
    live.resume()
    expect(row(live, 'r01')?.state).toBe('completed')
    expect(live.snapshot()).toMatchObject({ connection: 'live', waiting: 0, new_count: 1 })
    live.stop()
  })

  test('older pages are loaded once at a time, to the end', async () => {
    await several(12)
    const live = await started({ page_size: 5 })
    expect(live.snapshot().has_more).toBe(true)
    runs.latency_ms = 100
    const before = runs.count('list')
    live.loadOlder()
    live.loadOlder()
    expect(live.snapshot().is_loading).toBe('older')
    await clock.advance(150)
    expect(runs.count('list') - before).toBe(1)
    live.loadOlder()
    await clock.advance(150)
    expect(ids(live)).toHaveLength(12)
    expect(live.snapshot()).toMatchObject({ has_more: false, is_loading: null })
    live.stop()
  })

  test('another filter starts anew, and an answer for the former one is dropped', async () => {
    await several(3)
    runs.end('r02')
    const live = await started()
    runs.latency_ms = 300
    live.setFilter({ state: 'completed' })
    await clock.advance(100)
    live.setFilter({ state: 'running' })
    expect(ids(live)).toEqual([])
    await clock.advance(2000)
    expect(ids(live)).toEqual(['r03', 'r01'])
    live.stop()
  })

  test('a change of an older run that was not loaded brings it not', async () => {
    await several(12)
    const live = await started({ page_size: 5 })
    runs.end('r01')
    runs.ring()
    await clock.advance(600)
    expect(live.snapshot()).toMatchObject({ new_count: 0 })
    expect(ids(live)).toHaveLength(5)
    live.stop()
  })

  test('a cursor that ran out loads everything anew', async () => {
    await several(3)
    const live = await started()
    runs.rows.delete('r02')
    runs.reset = true
    runs.ring()
    await clock.advance(600)
    expect(ids(live)).toEqual(['r03', 'r01'])
    live.stop()
  })

  test('keeps so many rows and no more; the oldest can be loaded again', async () => {
    await several(8)
    const live = await started({ page_size: 3, max_rows: 5 })
    live.loadOlder()
    await clock.advance(10)
    expect(ids(live)).toEqual(['r08', 'r07', 'r06', 'r05', 'r04'])
    expect(live.snapshot().has_more).toBe(true)
    live.stop()
  })
})

describe('failures', () => {
  test('back off with 1, 2, 5, 10 and 30 s, and the data stays', async () => {
    await several(2)
    const live = await started()
    runs.failing.set('changes', no_answer)
    runs.ring()
    await clock.advance(600)
    expect(live.snapshot()).toMatchObject({ connection: 'offline', failures: 1 })
    const times = () => runs.calls.filter(({ call }) => call === 'changes').map(({ at }) => at)
    const first = times().at(-1) as number
    await clock.advance(49_000)
    const waits = times().filter((at) => at >= first)
    expect(waits.slice(1).map((at, i) => at - (waits[i] as number))).toEqual([
      1000, 2000, 5000, 10_000, 30_000,
    ])
    expect(ids(live)).toHaveLength(2)
    runs.failing.clear()
    live.refresh()
    await clock.advance(10)
    expect(live.snapshot()).toMatchObject({ connection: 'live', failures: 0, retry_at: null })
    live.stop()
  })

  test('hints do not make a failing project be asked more often', async () => {
    const live = await started()
    runs.failing.set('changes', new RollcallError({ status: 500, code: 'unavailable', message: 'x' }))
    const before = runs.count('changes')
    for (let i = 0; i < 100; i++) {
      runs.ring()
      await clock.advance(100)
    }
    expect(runs.count('changes') - before).toBeLessThanOrEqual(4)
    live.stop()
  })

  test('of one part are of that part alone', async () => {
    await several(2)
    runs.failing.set('counts', new RollcallError({ status: 500, code: 'unavailable', message: 'too slow' }))
    const live = await started()
    expect(live.snapshot().errors.counts?.message).toBe('too slow')
    expect(live.snapshot()).toMatchObject({ connection: 'live', failures: 0 })
    expect(ids(live)).toHaveLength(2)
    runs.failing.clear()
    await clock.advance(61_000)
    expect(live.snapshot().errors.counts).toBeNull()
    live.stop()
  })

  test('a refused filter is not asked for again, and says why', async () => {
    runs.failing.set('list', new RollcallError({ status: 422, code: 'invalid_request', message: 'kind' }))
    const live = await started()
    await clock.advance(30_000)
    expect(runs.count('list')).toBe(1)
    expect(live.snapshot().errors.list?.status).toBe(422)
    live.stop()
  })

  test('signed out, nothing is asked until somebody signs in', async () => {
    await several(1)
    const live = await started()
    runs.failing.set('changes', new RollcallError({ status: 401, code: 'unauthorized', message: 'x' }))
    await clock.advance(15_000)
    expect(live.snapshot().connection).toBe('signed_out')
    const before = runs.calls.length
    await clock.advance(120_000)
    expect(runs.calls.length).toBe(before)
    expect(ids(live)).toHaveLength(1)
    runs.failing.clear()
    runs.end('r01')
    live.signedIn()
    await clock.advance(600)
    expect(row(live, 'r01')?.state).toBe('completed')
    live.stop()
  })

  test('data that can not be renewed grows stale', async () => {
    const live = await started()
    runs.failing.set('changes', new RollcallError({ status: 500, code: 'unavailable', message: 'x' }))
    await clock.advance(25_000)
    expect(live.snapshot().connection).toBe('polling')
    await clock.advance(50_000)
    expect(live.snapshot().connection).toBe('stale')
    live.stop()
  })
})

describe('the page around it', () => {
  test('hidden, nothing is asked; visible again, everything once', async () => {
    await several(1)
    const live = await started()
    live.setHidden(true)
    const before = runs.calls.length
    runs.end('r01')
    for (let i = 0; i < 60; i++) {
      runs.ring()
      await clock.advance(1000)
    }
    expect(runs.calls.length).toBe(before)
    live.setHidden(false)
    await clock.advance(10)
    expect(row(live, 'r01')?.state).toBe('completed')
    expect(runs.calls.slice(before).filter(({ call }) => call === 'changes')).toHaveLength(1)
    live.stop()
  })

  test('after a sleep of ten minutes it reads as soon as it finds out', async () => {
    await several(1)
    const live = await started()
    runs.end('r01')
    await clock.sleep(600_000)
    await clock.advance(5000)
    expect(row(live, 'r01')?.state).toBe('completed')
    live.stop()
  })

  test('idle and visible it makes at most 8 requests a minute', async () => {
    await several(3)
    const live = await started()
    await clock.advance(5000)
    const before = runs.calls.length
    await clock.advance(600_000)
    expect((runs.calls.length - before) / 10).toBeLessThanOrEqual(8)
    live.stop()
  })

  test.each([-600_000, 600_000])('ages are right with a clock that is off by %i ms', async (ahead_ms) => {
    runs.ahead_ms = ahead_ms
    runs.put('a')
    await clock.advance(3000)
    const live = await started()
    const age = live.now() - Date.parse(row(live, 'a')?.state_since ?? '')
    expect(age).toBeGreaterThanOrEqual(3000)
    expect(age).toBeLessThan(6000)
    live.stop()
  })

  test('listeners are told five times a second at most, and last of the last change', async () => {
    await several(1)
    const live = await started()
    const told: number[] = []
    live.subscribe(() => told.push(clock.now()))
    for (let i = 0; i < 100; i++) {
      runs.put('r01')
      runs.ring()
      await clock.advance(20)
    }
    await clock.advance(1000)
    for (const [i, at] of told.slice(1).entries())
      expect(at - (told[i] as number)).toBeGreaterThanOrEqual(200)
    expect(row(live, 'r01')?.version).toBe(runs.rows.get('r01')?.version)
    live.stop()
  })

  test('stopped, it leaves no timer, no topic and no request', async () => {
    await several(2)
    const live = await started()
    live.openRun('r01')
    await clock.advance(100)
    live.stop()
    const before = runs.calls.length
    expect(runs.topics.size).toBe(0)
    expect(clock.timers).toBe(0)
    await clock.advance(60_000)
    expect(runs.calls.length).toBe(before)
  })
})

describe('a run that is open', () => {
  test('has its row, timeline and detail, and hears its own topic', async () => {
    await several(1)
    const live = await started()
    const close = live.openRun('r01')
    expect(live.snapshot().open.get('r01')).toMatchObject({ is_loading: true })
    await clock.advance(10)
    expect(live.snapshot().open.get('r01')).toMatchObject({
      is_loading: false,
      error: null,
      detail: { id: 'r01' },
    })
    runs.end('r01')
    runs.ring('bot:r01', { subject_id: 'r01', event_id: 5 })
    await clock.advance(600)
    expect(live.snapshot().open.get('r01')).toMatchObject({
      row: { state: 'completed' },
      detail: { version: 2 },
    })
    expect(row(live, 'r01')?.state).toBe('completed')
    close()
    expect(live.snapshot().open.size).toBe(0)
    expect(runs.topics.has('bot:r01')).toBe(false)
    live.stop()
  })

  test('that does not exist says so, and is not asked for again', async () => {
    const live = await started({ with_list: false })
    live.openRun('nobody')
    await clock.advance(20_000)
    expect(live.snapshot().open.get('nobody')?.error?.status).toBe(404)
    expect(runs.count('get')).toBe(1)
    live.stop()
  })

  test('is read every few seconds without any list, until it has ended', async () => {
    runs.put('a')
    const live = await started({ with_list: false, reconcile_ms: { hearing: 5000, deaf: 5000 } })
    live.openRun('a')
    await clock.advance(100)
    runs.end('a')
    await clock.advance(5000)
    expect(live.snapshot().open.get('a')?.row?.state).toBe('completed')
    expect(runs.count('list') + runs.count('counts') + runs.count('changes')).toBe(0)
    const before = runs.count('get')
    await clock.advance(30_000)
    expect(runs.count('get')).toBe(before)
    live.stop()
  })

  test('survives failures, and goes on where it was', async () => {
    runs.put('a')
    const live = await started({ with_list: false, reconcile_ms: { hearing: 5000, deaf: 5000 } })
    live.openRun('a')
    await clock.advance(100)
    runs.failing.set('get', no_answer)
    await clock.advance(20_000)
    expect(live.snapshot()).toMatchObject({ connection: 'offline' })
    expect(live.snapshot().open.get('a')?.row?.state).toBe('running')
    runs.failing.clear()
    runs.end('a')
    await clock.advance(40_000)
    expect(live.snapshot().open.get('a')?.row?.state).toBe('completed')
    expect(live.snapshot().failures).toBe(0)
    live.stop()
  })

  test('has failed as often as it was asked for in vain, however often it is asked for', async () => {
    runs.put('a')
    const live = await started({ with_list: false, reconcile_ms: { hearing: 200, deaf: 200 } })
    live.openRun('a')
    await clock.advance(100)
    runs.latency_ms = 150
    runs.failing.set('get', no_answer)
    const failures: number[] = []
    live.subscribe(() => failures.push(live.snapshot().failures))
    for (let i = 0; i < 60; i++) {
      runs.ring('bot:a', { subject_id: 'a', event_id: i })
      await clock.advance(200)
    }
    expect(failures).toEqual(failures.toSorted((a, b) => a - b))
    expect(live.snapshot().failures).toBe(runs.count('get') - 1)
    expect(runs.count('get')).toBeLessThan(8)
    live.stop()
  })

  test('shows a pushed progress before it is read', async () => {
    runs.put('a', { kind: 'flow', progress_done: 1, progress_total: 7 })
    const live = await started()
    live.openRun('a')
    await clock.advance(600)
    runs.ring('flow:a', { subject_id: 'a', current_prompt_index: 3, total_prompts: 7, version: 1 })
    expect(live.snapshot().open.get('a')?.row?.progress_done).toBe(3)
    live.stop()
  })
})
