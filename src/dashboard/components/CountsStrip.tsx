import { useRef } from 'preact/hooks'
import type { RunsCounts } from '../../client/live/run.ts'
import { count } from '../format.ts'
import { type Group, groupsOf } from '../groups.ts'
import { memo } from '../memo.ts'
import type { View } from '../view.ts'
import { Icon, type IconName } from './Icon.tsx'

/** How many runs there are of what, as buttons that narrow the list. */
export const CountsStrip = memo(function CountsStrip({
  counts,
  view,
  onToggle,
}: {
  counts: RunsCounts | null
  view: View
  onToggle(change: Partial<View>): void
}) {
  // What there was when these runs were first looked at, for "+n".
  const first = useRef<{ of: string; n: Map<string, number> }>({ of: '', n: new Map() })
  const of = `${view.kind} ${view.window} ${view.since} ${view.until} ${view.search} ${view.stage} ${view.code}`
  if (first.current.of !== of) first.current = { of, n: new Map() }
  const more = (name: string, n: number) => {
    if (!counts) return 0
    if (!first.current.n.has(name)) first.current.n.set(name, n)
    return n - (first.current.n.get(name) ?? n)
  }

  const tile = (
    name: string,
    icon: IconName,
    tone: string,
    label: string,
    number: { n: number; exact: boolean } | null,
    is_pressed: boolean,
    change: Partial<View>,
  ) => {
    const added = more(name, number?.n ?? 0)
    return (
      <button
        type="button"
        key={name}
        class={`tile ${tone}${number?.n === 0 ? ' none' : ''}`}
        aria-pressed={is_pressed}
        onClick={() => onToggle(change)}
      >
        <span class="label">
          <Icon name={icon} />
          {label.replace(':', ':\u200b')}
        </span>
        <span class="number num">
          {number ? count(number.n, number.exact) : '–'}
          {added > 0 && <small>+{count(added)}</small>}
        </span>
      </button>
    )
  }

  const group = ({ name, label, tone, states, n, exact }: Group) => {
    const is_pressed = states.length > 0 && states.every((state) => view.states.includes(state))
    const rest = view.states.filter((state) => !states.includes(state))
    return tile(name, tone, tone, label, counts && { n, exact }, is_pressed, {
      states: is_pressed ? rest : [...rest, ...states],
      failed_lately: false,
    })
  }

  return (
    <fieldset class="tiles">
      <legend class="unseen">States</legend>
      {groupsOf(view.kind, counts).map(group)}
      {tile('stuck', 'attention', 'stuck', 'Stuck', counts?.stuck ?? null, view.stuck, {
        stuck: !view.stuck,
      })}
      {tile(
        'failed lately',
        'bad',
        'bad',
        'Failed last hour',
        counts?.failed_last_hour ?? null,
        view.failed_lately,
        { failed_lately: !view.failed_lately, states: [] },
      )}
    </fieldset>
  )
})
