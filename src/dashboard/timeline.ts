import type { Rejection, Timeline, Transition } from '../client/live/run.ts'
import type { Catalog } from '../client/live/source.ts'

/** Longer than this many times the next longest: its bar is cut, and says so. */
const CUT = 10

export interface Segment {
  transition: Transition
  /** Since the run began (ms). */
  delta_ms: number
  /** Null: the state is an end. */
  duration_ms: number | null
  /** It still lasts. */
  is_open: boolean
  /** 0 to 1, on the scale of all bars. */
  part: number
  is_cut: boolean
}

export type Entry = { at: number } & ({ segment: Segment } | { rejection: Rejection })

/** The history of a run as it is drawn: transitions with bars on one scale, and what was refused, in order. */
export function entriesOf(
  timeline: Timeline,
  catalog: Catalog | null,
  now: number,
  has_ended: boolean,
): { entries: Entry[]; scale_ms: number } {
  const { transitions } = timeline
  const begin = Date.parse(transitions[0]?.created_at ?? '')
  const durations = transitions.map((transition, index) => {
    if (transition.duration_ms !== null) return transition.duration_ms
    const is_last = !transitions.slice(index + 1).some(({ machine }) => machine === transition.machine)
    const is_end = has_ended || isEnd(catalog, transition)
    return is_last && !is_end ? now - Date.parse(transition.created_at) : null
  })
  const known = durations.filter((ms) => ms !== null).sort((a, b) => b - a)
  const [longest = 0, second = 0] = known
  const scale_ms = Math.max(1, second > 0 && longest > CUT * second ? second * 2 : longest)
  const segments = transitions.map((transition, index): Entry => {
    const ms = durations[index] ?? null
    const at = Date.parse(transition.created_at)
    return {
      at,
      segment: {
        transition,
        delta_ms: at - begin,
        duration_ms: ms,
        is_open: ms !== null && transition.duration_ms === null,
        part: ms === null ? 0 : Math.min(1, ms / scale_ms),
        is_cut: ms !== null && ms > scale_ms,
      },
    }
  })
  const refused = timeline.rejections.map(
    (rejection): Entry => ({
      at: Date.parse(rejection.created_at),
      rejection,
    }),
  )
  return { entries: [...segments, ...refused].sort((a, b) => a.at - b.at), scale_ms }
}

function isEnd(catalog: Catalog | null, { machine, to_status }: Transition): boolean {
  return (
    catalog?.machines
      .find(({ name }) => name === machine)
      ?.states.some(({ state, kind }) => state === to_status && kind === 'terminal') === true
  )
}
