import type { ParseArgsOptionsConfig } from 'node:util'
import { RollcallError } from '../client/errors.ts'
import type { ProjectSource } from '../client/live/project_source.ts'
import { CommandError, type ExitCode, exit, usageError } from './exit_codes.ts'
import { parseSpan } from './format.ts'
import type { Style } from './style.ts'
import type { Terminal } from './terminal.ts'
import { escapeControls } from './text.ts'

/** Options of every command. */
export const common_options = {
  url: { type: 'string' },
  key: { type: 'string' },
  token: { type: 'string' },
  owner: { type: 'string' },
  color: { type: 'string' },
  ascii: { type: 'boolean' },
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
} as const satisfies ParseArgsOptionsConfig

export type Values = Record<string, string | boolean | undefined | (string | boolean)[]>

/** What a command has: what was asked, where it prints, and the project. */
export interface Context {
  values: Values
  positionals: readonly string[]
  terminal: Terminal
  style: Style
  is_json: boolean
  /** Made at the first use: some commands need no project. */
  source(options?: { polling?: boolean }): ProjectSource
  /** Aborted by Ctrl-C. */
  signal: AbortSignal
  cwd: string
}

export interface Command {
  /** Lines of usage. */
  usage: string
  options: ParseArgsOptionsConfig
  run(context: Context): Promise<ExitCode>
}

/** A line of data. */
export function print({ terminal }: Pick<Context, 'terminal'>, line: string): void {
  terminal.stdout.write(`${line}\n`)
}

/** A line of talk. */
export function say({ terminal }: Pick<Context, 'terminal'>, line: string): void {
  terminal.stderr.write(`${line}\n`)
}

/** JSON that a terminal may have: what moves cursors or turns text around is escaped. */
export function safeJson(value: unknown, space?: number): string {
  return escapeControls(JSON.stringify(value, null, space))
}

/** One event of --json: `{ type, v: 1, at, ... }`. */
export function emit(
  context: Pick<Context, 'terminal'>,
  type: 'snapshot' | 'transition' | 'progress' | 'connection' | 'result',
  fields: Record<string, unknown>,
): void {
  print(context, safeJson({ type, v: 1, at: new Date().toISOString(), ...fields }))
}

/** The value of an option that has one. */
export function textOf(values: Values, name: string): string | undefined {
  const value = values[name]
  return typeof value === 'string' ? value : undefined
}

/** The values of an option that may be repeated, or be a list with commas. */
export function listOf(values: Values, name: string): string[] | undefined {
  const value = values[name]
  if (value === undefined || typeof value === 'boolean') return undefined
  const words = [value]
    .flat()
    .flatMap((text) => String(text).split(','))
    .map((word) => word.trim())
    .filter((word) => word !== '')
  return words.length > 0 ? words : undefined
}

/** A span such as 30m, in ms. */
export function spanOf(values: Values, name: string): number | undefined {
  const text = textOf(values, name)
  if (text === undefined) return undefined
  const ms = parseSpan(text)
  if (ms === undefined || ms <= 0)
    throw usageError(`--${name} is a span such as 500ms, 10s, 30m, 24h or 7d, not "${text}".`)
  return ms
}

/** What a failed call means for the command. */
export function toCommandError(error: unknown): CommandError {
  if (error instanceof CommandError) return error
  if (error instanceof RollcallError) {
    const code =
      error.status === 401 || error.status === 403
        ? exit.auth
        : error.status === 404
          ? exit.not_found
          : error.status === 422 || error.status === 400
            ? exit.usage
            : error.status === 0 || error.status === 429 || error.status >= 500
              ? exit.gave_up
              : exit.failed
    // A project without Rollcall answers 404 to its functions.
    return new CommandError(
      code,
      error.code,
      error.message,
      error.hint === error.message ? undefined : error.hint,
    )
  }
  return new CommandError(
    exit.failed,
    'internal_error',
    error instanceof Error ? error.message : String(error),
  )
}
