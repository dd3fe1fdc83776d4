/**
 * What a client knows of its link.
 * - `live`: changes are pushed and reads succeed.
 * - `polling`: there is no channel at the moment; changes are read every few seconds.
 * - `stale`: no read has succeeded for more than a minute.
 * - `offline`: there is no network, or the project does not answer.
 * - `signed_out`: nobody is signed in; watches go on after signing in again.
 */
export type Connection = 'live' | 'polling' | 'stale' | 'offline' | 'signed_out'

export type LinkFacts = {
  signed_out: boolean
  /** Neither the browser nor the last read says that there is no network. */
  reachable: boolean
  /** The channel is joined, its feed is ready, and what was there before was read. */
  hears: boolean
  /** Time since the last read that succeeded (ms). */
  read_age_ms: number
}

/** Data older than this is stale (ms): a minute, and what the read at its end may take. */
export const STALE_AFTER_MS = 65_000

/** The one verdict on a link. */
export function verdict({ signed_out, reachable, hears, read_age_ms }: LinkFacts): Connection {
  if (signed_out) return 'signed_out'
  if (!reachable) return 'offline'
  if (read_age_ms > STALE_AFTER_MS) return 'stale'
  return hears ? 'live' : 'polling'
}
