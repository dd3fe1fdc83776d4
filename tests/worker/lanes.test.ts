import { expect, test } from 'vitest'
import { workUntil } from '../../src/worker/lanes.ts'

const start = 1_000_000
const after = (seconds: number) => start + seconds * 1000

test('an isolate works until its time after its start, whenever it is asked', () => {
  for (const age of [0, 60, 139, 141, 150, 160]) expect(workUntil(start, 140, after(age))).toBe(after(140))
})

test('one that is still asked long after has no limit, so each request has the time for itself', () => {
  expect(workUntil(start, 140, after(161))).toBe(after(161 + 140))
  expect(workUntil(start, 140, after(86_400))).toBe(after(86_400 + 140))
})
