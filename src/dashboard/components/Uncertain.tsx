import type { RunRow } from '../../client/live/run.ts'
import { type Action, resolutionsOf } from '../actions.ts'
import type { MutationDetail } from '../detail.ts'
import { clipped } from '../format.ts'
import { JsonBlock } from './JsonBlock.tsx'

/** A side effect, what was asked with it, and what may be said of it where nobody knows whether it happened. */
export function Uncertain({
  row,
  mutation,
  onAsk,
}: {
  row: RunRow
  mutation: MutationDetail
  onAsk(action: Action): void
}) {
  const actions = resolutionsOf(row, mutation)
  return (
    <>
      <p>
        Its side effect <code>{mutation.tool}</code>: <strong>{mutation.status}</strong>
        {mutation.error && ` – ${clipped(mutation.error, 300)}`}
      </p>
      <JsonBlock title="What was asked" value={mutation.params} name="mutation" />
      {actions.length > 0 && (
        <div class="buttons">
          {actions.map((action) => (
            <button type="button" key={action.button} onClick={() => onAsk(action)}>
              {action.button}
            </button>
          ))}
        </div>
      )}
    </>
  )
}
