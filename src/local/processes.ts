import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

/** True while a process with this id runs and its command line holds `mark` (ids are used again). */
export function isAlive(pid: number, mark: string): boolean {
  return Number.isInteger(pid) && pid > 1 && commandLine(pid).includes(mark)
}

/** The command line of a process, words separated by spaces; empty when there is no such process. */
export function commandLine(pid: number): string {
  try {
    if (process.platform === 'linux')
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
    if (process.platform === 'win32') {
      const ask = `(Get-CimInstance Win32_Process -Filter "ProcessId=${pid}").CommandLine`
      return execFileSync('powershell', ['-NoProfile', '-Command', ask], { encoding: 'utf8' }).trim()
    }
    return execFileSync('ps', ['-ww', '-o', 'command=', '-p', String(pid)], { encoding: 'utf8' }).trim()
  } catch {
    return ''
  }
}

/** Asks a process to end with `signal` and kills it when it still runs after `patience_ms`. */
export async function stopProcess(pid: number, signal: NodeJS.Signals, patience_ms: number): Promise<void> {
  // By the command line, not by `kill 0`: a child of a killed parent may stay as a zombie that nobody reaps.
  const gone = async (ms: number) => {
    for (const until = Date.now() + ms; Date.now() < until; await delay(25))
      if (commandLine(pid) === '') return true
    return false
  }
  for (const [name, ms] of [[signal, patience_ms] as const, ['SIGKILL', 1000] as const]) {
    try {
      process.kill(pid, name)
    } catch {
      return
    }
    if (await gone(ms)) return
  }
}
