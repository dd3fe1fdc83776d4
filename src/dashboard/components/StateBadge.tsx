import type { RunRow } from '../../client/live/run.ts'
import type { Catalog } from '../../client/live/source.ts'
import { endedPoorly, toneOf, words } from '../vocabulary.ts'
import { Icon } from './Icon.tsx'

/** The state of a run: its sign, its exact word, and what it means where that is no good sign. */
export function StateBadge({
  row,
  catalog,
  is_big = false,
}: {
  row: RunRow
  catalog: Catalog | null
  is_big?: boolean
}) {
  const tone = toneOf(row, catalog)
  const sign = row.kind === 'workflow' && row.state === 'fixing' ? 'wrench' : tone
  const is_poor = endedPoorly(row)
  const detail =
    row.kind === 'bot' && row.finished_at === null && row.meeting_status && row.meeting_status !== row.state
      ? words(row.meeting_status)
      : null
  return (
    <span class={is_big ? 'badge big' : 'badge'}>
      <span class={`state ${tone}`}>
        <Icon name={sign} spins={is_big && tone === 'working'} />
        <span class="word">{row.state}</span>
      </span>
      {detail && <span class="more">{detail}</span>}
      {row.stuck_rule && (
        <span class="state stuck" title={words(row.stuck_rule)}>
          <Icon name="attention" />
          stuck
        </span>
      )}
      {is_poor && (
        <span class="state stuck">
          <Icon name="attention" />
          <span class="word">{words(row.reason ?? '')}</span>
        </span>
      )}
    </span>
  )
}
