import type { SupabaseClient } from '@supabase/supabase-js'
import type { HandlerRunStatus, SessionStatus } from '../contract/workflow_runs.ts'
import type { MutationStatus, WorkflowState, WorkflowStatus } from '../contract/workflows.ts'
import { type Change, type HistoryRow, toChange } from './change.ts'
import { outdated } from './changes.ts'
import type { Hint } from './channel.ts'
import { fromDatabase, RollcallError } from './errors.ts'
import { hubOf } from './hub.ts'
import { Stream } from './stream.ts'

/** A transition of a workflow, of one of its sessions, of a handler run or of a side effect. */
export type WorkflowTransition =
  | Change<'workflow', WorkflowStatus>
  | Change<'script_run', SessionStatus>
  | Change<'handler_run', HandlerRunStatus>
  | Change<'mutation', MutationStatus>

/** What is shown of a workflow is something else than before. */
export interface StateChange {
  machine: 'state'
  /** The workflow. */
  subject_id: string
  /** Null for the first that is yielded. */
  from: WorkflowState | null
  to: WorkflowState
  version: number
  /** When the workflow was changed (ISO 8601). */
  at: string
}

/** A change of a workflow, and the cursor that reads on behind it. */
export type WorkflowChange = (WorkflowTransition | StateChange) & { cursor: string }

/** A page of `workflow_changes()`. */
type Page = {
  events: (HistoryRow & { cursor: string })[]
  next: string
  has_more: boolean
  reset: boolean
  state: WorkflowState
  version: number
  at: string
}

export interface WorkflowWatchOptions {
  /** The cursor of the last change that was handled; absent: from the beginning, `now`: what comes from now on. */
  after?: string | undefined
  signal?: AbortSignal | undefined
}

const PAGE = 500

/** So many events are remembered as read: hints of them come within seconds. */
const REMEMBERED = 500

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Follows one workflow until the reader leaves or the signal says so. */
export function watchWorkflow(
  supabase: SupabaseClient,
  owner_id: string | undefined,
  id: string,
  { after, signal }: WorkflowWatchOptions = {},
): AsyncIterableIterator<WorkflowChange> {
  const workflow_id = id.toLowerCase()
  return new Stream<WorkflowChange>((stream) => {
    if (!UUID.test(workflow_id)) {
      stream.fail(noWorkflowId(id))
      return () => {}
    }
    let cursor = after
    let state: WorkflowState | null = null
    let is_open = true
    const read_ids = new Set<number>()

    const take = ({ events, next, state: to, version, at, has_more }: Page): boolean => {
      for (const { cursor: behind, ...row } of events) {
        read_ids.add(row.id)
        stream.push({ ...(toChange(row) as WorkflowTransition), cursor: behind })
      }
      for (const old of read_ids) {
        if (read_ids.size <= REMEMBERED) break
        read_ids.delete(old)
      }
      cursor = next
      // In the middle of many pages the state is ahead of the transitions.
      if (has_more || to === state) return events.length > 0
      stream.push({ machine: 'state', subject_id: workflow_id, from: state, to, version, at, cursor: next })
      state = to
      return true
    }

    const readOn = async (reading: AbortSignal, count: () => void): Promise<boolean> => {
      for (let found = false; ; ) {
        count()
        const page = await readPage(supabase, workflow_id, owner_id, cursor, reading)
        if (!is_open) return found
        if (page.reset) {
          stream.fail(outdated(page.next))
          return found
        }
        if (take(page)) found = true
        if (!page.has_more) return found
      }
    }

    const leave = hubOf(supabase, owner_id).add({
      topic: `workflow:${workflow_id}`,
      async read(reading, count) {
        try {
          return await readOn(reading, count)
        } catch (error) {
          // No such workflow, or no such cursor: that is about this reader alone.
          if (!(error instanceof RollcallError && (error.status === 404 || error.status === 422))) throw error
          stream.fail(error)
          return false
        }
      },
      isBehind: ({ event_id }: Hint) => event_id === undefined || !read_ids.has(event_id),
      fail: (error) => stream.fail(error),
    })
    return () => {
      is_open = false
      leave()
    }
  }, signal)
}

/** @throws RollcallError */
async function readPage(
  supabase: SupabaseClient,
  workflow_id: string,
  owner_id: string | undefined,
  after: string | undefined,
  signal: AbortSignal,
): Promise<Page> {
  const from_now = after === 'now'
  const { data, error, status } = await supabase
    .rpc('workflow_changes', {
      workflow_id,
      max_rows: from_now ? 0 : PAGE,
      ...(after !== undefined && !from_now && { after }),
      ...(owner_id && { owner_id }),
    })
    .retry(false)
    .abortSignal(signal)
  signal.throwIfAborted()
  if (error) throw fromDatabase(error, status)
  return data as Page
}

function noWorkflowId(id: string): RollcallError {
  return new RollcallError({
    status: 422,
    code: 'invalid_request',
    message: `"${id}" is no workflow_id.`,
    hint: 'Pass the workflow_id that workflows.create() answered: a UUID.',
    details: { issues: [{ path: 'workflow_id', message: 'is no UUID' }] },
  })
}
