import type { WorkflowRunList } from '../../contract/workflow_runs.ts'
import { useDesk } from '../desk.ts'
import { shortId } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { runHash } from '../route.ts'
import { toneOfTransition } from '../vocabulary.ts'
import { Icon } from './Icon.tsx'
import { Problem } from './Problem.tsx'
import { Since } from './Since.tsx'
import { When } from './When.tsx'

/** The newest runs of a workflow, each with its handlers. */
export function Sessions({ id, version }: { id: string; version: number }) {
  const { source } = useDesk()
  const read = useLoaded(`${id} ${version}`, (signal) =>
    source.call<WorkflowRunList>(`workflows/${id}/runs`, { method: 'GET', query: { limit: 10 }, signal }),
  )
  return (
    <section aria-labelledby="sessions">
      <div class="head">
        <h2 id="sessions">Latest runs</h2>
      </div>
      {read.error && <Problem what="They can not be read." error={read.error} onRetry={read.again} />}
      {read.data?.items.length === 0 && <p class="quiet">It has not run yet.</p>}
      <ol class="sessions">
        {read.data?.items.map((run) => (
          <li key={run.id}>
            <span class={`state ${toneOfTransition('script_run', run.status)}`}>
              <Icon name={toneOfTransition('script_run', run.status)} />
              {run.status}
            </span>
            <span class="quiet">
              <When at={run.started_at} />, {run.trigger}, script {run.script_version},{' '}
              <Since at={run.started_at} until={run.ended_at} />
            </span>
            <span class="handlers">
              {run.handler_runs.map((handler) => (
                <a key={handler.id} href={runHash(handler.id)} title={shortId(handler.id)}>
                  {handler.handler_name}: {handler.status}
                </a>
              ))}
            </span>
          </li>
        ))}
      </ol>
    </section>
  )
}
