import { linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { processIdentity } from './machines/process_identity.ts'
import { StartError } from './start_error.ts'

type Owner = { pid: number; identity: string | null }

/**
 * Makes this process the only stack on a data directory, and returns what gives it up again. The lock of a
 * killed process does not count.
 * @throws StartError while another process has it.
 */
export function takeLock(dir: string): () => void {
  const file = join(dir, 'stack.lock')
  const mine = `${file}.${process.pid}`
  const owner: Owner = { pid: process.pid, identity: processIdentity(process.pid) }
  writeFileSync(mine, JSON.stringify(owner))
  try {
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        // A link, not a write: the lock is there as a whole or not at all.
        linkSync(mine, file)
        return () => rmSync(file, { force: true })
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      }
      const other = lockOwner(dir)
      if (other !== null) {
        throw new StartError(
          `A stack runs on ${dir} already (process ${other}): use it, stop it, or set ROLLCALL_DIR, ROLLCALL_PORT and ROLLCALL_DB_PORT.`,
        )
      }
      rmSync(file, { force: true })
    }
    throw new StartError(`Another stack is starting on ${dir}.`)
  } finally {
    rmSync(mine, { force: true })
  }
}

/** The process id of the stack that runs on a data directory; null when none does. */
export function lockOwner(dir: string): number | null {
  try {
    const { pid, identity } = JSON.parse(readFileSync(join(dir, 'stack.lock'), 'utf8')) as Owner
    return processIdentity(pid) === identity && identity !== null ? pid : null
  } catch {
    return null
  }
}
