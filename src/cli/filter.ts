import type { ParseArgsOptionsConfig } from 'node:util'
import { type RunKind, type RunsFilter, run_kinds } from '../client/live/run.ts'
import { listOf, spanOf, textOf, type Values } from './context.ts'
import { usageError } from './exit_codes.ts'

/** Options of commands that list. */
export const filter_options = {
  kind: { type: 'string', multiple: true },
  state: { type: 'string', multiple: true },
  stuck: { type: 'boolean' },
  code: { type: 'string' },
  stage: { type: 'string' },
  since: { type: 'string' },
  search: { type: 'string' },
} as const satisfies ParseArgsOptionsConfig

/** The filter that the options say. `--since 24h` counts back from now. */
export function filterOf(values: Values, now = Date.now()): RunsFilter {
  const kinds = kindsOf(values)
  const states = listOf(values, 'state')
  const since_ms = spanOf(values, 'since')
  const code = textOf(values, 'code')
  const stage = textOf(values, 'stage')
  const search = textOf(values, 'search')
  return {
    ...(kinds && { kind: kinds }),
    ...(states && { state: states }),
    ...(values.stuck === true && { stuck: true }),
    ...(code && { code }),
    ...(stage && { stage }),
    ...(search && { search }),
    ...(since_ms !== undefined && { since: new Date(now - since_ms).toISOString() }),
  }
}

export function kindsOf(values: Values): RunKind[] | undefined {
  const words = listOf(values, 'kind')
  const strange = words?.find((word) => !(run_kinds as readonly string[]).includes(word))
  if (strange !== undefined) throw usageError(`--kind is ${run_kinds.join(', ')}, not "${strange}".`)
  return words as RunKind[] | undefined
}
