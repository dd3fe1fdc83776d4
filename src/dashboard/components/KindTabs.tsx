import type { RunKind } from '../../client/live/run.ts'
import { run_kinds } from '../../client/live/run.ts'
import { kind_names } from '../vocabulary.ts'

/** Which kind of runs is looked at. */
export function KindTabs({ kind, onChange }: { kind: RunKind | null; onChange(kind: RunKind | null): void }) {
  const tab = (value: RunKind | null, words: string) => (
    <button type="button" aria-pressed={kind === value} onClick={() => onChange(value)}>
      {words}
    </button>
  )
  return (
    <fieldset class="tabs">
      <legend class="unseen">Kind</legend>
      {tab(null, 'All')}
      {run_kinds.map((value) => tab(value, kind_names[value].many))}
    </fieldset>
  )
}
