import { useEffect, useRef, useState } from 'preact/hooks'
import type { LiveRow } from '../../client/live/rows.ts'
import type { Catalog } from '../../client/live/source.ts'
import { actionsOf } from '../actions.ts'
import { useDesk } from '../desk.ts'
import { clipped, count } from '../format.ts'
import { memo } from '../memo.ts'
import { runHash } from '../route.ts'
import { ActionDialog } from './ActionDialog.tsx'
import { ProgressBar } from './ProgressBar.tsx'
import { Since } from './Since.tsx'
import { StateBadge } from './StateBadge.tsx'
import { When } from './When.tsx'

const CARDS = 6
/** A card whose run has ended stays this long (ms). */
const STAYS_MS = 10_000
/** Responses are read at most this often (ms). */
const EVERY_MS = 5000

type Summary = { id: string; latest_response: string | null; progressed_at: string | null }

/** What runs step by step, with what it answered last; where nothing runs, what came last. */
export const ActiveCards = memo(function ActiveCards({
  rows,
  catalog,
}: {
  rows: readonly LiveRow[]
  catalog: Catalog | null
}) {
  const { live } = useDesk()
  const places = useRef<string[]>([])
  const flows = rows.filter(({ kind }) => kind === 'flow')
  const by_id = new Map(flows.map((row) => [row.id, row]))
  const isActive = (row: LiveRow | undefined) =>
    row !== undefined && (row.finished_at === null || live.now() - Date.parse(row.finished_at) < STAYS_MS)
  const running = flows.filter(({ finished_at }) => finished_at === null)
  // Cards keep their places: new ones come behind.
  const kept = places.current.filter((id) => isActive(by_id.get(id)))
  const shown = running.filter(({ id }) => !kept.includes(id)).map(({ id }) => id)
  places.current = [...kept, ...shown].slice(0, CARDS)
  const cards = places.current.flatMap((id) => by_id.get(id) ?? [])
  const latest = cards.length === 0 ? flows.slice(0, 3) : []
  const shown_rows = cards.length > 0 ? cards : latest
  const responses = useResponses(shown_rows, cards.length > 0)
  if (shown_rows.length === 0) return null
  const more = running.length - cards.filter(({ finished_at }) => finished_at === null).length
  return (
    <section class="cards" aria-labelledby="active">
      <div class="head">
        <h2 id="active">{cards.length > 0 ? 'Active executions' : 'Latest executions'}</h2>
        {more > 0 && <span class="quiet">{count(more)} more in the list</span>}
      </div>
      <ul>
        {shown_rows.map((row) => (
          <Card key={row.id} row={row} catalog={catalog} response={responses.get(row.id) ?? null} />
        ))}
      </ul>
    </section>
  )
})

function Card({
  row,
  catalog,
  response,
}: {
  row: LiveRow
  catalog: Catalog | null
  response: string | null
}) {
  const [asks, setAsks] = useState(false)
  const [is_open, setOpen] = useState(false)
  const stop = actionsOf(row).find(({ name }) => name === 'cancel')
  return (
    <li class="card">
      <div class="line">
        <a href={runHash(row.id)}>
          <bdi class="name">{row.name}</bdi>
        </a>
        <StateBadge row={row} catalog={catalog} />
      </div>
      <ProgressBar row={row} />
      <div class="line quiet">
        <span class="label" title={row.progress_label ?? ''}>
          {row.finished_at === null
            ? (row.progress_label ?? `step ${(row.progress_done ?? 0) + 1}`)
            : (row.error_message ?? 'every step is answered')}
        </span>
        {row.finished_at === null ? (
          <span title="In this step">
            <Since at={row.updated_at} />
          </span>
        ) : (
          <When at={row.finished_at} />
        )}
      </div>
      {response && (
        <button
          type="button"
          class={is_open ? 'response open' : 'response'}
          aria-expanded={is_open}
          onClick={() => setOpen(!is_open)}
        >
          <span class="unseen">Latest answer: </span>
          <bdi>{clipped(response, 300)}</bdi>
        </button>
      )}
      {stop && (
        <button type="button" class="small" onClick={() => setAsks(true)}>
          {stop.button}
        </button>
      )}
      {asks && stop && <ActionDialog row={row} action={stop} onClose={() => setAsks(false)} />}
    </li>
  )
}

/** The latest answers of these executions, read when one of them has gone on. */
function useResponses(rows: LiveRow[], are_active: boolean): Map<string, string> {
  const { source } = useDesk()
  const [held, set] = useState(new Map<string, string>())
  const read_at = useRef(Number.NEGATIVE_INFINITY)
  const key = rows.map(({ id, progress_done, version }) => `${id} ${progress_done} ${version}`).join()
  useEffect(() => {
    if (key === '') return
    const over = new AbortController()
    const read = async () => {
      read_at.current = Date.now()
      const path = are_active ? 'executions/active' : 'executions/recent'
      const query = are_active ? {} : { limit: 3 }
      const { items } = await source.call<{ items: Summary[] }>(path, {
        method: 'GET',
        query,
        signal: over.signal,
      })
      set(new Map(items.flatMap((item) => (item.latest_response ? [[item.id, item.latest_response]] : []))))
    }
    // Without answers the cards say what they know.
    const timer = setTimeout(() => void read().catch(() => {}), read_at.current + EVERY_MS - Date.now())
    return () => {
      clearTimeout(timer)
      over.abort()
    }
  }, [source, key, are_active])
  return held
}
