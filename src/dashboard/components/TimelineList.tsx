import type { RunRow, Timeline } from '../../client/live/run.ts'
import type { Catalog } from '../../client/live/source.ts'
import { useDesk } from '../desk.ts'
import { duration, plural, time } from '../format.ts'
import { entriesOf, type Segment } from '../timeline.ts'
import { toneOfTransition, words } from '../vocabulary.ts'
import { Icon } from './Icon.tsx'
import { JsonBlock } from './JsonBlock.tsx'
import { Since } from './Since.tsx'
import { When } from './When.tsx'

/** Every transition of a run, how long each state lasted and usually lasts, and what was refused. */
export function TimelineList({
  timeline,
  row,
  catalog,
}: {
  timeline: Timeline
  row: RunRow
  catalog: Catalog | null
}) {
  const { live } = useDesk()
  const { entries, scale_ms } = entriesOf(timeline, catalog, live.now(), row.finished_at !== null)
  const machines = new Set(timeline.transitions.map(({ machine }) => machine))
  return (
    <section aria-labelledby="timeline">
      <div class="head">
        <h2 id="timeline">Timeline</h2>
        {timeline.omitted > 0 && (
          <span class="quiet">without the {plural(timeline.omitted, 'transition')} before these</span>
        )}
      </div>
      <ol class="timeline">
        {entries.map((entry) =>
          'segment' in entry ? (
            <SegmentItem
              key={entry.segment.transition.id}
              segment={entry.segment}
              scale_ms={scale_ms}
              shows_machine={machines.size > 1}
            />
          ) : (
            <li key={`r${entry.rejection.id}`} class="rejected">
              <span class="state unknown">
                <Icon name="bad" />
                {entry.rejection.to_status}
              </span>
              <When at={entry.rejection.created_at} ms />
              <span class="why">
                refused: <code>{entry.rejection.code}</code> from {words(entry.rejection.from_status)}, asked
                by {entry.rejection.source}
              </span>
            </li>
          ),
        )}
      </ol>
    </section>
  )
}

function SegmentItem({
  segment: { transition, delta_ms, duration_ms, is_open, part, is_cut },
  scale_ms,
  shows_machine,
}: {
  segment: Segment
  scale_ms: number
  shows_machine: boolean
}) {
  const { live } = useDesk()
  const tone = toneOfTransition(transition.machine, transition.to_status)
  const { p50_ms, p95_ms, details } = transition
  const place = (ms: number) => `${Math.min(100, (ms / scale_ms) * 100)}%`
  return (
    <li>
      <span class={`state ${tone}`}>
        <Icon name={tone} spins={is_open && tone === 'working'} />
        {transition.to_status}
        {shows_machine && <small class="quiet">{words(transition.machine)}</small>}
      </span>
      <span class="quiet">
        <When at={transition.created_at} ms />{' '}
        <span title={`Since ${time(Date.parse(transition.created_at) - delta_ms, live.now(), true)}`}>
          +{duration(delta_ms)}
        </span>
      </span>
      <span class="span">
        {duration_ms !== null && (
          <>
            <span class={`lasted ${tone}${is_cut ? ' cut' : ''}`} aria-hidden="true">
              <span style={{ width: `${Math.max(0.5, part * 100)}%` }} />
              {p50_ms !== null && p95_ms !== null && p50_ms < scale_ms && (
                <i style={{ left: place(p50_ms), right: `calc(100% - ${place(p95_ms)})` }} />
              )}
            </span>
            <span class="num">
              {is_open ? <Since at={transition.created_at} /> : duration(duration_ms)}
              {is_open && ' …'}
            </span>
            {is_cut && <small class="quiet">(not to scale)</small>}
            {p50_ms !== null && p95_ms !== null && (
              <small class="quiet num">
                typical {duration(p50_ms)} .. {duration(p95_ms)}
              </small>
            )}
          </>
        )}
      </span>
      <span class="why quiet">
        {[
          `by ${transition.source}`,
          transition.implied ? 'implied by a later report' : '',
          transition.reason ? words(transition.reason) : '',
        ]
          .filter((part) => part !== '')
          .join(', ')}
      </span>
      {details !== null && typeof details === 'object' && Object.keys(details).length > 0 && (
        <JsonBlock title="Details" value={details} name={`transition-${transition.id}`} />
      )}
    </li>
  )
}
