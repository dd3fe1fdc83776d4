import type { RunKind, RunsCounts } from '../client/live/run.ts'
import { statesOf, type Tone, tone_names, toneOfState } from './vocabulary.ts'

/** States that are counted and chosen together. */
export interface Group {
  name: string
  label: string
  tone: Tone
  states: string[]
  n: number
  exact: boolean
}

const tones = ['queued', 'working', 'waiting', 'ok', 'bad'] as const

/** Of one kind its states, of all kinds what their states mean. Only states that the project knows can be chosen. */
export function groupsOf(kind: RunKind | null, counts: RunsCounts | null): Group[] {
  const known = counts?.counts ?? []
  const sum = (parts: typeof known) => ({
    states: [...new Set(parts.map(({ state }) => state))],
    n: parts.reduce((all, { n }) => all + n, 0),
    exact: parts.every(({ exact }) => exact),
  })
  if (kind === null) {
    return tones.map((tone) => ({
      name: tone,
      label: tone_names[tone],
      tone,
      ...sum(known.filter((part) => toneOfState(part.kind, part.state, null) === tone)),
    }))
  }
  const of_kind = known.filter((part) => part.kind === kind)
  const states = [...new Set([...statesOf(kind), ...of_kind.map(({ state }) => state)])]
  return states.map((state) => {
    const group = sum(of_kind.filter((part) => part.state === state))
    return {
      name: state,
      label: state,
      tone: toneOfState(kind, state, null),
      ...group,
      // Before the counts are there nobody knows better, and a button that does nothing is no button.
      states: of_kind.length > 0 ? group.states : [state],
    }
  })
}

/** The states in which runs have failed, as far as the project knows them. */
export function failedStates(kind: RunKind | null, counts: RunsCounts | null): string[] {
  const states = (counts?.counts ?? [])
    .filter(
      (part) => (kind === null || part.kind === kind) && toneOfState(part.kind, part.state, null) === 'bad',
    )
    .map(({ state }) => state)
  return states.length > 0 ? [...new Set(states)].sort() : ['failed']
}
