import { randomUUID } from 'node:crypto'

/** What a client asks for when it joins. */
export type JoinConfig = {
  is_private: boolean
  ack: boolean
  self: boolean
  replication_ready: boolean
  /** As it came; undefined when not asked for. */
  replay: unknown
  presence_enabled: boolean
  presence_key: string
  postgres_changes: Record<string, unknown>[]
}

/** Reads the `config` of a join. What can not be read has its default, as on hosted. */
export function parseJoinConfig(payload: Record<string, unknown>): JoinConfig {
  const config = objectOf(payload.config)
  const broadcast = objectOf(config.broadcast)
  const presence = objectOf(config.presence)
  const { key } = presence
  const changes = Array.isArray(config.postgres_changes) ? config.postgres_changes : []
  return {
    is_private: booleanOf(config.private),
    ack: booleanOf(broadcast.ack),
    self: booleanOf(broadcast.self),
    replication_ready: Boolean(broadcast.replication_ready),
    replay: broadcast.replay ?? undefined,
    presence_enabled: booleanOf(presence.enabled),
    presence_key: key === undefined || key === null || key === '' ? randomUUID() : String(key),
    postgres_changes: changes.filter((change) => typeof change === 'object' && change !== null),
  }
}

function objectOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {}
}

function booleanOf(value: unknown): boolean {
  return value === true || (typeof value === 'string' && value.toLowerCase() === 'true')
}
