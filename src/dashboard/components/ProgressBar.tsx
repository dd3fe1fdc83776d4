import type { RunRow } from '../../client/live/run.ts'
import { progress } from '../format.ts'
import { toneOf } from '../vocabulary.ts'

/** How far a run is; nothing where there is nothing to count. */
export function ProgressBar({ row }: { row: RunRow }) {
  const tone = toneOf(row, null)
  const view = progress(row, row.finished_at !== null && tone === 'bad')
  if (!view) return null
  if (view.text === 'no steps') return <span class="quiet">no steps</span>
  return (
    <span class={`progress ${tone}`}>
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
      <span class="num" title={view.words}>
        {view.text}
      </span>
    </span>
  )
}
