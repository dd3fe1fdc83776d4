import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Throws when a function of the stack in `dir` answered 500: no request of a test may, however bad it is. */
export function expectNoServerErrors(dir: string): void {
  const file = join(dir, 'functions.log')
  if (!existsSync(file)) return
  const errors = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.includes('"request_failed"') && line.includes('"status":500'))
  if (errors.length > 0) throw new Error(`The functions answered 500:\n${errors.slice(0, 5).join('\n')}`)
}
