/** How a command ends. Several runs: the worst of them, by `severity`. */
export const exit = {
  completed: 0,
  failed: 1,
  usage: 2,
  not_found: 3,
  auth: 4,
  gave_up: 5,
  stopped: 6,
  timeout: 124,
  interrupted: 130,
} as const

export type ExitCode = (typeof exit)[keyof typeof exit]

const severity: readonly ExitCode[] = [
  exit.completed,
  exit.stopped,
  exit.failed,
  exit.timeout,
  exit.not_found,
  exit.gave_up,
  exit.auth,
  exit.usage,
  exit.interrupted,
]

/** The worst of several ends. */
export function worst(codes: readonly ExitCode[]): ExitCode {
  return codes.reduce<ExitCode>(
    (so_far, code) => (severity.indexOf(code) > severity.indexOf(so_far) ? code : so_far),
    exit.completed,
  )
}

/** What ends a command: a sentence for a person, with its cure, and the code. */
export class CommandError extends Error {
  override name = 'CommandError'
  readonly exit_code: ExitCode
  /** A stable word for machines. */
  readonly code: string
  readonly hint: string | undefined

  constructor(exit_code: ExitCode, code: string, message: string, hint?: string) {
    super(message)
    this.exit_code = exit_code
    this.code = code
    this.hint = hint
  }
}

/** The command was called wrongly. */
export function usageError(message: string, hint?: string): CommandError {
  return new CommandError(exit.usage, 'usage', message, hint)
}
