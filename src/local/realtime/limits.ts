/** Numbers of the hosted service that a client can run into. */
export const limits = {
  /** Channels of one socket. */
  channels: 100,
  /** track and untrack calls of one channel within the window (ms). */
  presence_calls: 5,
  presence_window_ms: 30_000,
  /** Bytes of one message's payload. */
  payload_bytes: 3_000_500,
  /** Bytes of one WebSocket frame. */
  frame_bytes: 5_000_000,
  /** A socket that says nothing, not even a heartbeat, is closed after this. */
  idle_ms: 60_000,
  /** Tokens are looked at again at least this often (ms). */
  token_check_ms: 300_000,
  /** How long a channel waits for the replication feed that it asked for (ms). */
  replication_ready_ms: 60_000,
  /** Messages of one replay. */
  replay_messages: 25,
} as const
