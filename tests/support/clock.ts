import type postgres from 'postgres'
import type { TestDatabase } from './database.ts'

/** A session of the schema's owner whose time the test decides. */
export type ClockedSession = {
  sql: postgres.Sql
  /** The pretended time. */
  now(): Date
  /** Moves the time on; seconds. */
  advance(seconds: number): Promise<Date>
}

/** Opens a session whose clock stands still at `start` until it is moved. */
export async function openClock(
  database: TestDatabase,
  start = new Date('2026-03-01T12:00:00Z'),
): Promise<ClockedSession> {
  const sql = database.connect('postgres', { max: 1 })
  let now = start
  const apply = () => sql`select set_config('rollcall.now', ${now.toISOString()}, false)`
  await apply()
  return {
    sql,
    now: () => now,
    async advance(seconds) {
      now = new Date(now.getTime() + seconds * 1000)
      await apply()
      return now
    },
  }
}
