import type { SupabaseClient } from '@supabase/supabase-js'
import type { Change } from './change.ts'

/**
 * What a push on a run's topic says; on `owner:` topics only `at` is there. With `source` it tells the event whole, and
 * what is absent is null; without it the rest is in the history alone.
 */
export type Hint = {
  subject_id?: string
  machine?: string
  seq?: number
  event_id?: number
  /** How many events the run has with this one, those of all its machines together. */
  version?: number
  from?: string | null
  to?: string
  at?: string
  source?: Change['source'] | null
  reason?: string
  error_stage?: string
  error_code?: string | null
  error_message?: string
  implied?: boolean
  occurred_at?: string
}

export type ChannelEvents = {
  hint(hint: Hint): void
  /** Joined, or joined again: pushes of the time before are lost. */
  joined(): void
  /** The server's feed is ready: pushes arrive from now on. */
  ready(): void
  /** Pushes may be lost from now on; the library joins again by itself. */
  failed(reason: Error | undefined): void
  /** The server closed the channel: it is gone for good. */
  closed(): void
}

/** How long leaving may take (ms): a frozen server does not answer. */
const LEAVE_MS = 2000

/**
 * Joins a private channel; call `identify()` before, for its token. Returns how to leave it.
 * @throws when another part of the app has a channel of this topic.
 */
export function joinChannel(
  supabase: Pick<SupabaseClient, 'getChannels' | 'channel'>,
  topic: string,
  events: ChannelEvents,
): () => Promise<void> {
  if (supabase.getChannels().some((channel) => channel.topic === `realtime:${topic}`)) {
    throw new Error(`This client has a channel ${topic} already: give Rollcall a client of its own.`)
  }
  let leaving = false
  const channel = supabase.channel(topic, {
    config: { private: true, broadcast: { replication_ready: true } },
  })
  channel
    .on('broadcast', { event: '*' }, ({ payload }) => {
      if (!leaving) events.hint(typeof payload === 'object' && payload !== null ? (payload as Hint) : {})
    })
    .on('system', {}, ({ extension, status }: { extension?: string; status?: string }) => {
      if (!leaving && extension === 'system' && status === 'ok') events.ready()
    })
    .subscribe((status, error) => {
      if (leaving) return
      if (status === 'SUBSCRIBED') events.joined()
      else if (status === 'CLOSED') events.closed()
      else events.failed(error)
    })
  return async () => {
    leaving = true
    await channel.unsubscribe(LEAVE_MS)
    channel.teardown()
  }
}

/** Closes the socket at once when no channel is left; the library would keep it for most of a minute. */
export async function hangUp(supabase: Pick<SupabaseClient, 'getChannels' | 'realtime'>): Promise<void> {
  if (supabase.getChannels().length === 0) await supabase.realtime.disconnect()
}
