/**
 * How long to wait after the n-th failure in a row (1, 2, ...), in ms: the steps of the list, then its last one, with
 * up to 30 % taken off or added, so that clients do not come back all at once.
 */
export function backoff(failures: number, steps_ms: readonly number[], random = Math.random): number {
  const step = steps_ms[Math.min(failures, steps_ms.length) - 1] ?? 0
  return step * (0.7 + random() * 0.6)
}

/** After reads that failed. */
export const read_steps_ms = [1000, 2000, 5000, 10_000, 30_000] as const

/** After channels that were closed. */
export const channel_steps_ms = [500, 1000, 2000, 5000, 10_000, 30_000] as const
