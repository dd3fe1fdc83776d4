import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'

const main = join(import.meta.dirname, '../../src/cli/main.ts')

export interface Finished {
  code: number | null
  stdout: string
  stderr: string
}

export interface Started {
  child: ChildProcess
  /** What it has printed so far. */
  readonly stdout: string
  readonly stderr: string
  finished: Promise<Finished>
}

/** A shell's words for the command, for pipes and terminals. */
export function shellCommand(args: readonly string[]): string {
  return [process.execPath, main, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ')
}

/** Starts the command with these variables and no others that it reads. */
export function startCommand(args: readonly string[], env: Record<string, string> = {}): Started {
  return started(
    spawn(process.execPath, [main, ...args], { env: bare(env), stdio: ['ignore', 'pipe', 'pipe'] }),
  )
}

/** Starts a line of a shell. */
export function startShell(line: string, env: Record<string, string> = {}): Started {
  return started(spawn('bash', ['-c', line], { env: bare(env), stdio: ['ignore', 'pipe', 'pipe'] }))
}

/** Runs a line of a shell in a terminal of this size; what it prints comes on stdout. `typed`: a shell's words that type. */
export function startInTerminal(
  line: string,
  { cols, rows }: { cols: number; rows: number },
  env: Record<string, string> = {},
  typed?: string,
): Started {
  return startShell(
    `${typed ? `(${typed}) | ` : ''}script -qec ${quoted(`stty cols ${cols} rows ${rows}; ${line}`)} /dev/null`,
    {
      TERM: 'xterm-256color',
      ...env,
    },
  )
}

export async function runCommand(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Finished> {
  return startCommand(args, env).finished
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

function bare(env: Record<string, string>): Record<string, string> {
  return { PATH: process.env.PATH ?? '', HOME: '/nonexistent', ...env }
}

function started(child: ChildProcess): Started {
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (data) => {
    stdout += data
  })
  child.stderr?.on('data', (data) => {
    stderr += data
  })
  const finished = new Promise<Finished>((done) => {
    child.on('close', (code) => done({ code, stdout, stderr }))
  })
  return {
    child,
    finished,
    get stdout() {
      return stdout
    },
    get stderr() {
      return stderr
    },
  }
}
