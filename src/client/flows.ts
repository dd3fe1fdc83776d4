import type { SupabaseClient } from '@supabase/supabase-js'
import type {
  ActiveExecutions,
  Execution,
  ExecutionInclude,
  ExecutionList,
  ExecutionSummary,
} from '../contract/executions.ts'
import type { Flow, FlowAgent, FlowList, Prompt } from '../contract/flows.ts'
import type { CallOptions, JoinOptions } from './bots.ts'
import { RollcallError } from './errors.ts'
import { callFunction, type FunctionCall } from './http.ts'
import { hubOf } from './hub.ts'
import { Stream } from './stream.ts'

export interface PageOptions extends CallOptions {
  /** 1 to 200. */
  limit?: number
  /** `next_cursor` of the page before. */
  cursor?: string
}

export interface ExecutionOptions extends CallOptions {
  /** The results, unless this leaves them out: `[]`, or any of `results` and `events`. */
  include?: readonly ExecutionInclude[]
}

export interface FlowDefinition {
  name: string
  /** 1 to 200, at most 32 KB each. */
  prompts: Prompt[]
  agent?: FlowAgent
}

/** Prompt flows and their executions. Every call throws RollcallError, or the reason of its signal. */
export interface Flows {
  create(flow: FlowDefinition, options?: CallOptions): Promise<Flow>
  /** The flow itself; `get` is about an execution. */
  definition(flow_id: string, options?: CallOptions): Promise<Flow>
  list(options?: PageOptions): Promise<FlowList>
  /** Executions that run keep the prompts that they began with. */
  update(flow_id: string, change: Partial<FlowDefinition>, options?: CallOptions): Promise<Flow>
  delete(flow_id: string, options?: CallOptions): Promise<void>
  run(flow_id: string, options?: JoinOptions): Promise<ExecutionSummary>
  get(execution_id: string, options?: ExecutionOptions): Promise<Execution>
  /** All that run, oldest first. */
  active(options?: CallOptions): Promise<ActiveExecutions>
  /** Newest first. */
  recent(options?: PageOptions): Promise<ExecutionList>
  /** Ends it at once; a late answer is dropped. */
  cancel(execution_id: string, options?: CallOptions): Promise<ExecutionSummary>
  /** A new execution of a failed one: from the start, or with its results from the prompt that failed. */
  retry(
    execution_id: string,
    from: 'start' | 'failed_prompt',
    options?: JoinOptions,
  ): Promise<ExecutionSummary>
  /**
   * The execution now, and each time that it has come further; it ends after the end. What was over before it could be
   * read is skipped: `current_prompt_index` only grows.
   */
  watch(execution_id: string, options?: CallOptions): AsyncIterableIterator<ExecutionSummary>
}

/** The part of the client that is about flows. */
export function createFlows(supabase: SupabaseClient, owner_id: string | undefined): Flows {
  const owner = owner_id === undefined ? {} : { owner_id }
  const ask = <T>(
    path: string,
    { signal }: CallOptions,
    query: FunctionCall['query'] = {},
    method: 'GET' | 'DELETE' = 'GET',
  ) => callFunction<T>(supabase, path, { method, query: { ...query, ...owner }, signal })
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
  const flow = (id: string) => `flows/${encodeURIComponent(id)}`
  const execution = (id: string) => `executions/${encodeURIComponent(id)}`

  function watch(
    execution_id: string,
    { signal }: CallOptions = {},
  ): AsyncIterableIterator<ExecutionSummary> {
    return new Stream<ExecutionSummary>((stream) => {
      let seen = ''
      return hubOf(supabase, owner_id).add({
        topic: undefined,
        isBehind: () => true,
        fail: (error) => stream.fail(error),
        async read(reading, count) {
          count()
          let now: ExecutionSummary
          try {
            now = await ask(execution(execution_id), { signal: reading }, { include: '' })
          } catch (error) {
            // No such execution: that is about this one alone.
            if (!(error instanceof RollcallError) || error.status !== 404) throw error
            stream.fail(error)
            return false
          }
          const place = `${now.version} ${now.current_prompt_index} ${now.started}`
          if (place === seen) return false
          seen = place
          stream.push(now)
          if (now.status !== 'running') stream.end()
          return true
        },
      })
    }, signal)
  }

  return {
    create: (definition, options = {}) => tell('flows', options, definition),
    definition: (flow_id, options = {}) => ask(flow(flow_id), options),
    list: ({ signal, ...page } = {}) => ask('flows', { signal }, page),
    update: (flow_id, change, options = {}) => tell(flow(flow_id), options, change, 'PATCH'),
    async delete(flow_id, options = {}) {
      await ask(flow(flow_id), options, {}, 'DELETE')
    },
    run: (flow_id, options = {}) => tell(`${flow(flow_id)}/run`, options),
    get: (execution_id, { include, signal } = {}) =>
      ask(execution(execution_id), { signal }, { include: include?.join(',') }),
    active: (options = {}) => ask('executions/active', options),
    recent: ({ signal, ...page } = {}) => ask('executions/recent', { signal }, page),
    cancel: (execution_id, options = {}) => tell(`${execution(execution_id)}/cancel`, options),
    retry: (execution_id, from, options = {}) => tell(`${execution(execution_id)}/retry`, options, { from }),
    watch,
  }
}
