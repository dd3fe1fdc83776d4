import type { Sql } from 'postgres'
import type { Chaos } from './chaos.ts'

/** A laptop that slept must find its day soon after it wakes (ms). */
const look_every_ms = 60_000

/**
 * Makes the day partitions of realtime.messages now and at each new UTC day; in the realism mode it also loses
 * today's now and then. Returns how to stop.
 * @throws when the database has no platform/realtime.sql.
 */
export async function keepPartitions(
  sql: Sql,
  chaos: Chaos | undefined,
  log: (line: string) => void,
): Promise<() => void> {
  const timers = new Set<NodeJS.Timeout>()
  const maintain = async () => {
    await sql`select _realtime.maintain_partitions()`
  }
  const tryTo = (act: () => Promise<unknown>) => act().catch((error) => log(`partitions: ${String(error)}`))

  let day = today()
  await maintain()
  timers.add(
    setInterval(() => {
      if (today() === day) return
      day = today()
      void tryTo(maintain)
    }, look_every_ms),
  )

  if (chaos && chaos.settings.lose_partition > 0) {
    let is_lost = false
    const dice = setInterval(() => {
      if (is_lost || !chaos.losesPartition()) return
      is_lost = true
      void tryTo(() => sql`select _realtime.lose_partition()`)
      const back = setTimeout(() => {
        timers.delete(back)
        is_lost = false
        void tryTo(maintain)
      }, chaos.settings.partition_ms)
      timers.add(back)
    }, 1000)
    timers.add(dice)
  }

  return () => {
    for (const timer of timers) clearTimeout(timer)
  }
}

function today(): string {
  return new Date().toISOString().slice(0, 10)
}
