export type ReconcileFacts = {
  /** The channel is joined and its feed is ready. */
  hears: boolean
  /** The last thing that was found new had been announced by a hint. */
  hints_arrive: boolean
  /** The last read found something: more tends to follow, and its hint may be held back. */
  found: boolean
}

/** How long after a read the next one comes if nothing asks for one (ms). */
export function reconcileAfter({ hears, hints_arrive, found }: ReconcileFacts): number {
  if (found) return 1000
  if (!hears) return 5000
  return hints_arrive ? 60_000 : 15_000
}

/** When a read that is older than its hint is repeated (ms); then the reconcile sees to it. */
export const repeat_steps_ms = [50, 200, 800] as const
