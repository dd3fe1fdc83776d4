import type { Worker } from 'node:worker_threads'

/**
 * Ends a thread that has computed without a single pause for so many ms. The engine of scripts asks between two steps
 * whether to go on; a script can make one step last for ever, and nothing within its thread can end that. Whoever
 * started the thread sees it exit.
 */
export function endWhenStuck(thread: Worker, longest_ms: number, ended: () => void): void {
  const look = thread.performance.eventLoopUtilization
  let idle = look().idle
  let paused_at = performance.now()
  const timer = setInterval(() => {
    const now = look()
    // Nothing is known of a thread that has not begun.
    if (now.idle !== idle || now.active === 0) {
      idle = now.idle
      paused_at = performance.now()
    } else if (performance.now() - paused_at > longest_ms) {
      clearInterval(timer)
      ended()
      thread.terminate()
    }
  }, longest_ms / 10)
  timer.unref()
  thread.once('exit', () => clearInterval(timer))
}
