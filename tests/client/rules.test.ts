import { describe, expect, test } from 'vitest'
import { backoff, channel_steps_ms } from '../../src/client/backoff.ts'
import { type LinkFacts, verdict } from '../../src/client/connection.ts'
import { Pace } from '../../src/client/pace.ts'
import { reconcileAfter } from '../../src/client/reconcile.ts'
import { Stream } from '../../src/client/stream.ts'

describe('the pace of reads', () => {
  test('lets one begin at once after a quiet time, and the next 500 ms later', () => {
    const pace = new Pace()
    expect(pace.next(10_000)).toBe(10_000)
    pace.started(10_000)
    pace.spend(10_000)
    expect(pace.next(10_010)).toBe(10_500)
    expect(pace.next(10_010, true)).toBe(10_010)
    expect(pace.next(12_000)).toBe(12_000)
  })

  test('stays under two requests a second, however much is asked for', () => {
    const pace = new Pace()
    let now = 0
    let requests = 0
    while (now < 60_000) {
      now = pace.next(now, requests % 3 === 0)
      pace.started(now)
      // Some reads need more than one request.
      for (let i = 0; i <= requests % 7; i++) pace.spend(now)
      requests += 1 + (requests % 7)
      now += 5
    }
    expect(requests / (now / 1000)).toBeLessThan(2)
    expect(requests / (now / 1000)).toBeGreaterThan(1.4)
  })
})

test('a reconcile comes soon after news, every 15 s, every minute where hints arrive, every 5 s without a channel', () => {
  const quiet = { hears: true, hints_arrive: false, found: false }
  expect(reconcileAfter(quiet)).toBe(15_000)
  expect(reconcileAfter({ ...quiet, hints_arrive: true })).toBe(60_000)
  expect(reconcileAfter({ ...quiet, hears: false, hints_arrive: true })).toBe(5000)
  expect(reconcileAfter({ ...quiet, found: true })).toBe(1000)
})

test('a backoff grows to its last step and is never twice the same', () => {
  expect(backoff(1, channel_steps_ms, () => 0.5)).toBe(500)
  expect(backoff(99, channel_steps_ms, () => 0.5)).toBe(30_000)
  expect(backoff(1, channel_steps_ms, () => 0)).toBe(350)
  expect(backoff(1, channel_steps_ms, () => 1)).toBeCloseTo(650)
})

test.each<[Partial<LinkFacts>, string]>([
  [{}, 'live'],
  [{ hears: false }, 'polling'],
  [{ read_age_ms: 70_000 }, 'stale'],
  [{ read_age_ms: 70_000, reachable: false }, 'offline'],
  [{ reachable: false }, 'offline'],
  [{ reachable: false, signed_out: true }, 'signed_out'],
])('a link with %o is %s', (facts, state) => {
  expect(verdict({ signed_out: false, reachable: true, hears: true, read_age_ms: 0, ...facts })).toBe(state)
})

describe('a stream', () => {
  test('starts with its first reader and stops when that one leaves, also while it waits', async () => {
    const calls: string[] = []
    const stream = new Stream<number>((self) => {
      calls.push('start')
      self.push(1)
      return () => calls.push('stop')
    })
    expect(calls).toEqual([])
    expect(await stream.next()).toEqual({ done: false, value: 1 })
    const waiting = stream.next()
    await stream.return()
    expect(await waiting).toEqual({ done: true, value: undefined })
    expect(calls).toEqual(['start', 'stop'])
    stream.push(2)
    expect(await stream.next()).toEqual({ done: true, value: undefined })
  })

  test('that fails is read to where it failed', async () => {
    const stream = new Stream<number>((self) => {
      self.push(1)
      self.fail(new Error('broken'))
      return () => {}
    })
    expect((await stream.next()).value).toBe(1)
    await expect(stream.next()).rejects.toThrow('broken')
    expect((await stream.next()).done).toBe(true)
  })

  test('stops what ends while it starts', async () => {
    let stopped = 0
    const stream = new Stream<number>((self) => {
      self.end()
      return () => {
        stopped += 1
      }
    })
    expect((await stream.next()).done).toBe(true)
    expect(stopped).toBe(1)
  })
})
