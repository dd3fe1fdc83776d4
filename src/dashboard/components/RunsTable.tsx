// biome-ignore-all lint/a11y/useSemanticElements: most rows of this table are not in the document, which only roles can say
// biome-ignore-all lint/a11y/useFocusableInteractive: the links in its rows take the focus
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import type { LiveSnapshot } from '../../client/live/live.ts'
import { useDesk } from '../desk.ts'
import { count } from '../format.ts'
import { usePreferences } from '../hooks.ts'
import { runHash } from '../route.ts'
import { useShortcuts } from '../shortcuts.ts'
import { copy } from './CopyButton.tsx'
import { RunsRow } from './RunsRow.tsx'
import { useNarrow } from './use_narrow.ts'

/** Rows in the DOM at most, the one with the focus included. */
const MAX_ROWS = 60
const OVERSCAN = 8
/** Older runs are asked for when fewer than this are below. */
const NEAR_END = 12
const EXPANDED_PX = 96

/** The row that had the focus last, for when somebody comes back to the list. */
let last_current: string | null = null
let last_scroll = 0

/** All runs of the list; only those near the part that is seen are in the document. */
export function RunsTable({
  seen,
  total,
}: {
  seen: LiveSnapshot
  total: { n: number; exact: boolean } | null
}) {
  const { live } = useDesk()
  const { compact } = usePreferences()
  const is_narrow = useNarrow()
  const { rows, catalog } = seen
  const row_px = is_narrow ? 64 : compact ? 32 : 40
  const scroller = useRef<HTMLDivElement>(null)
  const [top, setTop] = useState(0)
  const [height, setHeight] = useState(600)
  const [current, setCurrent] = useState<string | null>(last_current)
  const [expanded, setExpanded] = useState<string | null>(null)
  const wants_focus = useRef<string | null>(null)
  const anchor = useRef<{ id: string; within: number } | null>(null)

  const expanded_at = expanded === null ? -1 : rows.findIndex(({ id }) => id === expanded)
  const topOf = (index: number) =>
    index * row_px + (expanded_at >= 0 && index > expanded_at ? EXPANDED_PX : 0)
  const current_at = current === null ? -1 : rows.findIndex(({ id }) => id === current)
  const first = Math.max(0, Math.floor((top - (expanded_at >= 0 ? EXPANDED_PX : 0)) / row_px) - OVERSCAN)
  const wanted = Math.ceil(height / row_px) + 2 * OVERSCAN + (expanded_at >= 0 ? 3 : 0)
  const last = Math.min(rows.length, first + Math.min(MAX_ROWS - 1, wanted))
  const indexes: number[] = []
  // Who has the focus keeps it, however far away the list is scrolled.
  if (current_at >= 0 && current_at < first) indexes.push(current_at)
  for (let index = first; index < last; index++) indexes.push(index)
  if (current_at >= last) indexes.push(current_at)

  const note = () => {
    const element = scroller.current
    if (!element) return
    last_scroll = element.scrollTop
    const at = Math.floor(element.scrollTop / row_px)
    const row = rows[at]
    anchor.current =
      row && element.scrollTop > 0 ? { id: row.id, within: element.scrollTop - at * row_px } : null
    setTop(Math.floor(element.scrollTop / row_px) * row_px)
  }

  // Rows that came above push nothing away from under somebody's eyes.
  useLayoutEffect(() => {
    const held = anchor.current
    const element = scroller.current
    if (!held || !element || expanded_at >= 0) return
    const at = rows.findIndex(({ id }) => id === held.id)
    if (at < 0) return
    const wanted_top = at * row_px + held.within
    if (Math.abs(wanted_top - element.scrollTop) >= row_px) element.scrollTop = wanted_top
  }, [rows, row_px, expanded_at])

  useLayoutEffect(() => {
    const element = scroller.current
    if (!element) return
    element.scrollTop = last_scroll
    const observer = new ResizeObserver(() => setHeight(element.clientHeight))
    observer.observe(element)
    return () => observer.disconnect()
  }, [])

  const visible = rows.slice(first, last)
  const visible_key = `${visible[0]?.id} ${visible.length} ${visible.at(-1)?.id}`
  useEffect(() => live.setVisible(visible.map(({ id }) => id)), [live, visible_key])
  useEffect(() => {
    if (seen.has_more && seen.is_loading === null && !seen.errors.older && last >= rows.length - NEAR_END)
      live.loadOlder()
  }, [live, seen.has_more, seen.is_loading, seen.errors.older, last, rows.length])

  // Following waits while somebody works in the table.
  const hands = useRef({ hover: false, focus: false })
  const tellBusy = useCallback(() => {
    const selection = document.getSelection()
    const selects =
      selection !== null &&
      !selection.isCollapsed &&
      scroller.current?.contains(selection.anchorNode) === true
    live.setBusy(
      hands.current.hover || hands.current.focus || selects || (scroller.current?.scrollTop ?? 0) > 0,
    )
  }, [live])
  useEffect(() => {
    document.addEventListener('selectionchange', tellBusy)
    return () => {
      document.removeEventListener('selectionchange', tellBusy)
      live.setBusy(false)
    }
  }, [live, tellBusy])

  const choose = useCallback((id: string) => {
    last_current = id
    setCurrent(id)
  }, [])
  const toggle = useCallback((id: string) => setExpanded((held) => (held === id ? null : id)), [])

  const go = (index: number) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, index))]
    const element = scroller.current
    if (!row || !element) return
    const at = rows.indexOf(row)
    const from = topOf(at)
    if (from < element.scrollTop) element.scrollTop = from
    // The heading of the columns covers as much as a row.
    else if (from + 2 * row_px > element.scrollTop + element.clientHeight)
      element.scrollTop = from + 2 * row_px - element.clientHeight
    wants_focus.current = row.id
    choose(row.id)
    note()
  }

  useLayoutEffect(() => {
    const id = wants_focus.current
    if (id === null) return
    const link = linkOf(scroller.current, id)
    if (!link) return
    wants_focus.current = null
    link.focus({ preventScroll: true })
  })

  // Back from a run: the row that it was opened from has the focus again.
  useEffect(() => {
    if (last_current !== null && returns_to_row) linkOf(scroller.current, last_current)?.focus()
    returns_to_row = false
  }, [])

  useShortcuts({
    j: () => go(current_at + 1),
    k: () => go(current_at < 0 ? 0 : current_at - 1),
    x: current === null ? undefined : () => toggle(current),
    c: current === null ? undefined : () => void copy(current, 'Id'),
    o: current === null ? undefined : () => openRun(current),
  })

  const shown_first = rows.length === 0 ? 0 : Math.min(rows.length, Math.floor(top / row_px) + 1)
  const shown_last = Math.min(rows.length, Math.floor((top + height) / row_px))
  const heads = [
    'State',
    'Name',
    'Id',
    'Kind',
    'Progress',
    'In state',
    'Error',
    'Attempt',
    'Created',
    'Details',
  ]
  return (
    <>
      <div
        class={`runs${compact ? ' compact' : ''}`}
        ref={scroller}
        role="region"
        aria-label="List of runs"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: who has no mouse scrolls it with the arrows
        tabIndex={0}
        onScroll={() => {
          note()
          tellBusy()
        }}
        onMouseEnter={() => {
          hands.current.hover = true
          tellBusy()
        }}
        onMouseLeave={() => {
          hands.current.hover = false
          tellBusy()
        }}
        onFocusIn={() => {
          hands.current.focus = true
          tellBusy()
        }}
        onFocusOut={(event) => {
          hands.current.focus =
            event.relatedTarget instanceof Node && event.currentTarget.contains(event.relatedTarget)
          tellBusy()
        }}
        onKeyDown={(event) => {
          if (!(event.target instanceof HTMLAnchorElement)) return
          const to = { ArrowDown: current_at + 1, ArrowUp: current_at - 1, Home: 0, End: rows.length - 1 }[
            event.key
          ]
          if (to === undefined) return
          event.preventDefault()
          go(to)
        }}
      >
        <div
          role="table"
          aria-label="Runs"
          aria-rowcount={seen.has_more ? (total?.exact ? total.n + 1 : -1) : rows.length + 1}
        >
          <div role="rowgroup" class="heads">
            <div role="row" class="row" aria-rowindex={1}>
              {heads.map((head) => (
                <div role="columnheader" key={head} class={`c-${head.toLowerCase().replace(' ', '-')}`}>
                  {head === 'Details' ? <span class="unseen">{head}</span> : head}
                </div>
              ))}
            </div>
          </div>
          <div role="rowgroup" class="body" style={{ height: `${topOf(rows.length)}px` }}>
            {indexes.map((index) => {
              const row = rows[index]
              if (!row) return null
              const is_current = row.id === current || (current_at < 0 && index === 0)
              return (
                <RunsRow
                  key={row.id}
                  row={row}
                  index={index}
                  top={topOf(index)}
                  catalog={catalog}
                  is_current={is_current}
                  is_chosen={row.id === current}
                  is_expanded={row.id === expanded}
                  onFocus={choose}
                  onToggle={toggle}
                />
              )
            })}
          </div>
        </div>
      </div>
      <div class="below">
        <span class="quiet num">
          {rows.length === 0
            ? ''
            : `Rows ${count(shown_first)}–${count(Math.max(shown_first, shown_last))} of ${
                seen.has_more
                  ? total
                    ? count(Math.max(total.n, rows.length), total.exact)
                    : `more than ${count(rows.length)}`
                  : count(rows.length)
              }`}
        </span>
        {seen.has_more && (
          <button
            type="button"
            class="small"
            onClick={() => live.loadOlder()}
            aria-disabled={seen.is_loading !== null}
          >
            {seen.is_loading === 'older' ? 'Loading …' : 'Load older'}
          </button>
        )}
      </div>
    </>
  )
}

let returns_to_row = false

/** The list is about to be shown again: the focus goes back to where it was. */
export function returnToRow(): void {
  returns_to_row = true
}

/** The list is another one: it begins at its top. */
export function forgetRow(): void {
  last_current = null
  last_scroll = 0
}

export function openRun(id: string): void {
  location.hash = runHash(id)
}

function linkOf(within: HTMLElement | null, id: string): HTMLElement | null {
  return within?.querySelector<HTMLElement>(`[data-id="${CSS.escape(id)}"] a`) ?? null
}
