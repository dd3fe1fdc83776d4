/** A duration as people read it: `820 ms`, `8.6 s`, `1 m 04 s`, `2 h 05 m`, `3 d 4 h`. Negative ones are 0. */
export function duration(ms: number): string {
  const whole = Math.max(0, ms)
  if (whole < 1000) return `${Math.round(whole)} ms`
  if (whole < 59_950) return `${(whole / 1000).toFixed(1)} s`
  const seconds = Math.round(whole / 1000)
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${two(seconds % 60)} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} m`
  const hours = Math.floor(minutes / 60)
  return `${Math.floor(hours / 24)} d ${hours % 24} h`
}

/** A duration that ticks once a second: whole seconds below a minute. */
export function ticking(ms: number): string {
  return ms < 59_950 ? `${Math.floor(Math.max(0, ms) / 1000)} s` : duration(ms)
}

/** The last eight characters of an id, by which people know it. */
export function shortId(id: string): string {
  return id.slice(-8)
}

/** A span as options have it, `500ms`, `10s`, `30m`, `24h`, `7d`, in ms; undefined for anything else. */
export function parseSpan(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text.trim())
  if (!match) return undefined
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] as 'ms']
  return Number(match[1]) * unit
}

function two(n: number): string {
  return String(n).padStart(2, '0')
}
