import { useEffect, useRef, useState } from 'preact/hooks'
import type { Catalog } from '../../client/live/source.ts'
import { memo } from '../memo.ts'
import { isNarrowed, type View, type Window, windows } from '../view.ts'
import { words } from '../vocabulary.ts'
import { Icon } from './Icon.tsx'

/** Typing is looked for after a pause of this (ms). */
const PAUSE_MS = 300
const stages = [
  'requested',
  'joining',
  'awaiting_admission',
  'active',
  'processing',
  'queue',
  'prompt',
  'producer',
  'prepare',
  'mutate',
  'next',
  'reconcile',
  'maintenance',
]

/** Narrows the list: words, time, stage and code; what is chosen stands below, each with a way to drop it. */
export const FilterBar = memo(function FilterBar({
  view,
  catalog,
  onChange,
  onClear,
}: {
  view: View
  catalog: Catalog | null
  onChange(change: Partial<View>, is_typing?: boolean): void
  onClear(): void
}) {
  const [typed, setTyped] = useState(view.search)
  const [is_open, setOpen] = useState(view.stage !== '' || view.code !== '')
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined)
  useEffect(() => setTyped(view.search), [view.search])
  useEffect(() => () => clearTimeout(timer.current), [])
  const search = (text: string) => {
    setTyped(text)
    clearTimeout(timer.current)
    timer.current = setTimeout(() => onChange({ search: text }, true), PAUSE_MS)
  }
  const chips: [label: string, drop: Partial<View>][] = [
    ...view.states.map((state): [string, Partial<View>] => [
      state,
      { states: view.states.filter((its) => its !== state) },
    ]),
    ...(view.stuck ? [['stuck', { stuck: false }] as [string, Partial<View>]] : []),
    ...(view.failed_lately
      ? [['failed last hour', { failed_lately: false }] as [string, Partial<View>]]
      : []),
    ...(view.stage ? [[`stage ${words(view.stage)}`, { stage: '' }] as [string, Partial<View>]] : []),
    ...(view.code ? [[`code ${view.code}`, { code: '' }] as [string, Partial<View>]] : []),
    ...(view.search ? [[`“${view.search}”`, { search: '' }] as [string, Partial<View>]] : []),
  ]
  return (
    <search class="filters">
      <div class="line">
        <input
          type="search"
          id="search"
          aria-label="Search by id, name or error code"
          placeholder="Id, name or error code"
          value={typed}
          maxLength={200}
          onInput={(event) => search(event.currentTarget.value)}
          onKeyDown={(event) => event.key === 'Escape' && event.currentTarget.blur()}
        />
        <select
          aria-label="Created"
          value={view.window}
          disabled={view.stuck || view.failed_lately}
          onChange={(event) => onChange({ window: event.currentTarget.value as Window })}
        >
          {windows.map(({ window, name }) => (
            <option key={window} value={window}>
              {name}
            </option>
          ))}
        </select>
        <button type="button" aria-expanded={is_open} onClick={() => setOpen(!is_open)}>
          Error …
        </button>
        {view.window === 'custom' && (
          <>
            <label class="inline">
              from{' '}
              <input
                type="datetime-local"
                value={view.since}
                onChange={(event) => onChange({ since: event.currentTarget.value })}
              />
            </label>
            <label class="inline">
              to{' '}
              <input
                type="datetime-local"
                value={view.until}
                onChange={(event) => onChange({ until: event.currentTarget.value })}
              />
            </label>
          </>
        )}
        {is_open && (
          <>
            <select
              aria-label="Stage of the error"
              value={view.stage}
              onChange={(event) => onChange({ stage: event.currentTarget.value })}
            >
              <option value="">Any stage</option>
              {[...new Set([...stages, ...(view.stage ? [view.stage] : [])])].map((stage) => (
                <option key={stage} value={stage}>
                  {words(stage)}
                </option>
              ))}
            </select>
            <select
              aria-label="Code of the error"
              value={view.code}
              onChange={(event) => onChange({ code: event.currentTarget.value })}
            >
              <option value="">Any code</option>
              {[
                ...new Set([
                  ...(catalog?.error_codes.map(({ code }) => code) ?? []),
                  ...(view.code ? [view.code] : []),
                ]),
              ].map((code) => (
                <option key={code} value={code}>
                  {code}
                </option>
              ))}
            </select>
          </>
        )}
      </div>
      {isNarrowed(view) && (
        <div class="chips">
          {chips.map(([label, drop]) => (
            <button type="button" class="chip-button" key={label} onClick={() => onChange(drop)}>
              <bdi>{label}</bdi>
              <Icon name="close" />
              <span class="unseen">Drop this filter</span>
            </button>
          ))}
          <button type="button" class="small" onClick={onClear}>
            Clear
          </button>
        </div>
      )}
    </search>
  )
})
