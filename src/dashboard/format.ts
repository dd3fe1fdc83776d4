const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** `820 ms`, `8.6 s`, `1 m 04 s`, `2 h 05 m`, `3 d 4 h`. Below nothing is nothing: clocks differ. */
export function duration(ms: number): string {
  const all = Math.max(0, ms)
  if (all < 999.5) return `${Math.round(all)} ms`
  if (all < 59_950) return `${(all / SECOND).toFixed(1)} s`
  return whole(all)
}

/** The same without parts of a second, for what ticks. */
export function age(ms: number): string {
  const all = Math.max(0, ms)
  return all < MINUTE ? `${Math.floor(all / SECOND)} s` : whole(all)
}

function whole(ms: number): string {
  const s = Math.floor(ms / SECOND + 0.05)
  const two = (n: number) => String(n).padStart(2, '0')
  if (s < 3600) return `${Math.floor(s / 60)} m ${two(s % 60)} s`
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} m`
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`
}

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' })

/** `12 seconds ago`, `3 hours ago`. What seems to be in the future was just now. */
export function ago(at: number, now: number): string {
  const ms = Math.max(0, now - at)
  if (ms < MINUTE) return relative.format(-Math.floor(ms / SECOND), 'second')
  if (ms < HOUR) return relative.format(-Math.floor(ms / MINUTE), 'minute')
  if (ms < DAY) return relative.format(-Math.floor(ms / HOUR), 'hour')
  return relative.format(-Math.floor(ms / DAY), 'day')
}

const clock = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' })
const exact = new Intl.DateTimeFormat('en-GB', {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  fractionalSecondDigits: 3,
})
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' })
const day_of_year = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' })

/** `14:02:11`, with the day in front if it is not today's; `ms`: with milliseconds. */
export function time(at: number, now: number, ms = false): string {
  const words = (ms ? exact : clock).format(at)
  const date = new Date(at)
  const today = new Date(now)
  if (date.toDateString() === today.toDateString()) return words
  return `${(date.getFullYear() === today.getFullYear() ? day : day_of_year).format(at)}, ${words}`
}

/** Local and UTC, for who hovers. */
export function bothTimes(at: number): string {
  return `${day_of_year.format(at)}, ${exact.format(at)} (${new Date(at).toISOString()})`
}

const numbers = new Intl.NumberFormat('en-US')

/** `10,000`, and `10,000+` where counting ended there. */
export function count(n: number, is_exact = true): string {
  return `${numbers.format(n)}${is_exact ? '' : '+'}`
}

/** `1 run`, `2 runs`. */
export function plural(n: number, one: string, many = `${one}s`, is_exact = true): string {
  return `${count(n, is_exact)} ${n === 1 && is_exact ? one : many}`
}

/** What is enough of an id to tell runs apart. */
export function shortId(id: string): string {
  return id.slice(-8)
}

/** A text of at most so many characters; whole code points. */
export function clipped(text: string, max: number): string {
  if (text.length <= max) return text
  return `${Array.from(text.slice(0, max)).slice(0, -1).join('')}…`
}

/** What a bar of progress shows. `part`: 0 to 1, null while unknown. */
export interface ProgressView {
  part: number | null
  text: string
  /** For who can not see the bar. */
  words: string
}

/** Null where there is nothing to count. `has_failed`: it ended badly, at the step behind those that are done. */
export function progress(
  run: { progress_done: number | null; progress_total: number | null },
  has_failed = false,
): ProgressView | null {
  const { progress_total: total } = run
  if (run.progress_done === null && total === null) return null
  const raw = Math.max(0, run.progress_done ?? 0)
  if (total === null)
    return { part: null, text: `${raw}/?`, words: `${plural(raw, 'step')} done, of how many is not known` }
  if (total <= 0) return { part: 0, text: 'no steps', words: 'no steps' }
  const done = Math.min(raw, total)
  const text = has_failed && done < total ? `failed at step ${done + 1} of ${total}` : `${done}/${total}`
  return {
    part: done / total,
    text,
    words: has_failed && done < total ? text : `${done} of ${total} steps done`,
  }
}
