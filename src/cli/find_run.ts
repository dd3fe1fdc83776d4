import type { ProjectSource } from '../client/live/project_source.ts'
import type { RunKind, RunRow } from '../client/live/run.ts'
import { CommandError, exit, usageError } from './exit_codes.ts'
import { shortId } from './format.ts'
import { clean } from './text.ts'

/**
 * The one run whose id is, begins or ends with these at least 6 characters.
 * @throws CommandError 3 when there is none, or more than one; it lists those.
 */
export async function findRun(
  source: ProjectSource,
  word: string,
  kinds: readonly RunKind[] | undefined,
  signal: AbortSignal,
): Promise<RunRow> {
  const id = word.trim().toLowerCase()
  if (!/^[0-9a-f-]{6,36}$/.test(id) || !/[0-9a-f]{6}/.test(id)) {
    throw usageError(
      `"${clean(word)}" is no id.`,
      'Give at least 6 of its first or last characters: rollcall ls shows them.',
    )
  }
  const { items } = await source.list({ search: id, ...(kinds && { kind: kinds }) }, null, 20, signal)
  // The search also finds names that begin like this.
  const found = items.filter((run) => run.id.startsWith(id) || run.id.endsWith(id))
  const exact = found.find((run) => run.id === id)
  const [only, ...others] = exact ? [exact] : found
  if (!only) {
    throw new CommandError(
      exit.not_found,
      'run_not_found',
      `There is no run ${id}.`,
      'It may have been purged, or it belongs to somebody else.',
    )
  }
  if (others.length > 0) {
    const candidates = found.map((run) => `  ${run.id}  ${run.kind}  ${run.state}  ${clean(run.name)}`)
    throw new CommandError(
      exit.not_found,
      'ambiguous_id',
      `${id} may be any of:\n${candidates.join('\n')}`,
      `Give more of it, such as ${only.id.slice(0, 13)} or ${shortId(only.id)}.`,
    )
  }
  return only
}
