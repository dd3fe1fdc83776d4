import type { RunRow } from '../../client/live/run.ts'
import type { Action } from '../actions.ts'
import type { HandlerDetail } from '../detail.ts'
import { clipped, count } from '../format.ts'
import { JsonBlock } from './JsonBlock.tsx'
import { Uncertain } from './Uncertain.tsx'

/** What a handler run did: its phase, side effect, events and logs. */
export function HandlerPanel({
  row,
  run,
  onAsk,
}: {
  row: RunRow
  run: HandlerDetail
  onAsk(action: Action): void
}) {
  const { mutation, logs, events } = run
  return (
    <section aria-labelledby="handler">
      <div class="head">
        <h2 id="handler">Handler</h2>
      </div>
      <p>
        A {run.handler_type} in phase <strong>{run.phase}</strong>
        {run.cost_microusd > 0 && `, cost ${count(run.cost_microusd)} µ$`}.
      </p>
      {mutation && <Uncertain row={row} mutation={mutation} onAsk={onAsk} />}
      {events.length > 0 && <JsonBlock title={`Events (${events.length})`} value={events} name="events" />}
      {Array.isArray(logs) && logs.length > 0 && (
        <pre class="logs wrapped">
          {clipped(logs.map(({ level, text }) => `${level.padEnd(5)} ${text}`).join('\n'), 64 * 1024)}
        </pre>
      )}
    </section>
  )
}
