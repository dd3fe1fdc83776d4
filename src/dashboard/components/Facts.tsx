import type { ComponentChildren } from 'preact'
import type { OpenRun } from '../../client/live/open_runs.ts'
import type { RunRow } from '../../client/live/run.ts'
import { namesOf } from '../detail.ts'
import { clipped, shortId } from '../format.ts'
import { runHash } from '../route.ts'
import { kind_names, words } from '../vocabulary.ts'
import { CopyButton } from './CopyButton.tsx'
import { Since } from './Since.tsx'
import { When } from './When.tsx'

/** What is known of a run in a line each. */
export function Facts({ row, open }: { row: RunRow; open: OpenRun }) {
  const { timeline } = open
  const fact = (name: string, value: ComponentChildren) => (
    <div key={name}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  )
  const run_link = (id: string) => (
    <a href={runHash(id)}>
      <code>{shortId(id)}</code>
    </a>
  )
  const retry_of = timeline?.retry_of ?? row.retry_of
  return (
    <dl class="facts">
      {fact('Kind', kind_names[row.kind]?.one ?? row.kind)}
      {fact(
        'Id',
        <>
          <code>{row.id}</code> <CopyButton text={row.id} what="Id" />
        </>,
      )}
      {fact('Created', <When at={row.created_at} ms />)}
      {row.started_at && fact('Started', <When at={row.started_at} ms />)}
      {row.finished_at && fact('Finished', <When at={row.finished_at} ms />)}
      {row.kind !== 'workflow' && fact('Total', <Since at={row.created_at} until={row.finished_at} />)}
      {row.finished_at === null && fact('In state', <Since at={row.state_since} />)}
      {row.attempt > 1 && fact('Attempt', row.attempt)}
      {row.meeting_status && fact('In the meeting', words(row.meeting_status))}
      {row.container_status && fact('Container', row.container_status)}
      {row.reason && fact(row.kind === 'workflow' ? 'Status' : 'Reason', words(row.reason))}
      {row.last_heartbeat_at &&
        row.finished_at === null &&
        fact('Last heard', <When at={row.last_heartbeat_at} />)}
      {row.deadline_at && row.finished_at === null && fact('Deadline', <When at={row.deadline_at} ms />)}
      {row.stop_requested_at && fact('Stop requested', <When at={row.stop_requested_at} />)}
      {retry_of && fact('Retry of', run_link(retry_of))}
      {timeline?.retried_by && fact('Retried by', run_link(timeline.retried_by))}
      {row.workflow_id && row.workflow_id !== row.id && fact('Workflow', run_link(row.workflow_id))}
      {namesOf(row, open.detail).map(([name, value]) =>
        fact(
          name,
          <>
            {/^https:\/\//.test(value) ? (
              <a href={value} rel="noreferrer" target="_blank">
                <bdi>{clipped(value, 80)}</bdi>
              </a>
            ) : (
              <bdi>{clipped(value, 80)}</bdi>
            )}{' '}
            <CopyButton text={value} what={name} />
          </>,
        ),
      )}
    </dl>
  )
}
