import { hasEnded, type RunRow } from '../client/live/run.ts'
import { type ExitCode, exit } from './exit_codes.ts'

/** How a run that has ended ends the command that watched it. */
export function outcomeOf(run: RunRow): ExitCode {
  if (run.error_code === 'STOPPED_BEFORE_JOIN' || run.error_code === 'CANCELLED') return exit.stopped
  if (run.state === 'completed' || run.state === 'committed') {
    return run.kind === 'bot' && run.reason === 'stopped' ? exit.stopped : exit.completed
  }
  return hasEnded(run) ? exit.failed : exit.completed
}
