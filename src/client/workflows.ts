import type { SupabaseClient } from '@supabase/supabase-js'
import type { WholeWorkflowRun, WorkflowRunList } from '../contract/workflow_runs.ts'
import type {
  AddedMessage,
  SavedScript,
  Script,
  ScriptList,
  SecretNames,
  WorkflowMessageList,
} from '../contract/workflow_texts.ts'
import type {
  NewWorkflow,
  RequestedRun,
  Resolution,
  WholeWorkflow,
  Workflow,
  WorkflowList,
  WorkflowState,
} from '../contract/workflows.ts'
import type { CallOptions, JoinOptions } from './bots.ts'
import { RollcallError } from './errors.ts'
import type { PageOptions } from './flows.ts'
import { callFunction, type FunctionCall } from './http.ts'
import { type WorkflowChange, type WorkflowWatchOptions, watchWorkflow } from './workflow_watch.ts'

/** A workflow to be: words from which the agent writes its script, or the script itself. */
export type WorkflowDefinition = ({ message: string; title?: string } | { title: string; code: string }) & {
  /** As `Europe/Berlin`, for cron schedules; UTC if absent. */
  time_zone?: string
}

export interface WorkflowListOptions extends PageOptions {
  state?: WorkflowState
}

export interface StateWaitOptions extends CallOptions {
  /** Absent: as long as it takes. */
  timeout_ms?: number
}

/** Automations. Every call throws RollcallError, or the reason of its signal. */
export interface Workflows {
  /** A draft until it is activated. */
  create(workflow: WorkflowDefinition, options?: JoinOptions): Promise<NewWorkflow>
  get(workflow_id: string, options?: CallOptions): Promise<WholeWorkflow>
  /** What is absent stays as it is; in another time zone each cron is planned anew. */
  update(
    workflow_id: string,
    change: { title?: string; time_zone?: string },
    options?: CallOptions,
  ): Promise<Workflow>
  /** Newest first. */
  list(options?: WorkflowListOptions): Promise<WorkflowList>
  /** What was said about it, newest first. */
  messages(workflow_id: string, options?: PageOptions): Promise<WorkflowMessageList>
  /** Says something to the agent, which then changes the script or asks back. */
  talk(workflow_id: string, content: string, options?: CallOptions): Promise<AddedMessage>
  /** All versions of the script, newest first, without their code. */
  scripts(workflow_id: string, options?: CallOptions): Promise<ScriptList>
  get_script(workflow_id: string, script_id: string, options?: CallOptions): Promise<Script>
  /** A new version; it activates nothing. What is wrong with it is in `details.issues` of the 422. */
  save_script(
    workflow_id: string,
    script: { code: string; comment?: string; summary?: string },
    options?: CallOptions,
  ): Promise<SavedScript>
  /** Runs from now on by this script, or by the newest. */
  activate(workflow_id: string, options?: CallOptions & { script_id?: string }): Promise<Workflow>
  /** No new session begins; what runs goes on to its next phase and fails nothing. */
  pause(workflow_id: string, options?: CallOptions): Promise<Workflow>
  /** Goes on, with its error cleared. */
  resume(workflow_id: string, options?: CallOptions): Promise<Workflow>
  archive(workflow_id: string, options?: CallOptions): Promise<Workflow>
  unarchive(workflow_id: string, options?: CallOptions): Promise<Workflow>
  /** Clears the error; everything is due now. */
  retry(workflow_id: string, options?: CallOptions): Promise<Workflow>
  /** Runs it once now, also where it is not active. Its side effects are real. */
  run(workflow_id: string, options?: JoinOptions): Promise<RequestedRun>
  /** Nobody reads it again: scripts name it as `{{secret.NAME}}`. Null takes it away. */
  set_secret(
    workflow_id: string,
    name: string,
    value: string | null,
    options?: CallOptions,
  ): Promise<SecretNames>
  /** Hides an error event that the owner has seen. */
  acknowledge(workflow_id: string, event_id: string, options?: CallOptions): Promise<Workflow>
  /** Hides a notification that the owner has seen, such as a message of the script. */
  acknowledge_notification(
    workflow_id: string,
    notification_id: string,
    options?: CallOptions,
  ): Promise<Workflow>
  /** Says what became of a side effect of which nobody knows: a `result` only goes with `applied`. */
  resolve(
    workflow_id: string,
    mutation_id: string,
    how: Resolution,
    options?: CallOptions & { result?: unknown },
  ): Promise<Workflow>
  /** Its sessions with their handler runs, newest first. */
  runs(workflow_id: string, options?: PageOptions): Promise<WorkflowRunList>
  /** One session with logs, events and side effects. */
  get_run(workflow_id: string, run_id: string, options?: CallOptions): Promise<WholeWorkflowRun>
  /**
   * Every transition of the workflow, its sessions, handler runs and side effects exactly once and in order, and what is
   * shown of it (`machine: 'state'`): first as it is, then each time that it is something else. It ends only by leaving
   * the loop or by the signal.
   */
  watch(workflow_id: string, options?: WorkflowWatchOptions): AsyncIterableIterator<WorkflowChange>
  /**
   * Resolves once the workflow is shown in a state, with the workflow as it is then.
   * @throws RollcallError 408 `timeout`.
   */
  wait(workflow_id: string, state: WorkflowState, options?: StateWaitOptions): Promise<WholeWorkflow>
}

