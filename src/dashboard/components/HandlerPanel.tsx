import type { HandlerDetail } from '../detail.ts'
import { clipped, count } from '../format.ts'
import { JsonBlock } from './JsonBlock.tsx'

/** What a handler run did: its phase, side effect, events and logs. */
export function HandlerPanel({ run }: { run: HandlerDetail }) {
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
      {mutation && (
        <>
          <p>
            Its side effect <code>{mutation.tool}</code>: <strong>{mutation.status}</strong>
            {mutation.error && ` – ${clipped(mutation.error, 300)}`}
          </p>
          <JsonBlock title="What was asked" value={mutation.params} name="mutation" />
        </>
      )}
      {events.length > 0 && <JsonBlock title={`Events (${events.length})`} value={events} name="events" />}
      {Array.isArray(logs) && logs.length > 0 && (
        <pre class="logs wrapped">
          {clipped(logs.map(({ level, text }) => `${level.padEnd(5)} ${text}`).join('\n'), 64 * 1024)}
        </pre>
      )}
    </section>
  )
}
