import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { age, ago, clipped, count, duration, progress } from '../../src/dashboard/format.ts'
import { secretProblem } from '../../src/dashboard/keys.ts'
import { runsHash } from '../../src/dashboard/route.ts'
import { everything, readView, toFilter, writeView } from '../../src/dashboard/view.ts'

const source_dir = join(import.meta.dirname, '..', '..', 'src', 'dashboard')

test.each([
  [-5, '0 ms'],
  [0, '0 ms'],
  [820, '820 ms'],
  [999.7, '1.0 s'],
  [8600, '8.6 s'],
  [59_949, '59.9 s'],
  [59_960, '1 m 00 s'],
  [64_000, '1 m 04 s'],
  [7_500_000, '2 h 05 m'],
  [273_600_000, '3 d 4 h'],
])('%d ms are %s', (ms, words) => {
  expect(duration(ms)).toBe(words)
})

test('ages have whole seconds, and are never negative', () => {
  expect([-1, 999, 1000, 61_000].map(age)).toEqual(['0 s', '0 s', '1 s', '1 m 01 s'])
  expect(ago(10_000, 5000)).toBe('now')
  expect(ago(0, 7_200_000)).toBe('2 hours ago')
})

test('numbers are grouped, and a plus says that there are more', () => {
  expect(count(10_000, false)).toBe('10,000+')
})

test('a text is cut between its characters', () => {
  expect(clipped('a👩b', 3)).toBe('a…')
  expect(clipped('short', 10)).toBe('short')
})

test('progress without a total, or with nothing to count, is told apart', () => {
  const run = { progress_done: null, progress_total: null }
  expect(progress(run)).toBeNull()
  expect(progress({ ...run, progress_done: 2 })?.part).toBeNull()
  expect(progress({ ...run, progress_done: 9, progress_total: 7 })?.part).toBe(1)
  expect(progress({ ...run, progress_done: -1, progress_total: 7 })?.text).toBe('0/7')
  expect(progress({ progress_done: 3, progress_total: 7 }, true)?.text).toBe('failed at step 4 of 7')
})

test('every part of a view survives the address', () => {
  const view = {
    ...everything,
    kind: 'bot' as const,
    states: ['failed', 'running'],
    stuck: true,
    stage: 'joining',
    code: 'JOIN_ROOM_TIMEOUT',
    search: 'a b&c',
    window: 'custom' as const,
    since: '2026-11-20T10:00',
    until: '2026-11-21T10:00',
  }
  expect(readView(new URLSearchParams(writeView(view)))).toEqual(view)
  expect(runsHash()).toBe('#/')
})

test('what is stuck is asked for whenever it began', () => {
  const now = Date.parse('2026-11-21T12:00:00Z')
  expect(toFilter(everything, now, [])).toEqual({ since: '2026-11-20T12:00:00.000Z' })
  expect(toFilter({ ...everything, stuck: true }, now, [])).toEqual({ stuck: true })
  expect(toFilter({ ...everything, failed_lately: true }, now, ['failed'])).toEqual({
    state: ['failed'],
    ended_since: '2026-11-21T11:00:00.000Z',
  })
})

test('a secret key is refused with the reason, a publishable one is not', () => {
  const jwt = (claims: object) => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`
  for (const secret of ['sb_secret_abc', ' sb_secret_abc', jwt({ role: 'service_role' })])
    expect(secretProblem(secret)).toContain('secret key')
  for (const fine of ['sb_publishable_abc', jwt({ role: 'anon' }), 'nonsense'])
    expect(secretProblem(fine)).toBeNull()
})

test('every colour of text is readable on both grounds, in light and dark', () => {
  const css = readFileSync(join(source_dir, 'palette.css'), 'utf8')
  const colors = new Map(
    [...css.matchAll(/--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)/g)].map(
      ([, name = '', light = '', dark = '']) => [name, [light, dark]],
    ),
  )
  const texts = ['fg', 'quiet', 'queued', 'working', 'ok', 'bad', 'waiting', 'stuck']
  for (const [index, theme] of ['light', 'dark'].entries()) {
    const of = (name: string) => colors.get(name)?.[index] ?? ''
    for (const text of texts)
      for (const ground of ['bg', 'panel'])
        expect(contrast(of(text), of(ground)), `${theme} ${text} on ${ground}`).toBeGreaterThanOrEqual(4.5)
    for (const solid of ['working', 'bad'])
      expect(contrast(of('on-solid'), of(solid)), `${theme} on ${solid}`).toBeGreaterThanOrEqual(4.5)
    expect(contrast(of('edge'), of('bg')), `${theme} edges`).toBeGreaterThanOrEqual(3)
  }
})

test('nothing of the page makes markup of a text', () => {
  const files = readdirSync(source_dir, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  )
  for (const { parentPath, name } of files)
    expect(readFileSync(join(parentPath, name), 'utf8'), name).not.toMatch(
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|\beval\(|new Function/,
    )
})

/** WCAG 2.2: relative luminance. */
function contrast(a: string, b: string): number {
  const luminance = (hex: string) => {
    const [r = 0, g = 0, blue = 0] = [1, 3, 5].map((at) => {
      const part = Number.parseInt(hex.slice(at, at + 2), 16) / 255
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * blue
  }
  const [high = 0, low = 0] = [luminance(a), luminance(b)].sort((x, y) => y - x)
  return (high + 0.05) / (low + 0.05)
}
