import type { Hint } from '../channel.ts'
import type { ChangesPage } from '../history.ts'
import type {
  Failures,
  RunKind,
  RunRow,
  RunsCounts,
  RunsFilter,
  RunsPage,
  RunsPlace,
  Timeline,
  Timing,
} from './run.ts'

/** What can be heard: everything of the reader, or one run. */
export type Topic = { everything: true } | { kind: RunKind; id: string }

export interface TopicEvents {
  /** Something changed. Carries no more than what the topic says (live.md); only `progress` is used as data. */
  hint(hint: Hint & { current_prompt_index?: number; total_prompts?: number; version?: number }): void
  /** The feed is ready: pushes arrive from now on. Also after each rejoin. */
  ready(): void
  /** Pushes may be lost from now on; the source tries again by itself. */
  lost(): void
}

export interface CatalogState {
  state: string
  kind: 'initial' | 'open' | 'terminal'
  position: number
  description: string
  time_limit_s: number | null
  allowed: string[]
}

export interface Catalog {
  schema_version: number
  machines: { name: string; description: string; history: boolean; states: CatalogState[] }[]
  error_codes: {
    code: string
    attribution: 'user' | 'host' | 'platform' | 'system'
    retryable: boolean
    meaning: string
    next_step: string
  }[]
}

/** What GET of the run answers, as it is: /status, /executions/:id, /workflows/:id or /workflows/:id/runs/:id. */
export type RunDetail = Record<string, unknown>

/**
 * Where the runs come from. Every read throws RollcallError (`status` 0: no answer; 401: signed out) or the reason of
 * its signal, and is not repeated: whoever asks decides when to ask again.
 */
export interface RunsSource {
  catalog(signal: AbortSignal): Promise<Catalog>
  list(filter: RunsFilter, before: RunsPlace | null, max_rows: number, signal: AbortSignal): Promise<RunsPage>
  /**
   * The rows that these subjects belong to, whatever their machine: a handler run's also brings its workflow. At most
   * 200 ids. `matches`: the ids of the rows that the filter lets through.
   */
  get(
    ids: readonly string[],
    filter: RunsFilter,
    signal: AbortSignal,
  ): Promise<{ items: RunRow[]; matches: string[]; as_of: string }>
  counts(filter: RunsFilter, signal: AbortSignal): Promise<RunsCounts>
  /** `status_changes()`: null for from the beginning, max_rows 0 for a cursor alone. */
  changes(after: string | null, max_rows: number, signal: AbortSignal): Promise<ChangesPage>
  /** The newest transitions since a time, oldest first, and the cursor behind them. */
  recent(since: string, max_rows: number, signal: AbortSignal): Promise<Pick<ChangesPage, 'events' | 'next'>>
  timeline(id: string, signal: AbortSignal): Promise<Timeline>
  detail(
    run: Pick<RunRow, 'id' | 'kind' | 'workflow_id' | 'session_id'>,
    signal: AbortSignal,
  ): Promise<RunDetail>
  timing(machine: string, since: string, until: string, signal: AbortSignal): Promise<Timing>
  failures(filter: RunsFilter, signal: AbortSignal): Promise<Failures>
  /** Hears a topic from now on. Returns how to end that. */
  listen(topic: Topic, events: TopicEvents): () => void
}
