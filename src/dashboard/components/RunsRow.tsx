// biome-ignore-all lint/a11y/useSemanticElements: most rows of this table are not in the document, which only roles can say
// biome-ignore-all lint/a11y/useFocusableInteractive: the links in its rows take the focus
import type { LiveRow } from '../../client/live/rows.ts'
import type { Catalog } from '../../client/live/source.ts'
import { shortId } from '../format.ts'
import { memo } from '../memo.ts'
import { runHash } from '../route.ts'
import { kind_names, words } from '../vocabulary.ts'
import { Icon } from './Icon.tsx'
import { ProgressBar } from './ProgressBar.tsx'
import { Since } from './Since.tsx'
import { StateBadge } from './StateBadge.tsx'
import { When } from './When.tsx'

/** One run in the table; drawn anew only when it changed or moved. */
export const RunsRow = memo(function RunsRow({
  row,
  index,
  top,
  catalog,
  is_current,
  is_chosen,
  is_expanded,
  onFocus,
  onToggle,
}: {
  row: LiveRow
  index: number
  top: number
  catalog: Catalog | null
  is_current: boolean
  is_chosen: boolean
  is_expanded: boolean
  onFocus(id: string): void
  onToggle(id: string): void
}) {
  return (
    <div
      role="row"
      aria-rowindex={index + 2}
      class={`row${row.matches ? '' : ' dim'}${is_chosen ? ' current' : ''}${is_expanded ? ' expanded' : ''}`}
      data-id={row.id}
      style={{ transform: `translateY(${top}px)` }}
    >
      <div role="cell" class="c-state">
        <StateBadge row={row} catalog={catalog} />
      </div>
      <div role="rowheader" class="c-name">
        <a href={runHash(row.id)} tabIndex={is_current ? 0 : -1} onFocus={() => onFocus(row.id)}>
          <bdi>{row.name}</bdi>
        </a>
      </div>
      <div role="cell" class="c-id">
        <code>{shortId(row.id)}</code>
      </div>
      <div role="cell" class="c-kind">
        {kind_names[row.kind]?.one ?? row.kind}
      </div>
      <div role="cell" class="c-progress">
        <ProgressBar row={row} />
      </div>
      <div role="cell" class="c-in-state">
        {row.finished_at === null ? (
          <Since at={row.state_since} />
        ) : (
          <span class="quiet" title="From its beginning to its end">
            took <Since at={row.started_at ?? row.created_at} until={row.finished_at} />
          </span>
        )}
      </div>
      <div role="cell" class="c-error">
        {row.error_code && (
          <>
            <span class="quiet">{words(row.error_stage ?? '')}</span> <code>{row.error_code}</code>
          </>
        )}
      </div>
      <div role="cell" class="c-attempt num">
        {row.attempt}
      </div>
      <div role="cell" class="c-created quiet">
        <When at={row.created_at} />
      </div>
      <div role="cell" class="c-details">
        <button
          type="button"
          class="bare"
          tabIndex={is_current ? 0 : -1}
          aria-expanded={is_expanded}
          onClick={() => onToggle(row.id)}
        >
          <Icon name="chevron" />
          <span class="unseen">Details of {row.name.slice(0, 80)}</span>
        </button>
        {is_expanded && <Expanded row={row} />}
      </div>
    </div>
  )
})

function Expanded({ row }: { row: LiveRow }) {
  return (
    <div class="expansion">
      {row.error_code && (
        <p>
          <strong>{row.error_code}</strong> {row.error_message ?? 'There is no message.'}
        </p>
      )}
      {row.stuck_rule && <p>Stuck: {words(row.stuck_rule)}.</p>}
      {row.reason && <p>Reason: {words(row.reason)}.</p>}
      {row.progress_label && <p>Step: {row.progress_label}</p>}
      {!row.error_code && !row.stuck_rule && !row.reason && !row.progress_label && <p>Nothing to report.</p>}
      <p class="quiet">
        <code>{row.id}</code>
      </p>
    </div>
  )
}
