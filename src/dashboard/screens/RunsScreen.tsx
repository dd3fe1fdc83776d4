import { useEffect } from 'preact/hooks'
import type { LiveSnapshot } from '../../client/live/live.ts'
import { ActiveCards } from '../components/ActiveCards.tsx'
import { Attention } from '../components/Attention.tsx'
import { CountsStrip } from '../components/CountsStrip.tsx'
import { EmptyList } from '../components/EmptyList.tsx'
import { FilterBar } from '../components/FilterBar.tsx'
import { KindTabs } from '../components/KindTabs.tsx'
import { Problem } from '../components/Problem.tsx'
import { forgetRow, RunsTable } from '../components/RunsTable.tsx'
import { Skeleton } from '../components/Skeleton.tsx'
import { TooBroad } from '../components/TooBroad.tsx'
import { useDesk } from '../desk.ts'
import { groupsOf } from '../groups.ts'
import { runsHash } from '../route.ts'
import { useShortcuts } from '../shortcuts.ts'
import { everything, isNarrowed, type View } from '../view.ts'

/** Everything that runs, and what of it needs somebody. */
export function RunsScreen({ seen, view }: { seen: LiveSnapshot; view: View }) {
  const { live } = useDesk()
  const { rows, counts, catalog, errors } = seen

  function change(part: Partial<View>, is_typing = false): void {
    forgetRow()
    const hash = runsHash({ ...view, ...part })
    // Each letter would be a step of the way back.
    if (is_typing) {
      history.replaceState(null, '', hash)
      dispatchEvent(new HashChangeEvent('hashchange'))
    } else location.hash = hash
  }
  const clear = () =>
    change({ ...everything, kind: view.kind, window: view.window, since: view.since, until: view.until })

  const groups = groupsOf(view.kind, counts)
  const toggleGroup = (index: number) => () => {
    const group = groups[index]
    if (!group || group.states.length === 0) return
    const is_on = group.states.every((state) => view.states.includes(state))
    const rest = view.states.filter((state) => !group.states.includes(state))
    change({ states: is_on ? rest : [...rest, ...group.states], failed_lately: false })
  }
  useShortcuts({
    '/': () => document.getElementById('search')?.focus(),
    n: () => live.showNew(),
    ...Object.fromEntries([1, 2, 3, 4, 5, 6].map((n) => [String(n), toggleGroup(n - 1)])),
  })
  // The states that are looked at, summed; what is stuck or failed lately is counted apart.
  const chosen = groups.filter(
    ({ states }) => view.states.length === 0 || states.some((state) => view.states.includes(state)),
  )
  const total = !counts
    ? null
    : view.stuck
      ? counts.stuck
      : view.failed_lately
        ? counts.failed_last_hour
        : { n: chosen.reduce((all, { n }) => all + n, 0), exact: chosen.every(({ exact }) => exact) }
  // A filter by a state that is gone from the strip must not hide behind it.
  useEffect(() => {
    document.getElementById('main')?.scrollTo?.(0, 0)
  }, [])

  const is_first = seen.is_loading === 'first' || (rows.length === 0 && seen.data_at === null && !errors.list)
  const is_empty = rows.length === 0 && !is_first && !errors.list && !seen.has_more
  const is_ever_empty = is_empty && !isNarrowed(view)
  return (
    <>
      <div class="title">
        <h1>Runs</h1>
        <KindTabs
          kind={view.kind}
          onChange={(kind) => change({ kind, states: [], window: windowFor(kind, view) })}
        />
      </div>
      {errors.counts && !counts ? (
        <Problem what="The counts can not be read." error={errors.counts} onRetry={() => live.refresh()} />
      ) : (
        <CountsStrip counts={counts} view={view} onToggle={change} />
      )}
      <Attention counts={counts} kind={view.kind} catalog={catalog} />
      {(view.kind === null || view.kind === 'flow') && <ActiveCards rows={rows} catalog={catalog} />}
      <section aria-label="All runs" class="list" aria-busy={is_first}>
        <FilterBar view={view} catalog={catalog} onChange={change} onClear={clear} />
        {seen.new_count > 0 && (
          <button
            type="button"
            class="new"
            onClick={() => {
              forgetRow()
              live.showNew()
            }}
          >
            {seen.new_count > 99 ? '99+' : seen.new_count} new {seen.new_count === 1 ? 'run' : 'runs'}
          </button>
        )}
        {errors.list && <TooBroad view={view} error={errors.list} />}
        {is_first && rows.length === 0 && <Skeleton />}
        {is_empty && (
          <EmptyList
            view={view}
            is_narrowed={!is_ever_empty}
            onClear={clear}
            onAllTime={() => change({ window: 'all' })}
          />
        )}
        {rows.length > 0 && <RunsTable seen={seen} total={total} />}
        {errors.older && (
          <Problem what="Older runs can not be read." error={errors.older} onRetry={() => live.loadOlder()} />
        )}
      </section>
    </>
  )
}

/** Workflows live for long: all of them are meant, whenever they were made, unless somebody chose a time. */
function windowFor(kind: View['kind'], view: View): View['window'] {
  if (kind === 'workflow' && view.window === everything.window) return 'all'
  if (view.kind === 'workflow' && view.window === 'all') return everything.window
  return view.window
}
