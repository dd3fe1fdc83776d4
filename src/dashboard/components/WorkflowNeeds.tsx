import type { RunRow } from '../../client/live/run.ts'
import { type Action, acknowledgeOf } from '../actions.ts'
import { type Json, needsOf } from '../detail.ts'
import { clipped } from '../format.ts'
import { words } from '../vocabulary.ts'
import { Uncertain } from './Uncertain.tsx'
import { When } from './When.tsx'

/** What a workflow wants of its owner: a word on its side effect, and to be seen. */
export function WorkflowNeeds({
  row,
  detail,
  onAsk,
}: {
  row: RunRow
  detail: Json | null
  onAsk(action: Action): void
}) {
  const { mutation, notifications } = needsOf(detail)
  return (
    <>
      {mutation && (
        <section aria-labelledby="uncertain">
          <div class="head">
            <h2 id="uncertain">Nobody knows whether it happened</h2>
          </div>
          <Uncertain row={row} mutation={mutation} onAsk={onAsk} />
        </section>
      )}
      {notifications.length > 0 && (
        <section aria-labelledby="notifications">
          <div class="head">
            <h2 id="notifications">Notifications</h2>
          </div>
          <ul class="plain-list notifications">
            {notifications.map(({ id, type, message, created_at }) => {
              const action = acknowledgeOf(row, id)
              return (
                <li key={id}>
                  <span class="quiet">
                    {words(type)}, <When at={created_at} />
                  </span>
                  <span class="message">{clipped(message, 2000)}</span>
                  {action && (
                    <button type="button" class="small" onClick={() => onAsk(action)}>
                      {action.button}
                    </button>
                  )}
                </li>
              )
            })}
          </ul>
        </section>
      )}
    </>
  )
}
