import { Worker } from 'node:worker_threads'
import { afterEach, expect, test } from 'vitest'
import { endWhenStuck } from '../../src/worker/stuck_thread.ts'

const threads: Worker[] = []
afterEach(async () => {
  await Promise.all(threads.splice(0).map((thread) => thread.terminate()))
})

/** What becomes of a thread with this code. */
function watched(code: string, longest_ms: number) {
  const thread = new Worker(`${code}`, { eval: true })
  threads.push(thread)
  const state = { is_stuck: false, has_exited: false }
  thread.once('exit', () => {
    state.has_exited = true
  })
  endWhenStuck(thread, longest_ms, () => {
    state.is_stuck = true
  })
  return state
}

test('a thread in a step without an end is ended', async () => {
  const state = watched('setTimeout(() => { for (;;) {} }, 20)', 300)
  await expect.poll(() => state.has_exited, { timeout: 20_000 }).toBe(true)
  expect(state.is_stuck).toBe(true)
})

test('a thread that computes much, and pauses, goes on until it is done', async () => {
  const busy = 'const until = Date.now() + 150; while (Date.now() < until) {}'
  const state = watched(
    `let left = 12; const go = () => { ${busy} if (left-- > 0) setTimeout(go, 5) }; setTimeout(go, 5)`,
    1_000,
  )
  await expect.poll(() => state.has_exited, { timeout: 20_000 }).toBe(true)
  expect(state.is_stuck).toBe(false)
})
