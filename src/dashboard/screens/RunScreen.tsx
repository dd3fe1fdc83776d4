import { useEffect, useState } from 'preact/hooks'
import type { LiveSnapshot } from '../../client/live/live.ts'
import { type Action, actionsOf } from '../actions.ts'
import { ActionDialog } from '../components/ActionDialog.tsx'
import { CopyButton, copy } from '../components/CopyButton.tsx'
import { ErrorPanel } from '../components/ErrorPanel.tsx'
import { Facts } from '../components/Facts.tsx'
import { HandlerPanel } from '../components/HandlerPanel.tsx'
import { Icon } from '../components/Icon.tsx'
import { Problem } from '../components/Problem.tsx'
import { ProgressBar } from '../components/ProgressBar.tsx'
import { RawPanel } from '../components/RawPanel.tsx'
import { returnToRow } from '../components/RunsTable.tsx'
import { Sessions } from '../components/Sessions.tsx'
import { Skeleton } from '../components/Skeleton.tsx'
import { StateBadge } from '../components/StateBadge.tsx'
import { Steps } from '../components/Steps.tsx'
import { TimelineList } from '../components/TimelineList.tsx'
import { When } from '../components/When.tsx'
import { WorkflowNeeds } from '../components/WorkflowNeeds.tsx'
import { useDesk } from '../desk.ts'
import { failureOf, handlerOf, nameOf, stepsOf } from '../detail.ts'
import { clipped } from '../format.ts'
import { runHash, runsHash } from '../route.ts'
import { useShortcuts } from '../shortcuts.ts'
import type { View } from '../view.ts'
import { toneOf, words } from '../vocabulary.ts'

/** One run, followed closely. */
export function RunScreen({ id, seen, view }: { id: string; seen: LiveSnapshot; view: View }) {
  const { live } = useDesk()
  const [asked, setAsked] = useState<Action | null>(null)
  const [stop_sent, setStopSent] = useState(false)
  useEffect(() => live.openRun(id), [live, id])
  useEffect(returnToRow, [])

  const open = seen.open.get(id)
  const row = open?.row ?? seen.rows.find((its) => its.id === id) ?? null
  const { catalog } = seen
  const tone = row && toneOf(row, catalog)
  const actions = row && tone ? actionsOf(row, tone) : []
  const at = seen.rows.findIndex((its) => its.id === id)
  const back = runsHash(view)
  const act = (...names: string[]) => {
    const action = actions.find(({ name }) => names.includes(name))
    return action && !(stop_sent && action.is_dangerous) ? () => setAsked(action) : undefined
  }
  const goBack = () => {
    location.hash = back
  }
  useShortcuts({
    u: goBack,
    Escape: goBack,
    c: () => void copy(id, 'Id'),
    s: act('stop', 'cancel', 'pause'),
    r: act('retry'),
    j: at >= 0 && seen.rows[at + 1] ? () => goTo(seen.rows[at + 1]?.id) : undefined,
    k: at > 0 ? () => goTo(seen.rows[at - 1]?.id) : undefined,
  })

  const neighbour = (words_: string, to: number) => {
    const other = at >= 0 ? seen.rows[to] : undefined
    return other ? (
      <a class="button" href={runHash(other.id)} title={clipped(other.name, 80)}>
        {words_}
      </a>
    ) : null
  }
  const top = (
    <nav class="trail" aria-label="List">
      <a class="button" href={back}>
        <Icon name="back" /> Runs
      </a>
      {neighbour('Newer', at - 1)}
      {neighbour('Older', at + 1)}
    </nav>
  )

  if (!row || !open) {
    const is_gone = open?.error?.status === 404 || open?.error?.status === 422
    return (
      <>
        {top}
        <h1>{is_gone ? 'No such run' : 'Run'}</h1>
        {is_gone ? (
          <p class="notice">
            No run <code>{clipped(id, 60)}</code>. It may have been purged, or belongs to someone else.
          </p>
        ) : open?.error ? (
          <Problem what="This run can not be read." error={open.error} onRetry={() => live.refresh()} />
        ) : (
          <div aria-busy="true">
            <Skeleton />
          </div>
        )}
      </>
    )
  }

  const failure = failureOf(row, open.detail, catalog)
  const steps = stepsOf(row, open.detail)
  const handler = row.kind === 'handler' ? handlerOf(open) : null
  const rule = seen.counts?.stuck_rules.find((its) => its.kind === row.kind && its.rule === row.stuck_rule)
  const stop_asked = row.stop_requested_at !== null || (stop_sent && row.finished_at === null)
  return (
    <>
      {top}
      <div class="title run-title">
        <h1>
          <bdi>{clipped(nameOf(row, open.detail), 200)}</bdi>
        </h1>
        <StateBadge row={row} catalog={catalog} is_big />
        <div class="buttons">
          {stop_asked && row.finished_at === null && (
            <span class="quiet requested">
              stop requested {row.stop_requested_at ? <When at={row.stop_requested_at} /> : 'just now'}
            </span>
          )}
          {actions.map((action) => (
            <button
              type="button"
              key={action.name}
              aria-disabled={stop_asked && action.is_dangerous}
              onClick={() => !(stop_asked && action.is_dangerous) && setAsked(action)}
            >
              {action.button}
            </button>
          ))}
          <CopyButton text={location.href} what="Link" words="Copy link" />
        </div>
      </div>
      {row.stuck_rule && (
        <p class="banner stuck-banner">
          <span>
            <strong>Stuck: </strong>
            {rule?.words ?? words(row.stuck_rule)}
          </span>
        </p>
      )}
      {failure && <ErrorPanel failure={failure} />}
      {open.error && (
        <Problem what="Some of this run can not be read." error={open.error} onRetry={() => live.refresh()} />
      )}
      <div class="run-body">
        <div class="run-main">
          {steps.length > 0 ? (
            <Steps row={row} steps={steps} />
          ) : (
            row.progress_total !== null && <ProgressBar row={row} />
          )}
          {row.kind === 'workflow' && <WorkflowNeeds row={row} detail={open.detail} onAsk={setAsked} />}
          {row.kind === 'workflow' && <Sessions id={row.id} version={row.version} />}
          {handler && <HandlerPanel row={row} run={handler} onAsk={setAsked} />}
          {open.timeline && <TimelineList timeline={open.timeline} row={row} catalog={catalog} />}
          {!open.timeline && open.is_loading && <Skeleton />}
        </div>
        <aside aria-label="Facts">
          <Facts row={row} open={open} />
        </aside>
      </div>
      <RawPanel row={row} open={open} />
      {asked && (
        <ActionDialog
          row={row}
          action={asked}
          onClose={(is_done) => {
            // What hangs on a workflow is no part of its row.
            if (is_done && asked.path) live.refresh()
            else if (is_done && asked.is_dangerous) setStopSent(true)
            setAsked(null)
          }}
        />
      )}
    </>
  )
}

function goTo(id: string | undefined): void {
  if (id !== undefined) location.hash = runHash(id)
}
