import { type Connection, verdict } from '../connection.ts'

/**
 * What a page knows of its data.
 * - `connecting`: nothing was read yet.
 * - `paused`: rows stand still because somebody said so.
 * - the rest as `watch()` has it, only that a page counts as `live` while its data is younger than 20 s, and as
 *   `stale` from a minute on.
 */
export type LiveConnection = Connection | 'connecting' | 'paused'

export interface LiveFacts {
  is_paused: boolean
  signed_out: boolean
  /** Neither the browser nor the last read says that there is no network. */
  reachable: boolean
  /** The feed is ready. */
  hears: boolean
  /** Time since the last reconcile that succeeded (ms); null before the first. */
  data_age_ms: number | null
}

/** Data older than this is not live, whatever the feed says (ms). */
export const LIVE_FOR_MS = 20_000

/** Data older than this is stale (ms). */
export const STALE_AFTER_MS = 60_000

/** The one verdict on what is shown. */
export function liveVerdict({
  is_paused,
  signed_out,
  reachable,
  hears,
  data_age_ms,
}: LiveFacts): LiveConnection {
  if (is_paused && !signed_out) return 'paused'
  if (data_age_ms === null && reachable && !signed_out) return 'connecting'
  const age = data_age_ms ?? Number.POSITIVE_INFINITY
  const read_age_ms = age > STALE_AFTER_MS ? Number.POSITIVE_INFINITY : age
  return verdict({ signed_out, reachable, hears: hears && age < LIVE_FOR_MS, read_age_ms })
}
