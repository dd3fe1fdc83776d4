import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { StackFile } from '../../src/local/stack.ts'

const root = join(import.meta.dirname, '..', '..')

export type Run = {
  /** What it printed so far, both streams. */
  output(): string
  errors(): string
  child: ChildProcess
  /** Resolves with the exit code when the process and its streams are through. */
  ended: Promise<number | null>
}

export type RunOptions = {
  dir: string
  flags?: string[]
  env?: Record<string, string>
  /** Runs as another user of the machine (the test must run as root). */
  uid?: number
}

/** A data directory to be, with blanks and umlauts in its path. */
export function dataDirectory(): string {
  return join(mkdtempSync(join(tmpdir(), 'rollcall-process-')), 'my dätä')
}

/** `npm start -- --no-bot`, on free ports unless `env` names some. */
export function runStart(options: RunOptions): Run {
  return run([join(root, 'src', 'local', 'start.ts'), '--no-bot', ...(options.flags ?? [])], options)
}

/** `npm run env` */
export function runEnv(options: RunOptions): Run {
  return run([join(root, 'src', 'local', 'env.ts')], options)
}

function run(args: string[], options: RunOptions): Run {
  const child = spawn(process.execPath, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      ROLLCALL_DIR: options.dir,
      ROLLCALL_PORT: '0',
      ROLLCALL_DB_PORT: '0',
      ...options.env,
    },
    ...(options.uid !== undefined && { uid: options.uid, gid: options.uid }),
  })
  let output = ''
  let errors = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text
  })
  child.stderr.setEncoding('utf8').on('data', (text) => {
    output += text
    errors += text
  })
  const ended = new Promise<number | null>((done) => child.once('close', done))
  return { child, ended, output: () => output, errors: () => errors }
}

/** What stack.json says, once it is there; fails when the process ends before. */
export async function running(start: Run, dir: string): Promise<StackFile> {
  const file = join(dir, 'stack.json')
  for (;;) {
    if (start.child.exitCode !== null || start.child.signalCode !== null) throw new Error(start.output())
    if (existsSync(file)) {
      const found = JSON.parse(readFileSync(file, 'utf8')) as StackFile
      if (found.pid === start.child.pid) return found
    }
    await delay(25)
  }
}

/** The command lines of processes that name a data directory. */
export function processesOf(dir: string): string[] {
  if (process.platform !== 'linux') {
    const lines = execFileSync('ps', ['-axww', '-o', 'command='], { encoding: 'utf8' }).split('\n')
    return lines.filter((line) => line.includes(dir))
  }
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
      } catch {
        return ''
      }
    })
    .filter((line) => line.includes(dir))
}

/** Ends what a test left, and its files. */
export async function cleanUp(starts: Run[], dirs: string[]): Promise<void> {
  for (const { child } of starts) if (child.exitCode === null) child.kill('SIGTERM')
  await Promise.all(starts.map((start) => start.ended))
  for (const dir of dirs) rmSync(join(dir, '..'), { recursive: true, force: true })
}
