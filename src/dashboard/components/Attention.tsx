import { useState } from 'preact/hooks'
import type { LiveRow } from '../../client/live/rows.ts'
import type { RunsCounts } from '../../client/live/run.ts'
import type { Catalog } from '../../client/live/source.ts'
import { useDesk } from '../desk.ts'
import { count } from '../format.ts'
import { failedStates } from '../groups.ts'
import { useLoaded } from '../hooks.ts'
import { memo } from '../memo.ts'
import { runHash } from '../route.ts'
import type { View } from '../view.ts'
import { Problem } from './Problem.tsx'
import { Since } from './Since.tsx'
import { StateBadge } from './StateBadge.tsx'
import { When } from './When.tsx'

const SHOWN = 5
const ALL = 50

/** What is stuck, and what failed in the last hour, whatever the list shows. Nothing where all is well. */
export const Attention = memo(function Attention({
  counts,
  kind,
  catalog,
}: {
  counts: RunsCounts | null
  kind: View['kind']
  catalog: Catalog | null
}) {
  const { source, live } = useDesk()
  const [all, setAll] = useState(false)
  const stuck_n = counts?.stuck.n ?? 0
  const failed_n = counts?.failed_last_hour.n ?? 0
  const max = all ? ALL : SHOWN
  const read = useLoaded(`${kind} ${stuck_n} ${failed_n} ${max}`, async (signal) => {
    const of_kind = kind ? { kind } : {}
    const ended_since = new Date(live.now() - 3_600_000).toISOString()
    const [stuck, failed] = await Promise.all([
      stuck_n > 0 ? source.list({ ...of_kind, stuck: true }, null, max, signal) : null,
      failed_n > 0
        ? source.list({ ...of_kind, state: failedStates(kind, counts), ended_since }, null, max, signal)
        : null,
    ])
    return [...(stuck?.items ?? []), ...(failed?.items ?? [])].map(
      (row): LiveRow => ({ ...row, matches: true }),
    )
  })
  const total = stuck_n + failed_n
  if (total === 0) return null
  const rows = (read.data ?? []).slice(0, max)
  const rule = (row: LiveRow) =>
    counts?.stuck_rules.find(({ kind: its, rule }) => its === row.kind && rule === row.stuck_rule)?.words
  return (
    <section class="attention" aria-labelledby="attention">
      <div class="head">
        <h2 id="attention">Needs attention</h2>
        {total > rows.length && (
          <button type="button" class="small" onClick={() => setAll(!all)} aria-expanded={all}>
            {all ? 'Show fewer' : `Show all ${count(total)}`}
          </button>
        )}
        {all && total <= rows.length && (
          <button type="button" class="small" onClick={() => setAll(false)} aria-expanded={true}>
            Show fewer
          </button>
        )}
      </div>
      {read.error && rows.length === 0 && (
        <Problem what="This can not be read." error={read.error} onRetry={read.again} />
      )}
      <ul>
        {rows.map((row) => (
          <li key={row.id}>
            <StateBadge row={row} catalog={catalog} />
            <a href={runHash(row.id)}>
              <bdi class="name">{row.name}</bdi>
            </a>
            <span class="why">
              {row.stuck_rule
                ? (rule(row) ?? row.stuck_rule)
                : [row.error_stage, row.error_code].filter(Boolean).join(' · ') || row.reason}
            </span>
            <span class="age">
              {row.finished_at ? <When at={row.finished_at} /> : <Since at={row.state_since} />}
            </span>
          </li>
        ))}
      </ul>
    </section>
  )
})
