import type { Sql } from 'postgres'
import type { Chaos } from './chaos.ts'
import type { Feed } from './feed.ts'
import type { Hub } from './hub.ts'
import type { VerifyToken } from './token.ts'

/** What sockets, channels and the HTTP API share. */
export type Services = {
  sql: Sql
  hub: Hub
  feed: Feed
  verify: VerifyToken
  chaos: Chaos | undefined
  log(line: string): void
}
