import { Cron } from 'croner'

export type Schedule = { interval: string } | { cron: string }

const UNIT_MS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** The length of an interval such as `5m`, in ms; null for anything else. */
export function intervalMs(interval: string): number | null {
  const [, count, unit] = /^(\d+)([smhd])$/.exec(interval) ?? []
  const ms = Number(count) * UNIT_MS[unit as keyof typeof UNIT_MS]
  return ms > 0 && ms <= 366 * UNIT_MS.d ? ms : null
}

/** What is wrong with a cron expression; null for nothing. */
export function cronProblem(cron: string, time_zone = 'UTC'): string | null {
  // The library takes dates and years as well, and those end.
  const fields = cron.trim().split(/\s+/).length
  if (fields !== 5 && fields !== 6 && !cron.startsWith('@')) return 'has five fields, or six with seconds.'
  try {
    const next = new Cron(cron, { timezone: time_zone, paused: true }).nextRun()
    return next === null ? 'never comes.' : null
  } catch (error) {
    return `is no cron expression: ${(error as Error).message}`
  }
}

/** When a producer runs next after a time: an interval from then, or the next minute of the cron in an IANA time zone. Throws for a schedule that never comes. */
export function nextRun(schedule: Schedule, time_zone: string, after: Date): Date {
  if ('interval' in schedule) {
    const ms = intervalMs(schedule.interval)
    if (ms === null) throw new Error(`${schedule.interval} is no interval.`)
    return new Date(after.getTime() + ms)
  }
  const next = new Cron(schedule.cron, { timezone: time_zone, paused: true }).nextRun(after)
  if (next === null) throw new Error(`${schedule.cron} never comes.`)
  return next
}
