import { readFileSync } from 'node:fs'

/** One side of a comparison: does its thing once, as the nth client. */
export type Side = (client: number) => Promise<unknown>

/** What one case came to; `ratio` as the case defines it. */
export type Row = {
  what: string
  must: string
  goal: string
  measured: string
  /** Whether `must` was reached; null where there is none. */
  reached: boolean | null
}

export type Comparison = {
  /** The rate of the second side as a share of the first's: the median of the rounds. */
  ratio: number
  /** Per second, medians of the rounds. */
  first: number
  second: number
}

/** Rounds of each comparison; the median of them counts. */
export const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 7)

/** How long a side runs in a round (ms): short, so that noise hits both. */
const SLICE_MS = Number(process.env.BENCH_SLICE_MS ?? 700)

/** Runs two sides in turns, with so many clients each, and compares how often each got done. */
export async function compareRates(clients: number, first: Side, second: Side): Promise<Comparison> {
  // Plans are cached after the fifth execution.
  await Promise.all([
    ...Array.from({ length: clients }, (_, n) => repeat(8, () => first(n))),
    ...Array.from({ length: clients }, (_, n) => repeat(8, () => second(n))),
  ])
  const rates: { first: number; second: number }[] = []
  for (let round = 0; round < ROUNDS; round++) {
    rates.push({ first: await rate(clients, first), second: await rate(clients, second) })
  }
  return {
    ratio: median(rates.map((it) => it.second / it.first)),
    first: median(rates.map((it) => it.first)),
    second: median(rates.map((it) => it.second)),
  }
}

async function repeat(times: number, work: () => Promise<unknown>): Promise<void> {
  for (let i = 0; i < times; i++) await work()
}

async function rate(clients: number, side: Side): Promise<number> {
  let done = 0
  const start = performance.now()
  await Promise.all(
    Array.from({ length: clients }, async (_, n) => {
      while (performance.now() - start < SLICE_MS) {
        await side(n)
        done += 1
      }
    }),
  )
  return (1000 * done) / (performance.now() - start)
}

/** Times each of two sides in turns; medians in ms. */
export async function compareTimes(
  times: number,
  first: () => Promise<unknown>,
  second: () => Promise<unknown>,
): Promise<{ first: number[]; second: number[] }> {
  const result = { first: [] as number[], second: [] as number[] }
  for (let i = 0; i < times; i++) {
    result.first.push(await timed(first))
    result.second.push(await timed(second))
  }
  return result
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

/** The CPU time that a process has used (µs), where the system tells. */
export function cpuOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1000
}

/** A row of the report for a ratio that must not be below `must`. */
export function atLeast(what: string, must: number, goal: number | null, ratio: number, more = ''): Row {
  return {
    what,
    must: must.toFixed(2),
    goal: goal === null ? '' : goal.toFixed(2),
    measured: `${ratio.toFixed(2)}${more === '' ? '' : ` (${more})`}`,
    reached: ratio >= must,
  }
}

/** A row of the report for something that must not be above `must`. */
export function atMost(what: string, must: number, goal: number | null, value: number, more = ''): Row {
  const digits = must >= 100 ? 0 : 2
  return {
    what,
    must: `≤ ${must.toFixed(digits)}`,
    goal: goal === null ? '' : `≤ ${goal.toFixed(digits)}`,
    measured: `${value.toFixed(digits)}${more === '' ? '' : ` (${more})`}`,
    reached: value <= must,
  }
}
