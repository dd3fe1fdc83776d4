import type { OpenRun } from '../../client/live/open_runs.ts'
import type { RunRow } from '../../client/live/run.ts'
import { useDesk } from '../desk.ts'
import { CopyButton } from './CopyButton.tsx'
import { JsonBlock } from './JsonBlock.tsx'

/** The run for machines: its JSON, and the commands to read, watch and stop it. */
export function RawPanel({ row, open }: { row: RunRow; open: OpenRun }) {
  const { url } = useDesk()
  const path = {
    bot: `status?bot_id=${row.id}`,
    flow: `executions/${row.id}`,
    workflow: `workflows/${row.id}`,
    handler: `workflows/${row.workflow_id}/runs/${row.session_id}`,
  }[row.kind]
  const commands = [
    `curl '${url}/functions/v1/${path}' \\\n  -H "apikey: $SUPABASE_KEY" -H "Authorization: Bearer $TOKEN"`,
    `npx rollcall watch ${row.id}`,
    ...(row.finished_at === null && row.kind !== 'handler' ? [`npx rollcall stop ${row.id}`] : []),
  ]
  return (
    <section aria-labelledby="raw">
      <div class="head">
        <h2 id="raw">For machines</h2>
      </div>
      {commands.map((command) => (
        <div class="code" key={command}>
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: who has no mouse scrolls it with the arrows */}
          <pre tabIndex={0}>{command}</pre>
          <CopyButton text={command} what="Command" words="Copy" />
        </div>
      ))}
      <JsonBlock title="JSON of this run" value={{ row, ...open.detail }} name={row.id} />
    </section>
  )
}