/** The part of the client that is about automations. */
export function createWorkflows(supabase: SupabaseClient, owner_id: string | undefined): Workflows {
  const owner = owner_id === undefined ? {} : { owner_id }
  const ask = <T>(path: string, { signal }: CallOptions, query: FunctionCall['query'] = {}) =>
    callFunction<T>(supabase, path, { method: 'GET', query: { ...query, ...owner }, signal })
  const tell = <T>(
    path: string,
    { signal, idempotency_key }: JoinOptions,
    body: object = {},
    method: 'POST' | 'PATCH' = 'POST',
  ) =>
    callFunction<T>(supabase, path, {
      method,
      body: { ...body, ...owner },
      ...(idempotency_key !== undefined && { headers: { 'idempotency-key': idempotency_key } }),
      signal,
    })
  const at = (id: string, ...more: string[]) =>
    ['workflows', encodeURIComponent(id), ...more.map(encodeURIComponent)].join('/')
  const act =
    (action: string) =>
    (workflow_id: string, options: JoinOptions = {}) =>
      tell<Workflow>(at(workflow_id, action), options)

  const get: Workflows['get'] = (workflow_id, options = {}) => ask(at(workflow_id), options)

  const watch: Workflows['watch'] = (workflow_id, options) =>
    watchWorkflow(supabase, owner_id, workflow_id, options)

  async function wait(
    workflow_id: string,
    state: WorkflowState,
    { timeout_ms, signal }: StateWaitOptions = {},
  ): Promise<WholeWorkflow> {
    const over = new AbortController()
    const abort = () => over.abort(signal?.reason)
    if (signal?.aborted) abort()
    signal?.addEventListener('abort', abort)
    const timer =
      timeout_ms === undefined
        ? undefined
        : setTimeout(() => over.abort(timedOut(state, timeout_ms)), timeout_ms)
    try {
      for await (const change of watch(workflow_id, { after: 'now', signal: over.signal })) {
        if (change.machine !== 'state' || change.to !== state) continue
        return await get(workflow_id, { signal: over.signal })
      }
      throw new Error('A watch of a workflow has no end of its own.')
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
    }
  }

  return {
    create: (workflow, options = {}) => tell('workflows', options, workflow),
    get,
    update: (workflow_id, change, options = {}) => tell(at(workflow_id), options, change, 'PATCH'),
    list: ({ signal, ...filters } = {}) => ask('workflows', { signal }, filters),
    messages: (workflow_id, { signal, ...page } = {}) => ask(at(workflow_id, 'messages'), { signal }, page),
    talk: (workflow_id, content, options = {}) => tell(at(workflow_id, 'messages'), options, { content }),
    scripts: (workflow_id, options = {}) => ask(at(workflow_id, 'scripts'), options),
    get_script: (workflow_id, script_id, options = {}) => ask(at(workflow_id, 'scripts', script_id), options),
    save_script: (workflow_id, script, options = {}) => tell(at(workflow_id, 'script'), options, script),
    activate: (workflow_id, { script_id, ...options } = {}) =>
      tell(at(workflow_id, 'activate'), options, { ...(script_id !== undefined && { script_id }) }),
    pause: act('pause'),
    resume: act('resume'),
    archive: act('archive'),
    unarchive: act('unarchive'),
    retry: act('retry'),
    run: (workflow_id, options = {}) => tell(at(workflow_id, 'run'), options),
    set_secret: (workflow_id, name, value, options = {}) =>
      tell(at(workflow_id, 'secrets'), options, { name, value }),
    acknowledge: (workflow_id, event_id, options = {}) =>
      tell(at(workflow_id, 'errors', event_id, 'acknowledge'), options),
    acknowledge_notification: (workflow_id, notification_id, options = {}) =>
      tell(at(workflow_id, 'notifications', notification_id, 'acknowledge'), options),
    resolve: (workflow_id, mutation_id, how, { result, ...options } = {}) =>
      tell(at(workflow_id, 'mutations', mutation_id, 'resolve'), options, {
        how,
        ...(result !== undefined && { result }),
      }),
    runs: (workflow_id, { signal, ...page } = {}) => ask(at(workflow_id, 'runs'), { signal }, page),
    get_run: (workflow_id, run_id, options = {}) => ask(at(workflow_id, 'runs', run_id), options),
    watch,
    wait,
  }
}

function timedOut(state: string, timeout_ms: number): RollcallError {
  return new RollcallError({
    status: 408,
    code: 'timeout',
    message: `The workflow was not ${state} within ${timeout_ms} ms.`,
    hint: 'It goes on: wait again, or look at its error with workflows.get().',
    details: { state, timeout_ms },
  })
}
