import type { RunRow } from '../../client/live/run.ts'
import { progress } from '../format.ts'

/** How far a run is; nothing where there is nothing to count. */
export function ProgressBar({ row }: { row: RunRow }) {
  const view = progress(row)
  if (!view) return null
  if (view.text === 'no steps') return <span class="quiet">no steps</span>
  const has_failed = row.finished_at !== null && row.error_code !== null
  return (
    <span class={`progress${has_failed ? ' failed' : ''}${row.finished_at ? ' ended' : ''}`}>
      <span
        class={view.part === null ? 'bar endless' : 'bar'}
        role="progressbar"
        aria-label={`Progress of ${row.name.slice(0, 80)}`}
        aria-valuemin={0}
        aria-valuemax={100}
        {...(view.part !== null && { 'aria-valuenow': Math.floor(view.part * 100) })}
        aria-valuetext={view.words}
      >
        <span style={{ width: view.part === null ? '100%' : `${view.part * 100}%` }} />
      </span>
      <span class="num">{view.text}</span>
    </span>
  )
}
