import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

/**
 * What tells a process from a later one with the same pid: when it started. Null when no such process
 * runs (or has ended and only waits to be reaped), or when this system can not tell.
 */
export function processIdentity(pid: number): string | null {
  try {
    if (process.platform === 'linux') return linuxIdentity(pid)
    if (process.platform === 'win32') {
      const query = `(Get-Process -Id ${pid}).StartTime.ToFileTimeUtc()`
      return run('powershell', ['-NoProfile', '-Command', query])
    }
    return run('ps', ['-o', 'lstart=', '-p', String(pid)])
  } catch {
    return null
  }
}

function linuxIdentity(pid: number): string | null {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The command's name may hold blanks and brackets: fields are counted after its last bracket.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  if (fields[0] === 'Z' || fields[0] === 'X') return null
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  return `${boot}:${fields[19]}`
}

function run(command: string, args: string[]): string | null {
  const output = execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  return output === '' ? null : output
}

/** Sends SIGKILL to a process and all that it started. True if there was anything to kill. */
export function killTree(pid: number): boolean {
  try {
    // Machines lead a process group of their own (spawned detached), except where there are no groups.
    process.kill(process.platform === 'win32' ? pid : -pid, 'SIGKILL')
    return true
  } catch {
    return false
  }
}
