import { onTestFailed, test } from 'vitest'

/** How thorough the faults are: short within `npm test`; FAULTS=long and FAULTS=soak by hand. */
export const form = readForm()

/** Everything random follows from it: FAULTS_SEED, else a new one each time. */
export const seed = Number(process.env.FAULTS_SEED ?? Date.now() % 1_000_000_000)

/** A number for the short form and one for the long form. */
export const sized = (short: number, long: number): number => (form === 'long' ? long : short)

/** A test that prints its seed when it fails. `timeout_s` is that of the short form; the long one may take 30 min. */
export function faultTest(name: string, timeout_s: number, work: () => Promise<void>): void {
  const timeout = sized(timeout_s, 1800) * 1000
  test.skipIf(form === 'soak')(name, { timeout }, async () => {
    onTestFailed(() => console.error(`Again with: FAULTS=${form} FAULTS_SEED=${seed}`))
    await work()
  })
}

function readForm(): 'short' | 'long' | 'soak' {
  const said = process.env.FAULTS || 'short'
  if (said === 'short' || said === 'long' || said === 'soak') return said
  throw new Error(`FAULTS is ${said}: set it to short, long or soak.`)
}
