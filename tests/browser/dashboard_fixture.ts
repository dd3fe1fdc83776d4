import { RollcallError } from '../../src/client/errors.ts'
import type { FunctionCall } from '../../src/client/live/project_source.ts'
import {
  type RunRow,
  type RunsCounts,
  type RunsFilter,
  run_kinds,
  type Timeline,
} from '../../src/client/live/run.ts'
import type { TopicEvents } from '../../src/client/live/source.ts'
import type { DashboardSource } from '../../src/dashboard/desk.ts'
import { mount } from '../../src/dashboard/mount.tsx'

// The page on runs that a test makes up, in the place of main.tsx. `window.fixture` is the project.

type Method =
  | 'catalog'
  | 'list'
  | 'get'
  | 'counts'
  | 'changes'
  | 'timeline'
  | 'detail'
  | 'timing'
  | 'failures'
  | 'call'
type Fault = { status: number; code?: string; message?: string; details?: Record<string, unknown> }

const stuck_rules = [
  {
    kind: 'bot' as const,
    rule: 'no_heartbeat',
    words: 'It is in the meeting and said nothing for more than 120 s.',
  },
]
const states = {
  bot: ['pending', 'starting', 'running', 'completed', 'failed'],
  handler: ['active', 'paused:transient', 'failed:logic', 'crashed', 'committed'],
  workflow: ['draft', 'ready', 'active', 'paused', 'error', 'fixing', 'archived'],
  flow: ['running', 'completed', 'failed'],
}
const ends = new Set(['completed', 'failed', 'failed:logic', 'crashed', 'committed'])

let sequence = 0
const rows = new Map<string, RunRow>()
const log: { subject_id: string }[] = []
const listeners = new Map<TopicEvents, string>()
let feed_is_up = true

const fixture = {
  /** What the server's clock is ahead (ms). */
  skew_ms: 0,
  is_operator: true,
  page_size: 100,
  /** Counts as they were made up before: counting 10,000 runs here would be measured as the page's own work. */
  counts: null as RunsCounts | null,
  schema_version: 1,
  faults: {} as Partial<Record<Method, Fault | null>>,
  delays: {} as Partial<Record<Method, number>>,
  /** Answers of edge functions by path; a fault is thrown. */
  answers: {} as Record<string, unknown>,
  details: {} as Record<string, Record<string, unknown>>,
  timelines: {} as Record<string, Partial<Timeline>>,
  requests: [] as { method: Method; at: number; body?: unknown; path?: string }[],
  running: 0,
  most_running: 0,

  id(n: number): string {
    return `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`
  },
  /** Adds a run, or changes one: a transition where the state is another. Nobody is told before tell(). */
  put(n: number, change: Partial<RunRow> = {}): string {
    const id = fixture.id(n)
    const held = rows.get(id)
    const now = stamp(fixture.now())
    const is_move = held === undefined || (change.state !== undefined && change.state !== held.state)
    const next: RunRow = {
      ...(held ?? fresh(id, n)),
      ...change,
      version: (held?.version ?? 0) + 1,
      updated_at: now,
    }
    if (is_move && change.state_since === undefined && held) next.state_since = now
    if (ends.has(next.state) && next.finished_at === null) next.finished_at = now
    if (!ends.has(next.state)) next.finished_at = null
    if (change.allowed_actions === undefined) next.allowed_actions = actionsOf(next)
    rows.set(id, next)
    log.push({ subject_id: id })
    return id
  },
  /** Many ended runs, one a minute back. */
  fill(count: number): void {
    for (let n = 1; n <= count; n++) {
      const at = stamp(fixture.now() - n * 1000)
      const has_failed = n % 10 === 0
      const row: RunRow = {
        ...fresh(fixture.id(n), n),
        created_at: at,
        state_since: at,
        updated_at: at,
        started_at: at,
        finished_at: stamp(fixture.now() - n * 1000 + 900),
        state: has_failed ? 'failed' : 'completed',
        version: 4,
        ...(has_failed && {
          error_stage: 'joining',
          error_code: 'JOIN_ROOM_TIMEOUT',
          error_message: 'Too late.',
        }),
      }
      row.allowed_actions = actionsOf(row)
      rows.set(row.id, row)
    }
  },
  remove(n: number): void {
    rows.delete(fixture.id(n))
  },
  row: (n: number) => rows.get(fixture.id(n)),
  /** A hint on every topic. */
  tell(hint: Record<string, unknown> = { at: 'now' }): void {
    if (feed_is_up) for (const listener of listeners.keys()) listener.hint(hint)
  },
  setFeed(is_up: boolean): void {
    feed_is_up = is_up
    for (const listener of listeners.keys()) is_up ? listener.ready() : listener.lost()
  },
  now: () => Date.now() + fixture.skew_ms,
  count: (method?: Method) =>
    fixture.requests.filter((request) => method === undefined || request.method === method).length,
  /** How many rows the server would count in a state. */
  inState: (state: string) => [...rows.values()].filter((row) => row.state === state).length,
  topics: () => [...listeners.values()],
  countAll: (): Promise<RunsCounts> => source.counts({}, new AbortController().signal),
}

function fresh(id: string, n: number): RunRow {
  const now = stamp(fixture.now())
  return {
    id,
    kind: 'bot',
    name: `Run ${n}`,
    state: 'running',
    meeting_status: null,
    container_status: null,
    reason: null,
    state_since: now,
    version: 0,
    updated_at: now,
    created_at: stamp(fixture.now(), ++sequence),
    started_at: now,
    finished_at: null,
    error_stage: null,
    error_code: null,
    error_message: null,
    progress_done: null,
    progress_total: null,
    progress_label: null,
    attempt: 1,
    last_heartbeat_at: null,
    deadline_at: null,
    stop_requested_at: null,
    retry_of: null,
    stuck_rule: null,
    workflow_id: null,
    session_id: null,
    allowed_actions: [],
  }
}

function actionsOf(row: RunRow): string[] {
  if (row.kind === 'bot') return row.finished_at ? ['retry'] : ['stop']
  if (row.kind === 'flow') return row.finished_at ? (row.state === 'failed' ? ['retry'] : []) : ['cancel']
  return []
}

/** Microseconds, so that runs of one moment have an order. */
function stamp(ms: number, micros = 0): string {
  return new Date(ms).toISOString().replace('Z', `${String(micros % 1000).padStart(3, '0')}Z`)
}

function words(value: string | readonly string[] | undefined): readonly string[] | null {
  return value === undefined ? null : typeof value === 'string' ? [value] : value
}

function passes(row: RunRow, filter: RunsFilter): boolean {
  const kinds = words(filter.kind)
  const wanted = words(filter.state)
  const search = filter.search?.toLowerCase()
  return (
    (!kinds || kinds.includes(row.kind)) &&
    (!wanted || wanted.includes(row.state)) &&
    (!filter.stuck || row.stuck_rule !== null) &&
    (!filter.code || row.error_code === filter.code) &&
    (!filter.stage || row.error_stage === filter.stage) &&
    (!filter.since || row.created_at >= filter.since) &&
    (!filter.until || row.created_at < filter.until) &&
    (!filter.ended_since || (row.finished_at !== null && row.finished_at >= filter.ended_since)) &&
    (!search || row.name.toLowerCase().startsWith(search) || row.id.endsWith(search) || row.id === search)
  )
}

function sorted(filter: RunsFilter): RunRow[] {
  return [...rows.values()]
    .filter((row) => passes(row, filter))
    .sort((a, b) =>
      a.created_at < b.created_at ? 1 : a.created_at > b.created_at ? -1 : a.id < b.id ? 1 : -1,
    )
}

async function answer<T>(
  method: Method,
  signal: AbortSignal | undefined,
  make: () => T,
  more = {},
): Promise<T> {
  fixture.requests.push({ method, at: Date.now(), ...more })
  fixture.running += 1
  fixture.most_running = Math.max(fixture.most_running, fixture.running)
  try {
    const delay = fixture.delays[method] ?? 0
    if (delay > 0) await new Promise((done) => setTimeout(done, delay))
    else await null
    signal?.throwIfAborted()
    const fault = fixture.faults[method]
    if (fault) throw toError(fault)
    return structuredClone(make())
  } finally {
    fixture.running -= 1
  }
}

function toError({ status, code = 'error', message = 'It does not work.', details }: Fault): RollcallError {
  return new RollcallError({ status, code, message, details })
}

const as_of = () => stamp(fixture.now())

const source: DashboardSource = {
  catalog: (signal) =>
    answer('catalog', signal, () => ({
      schema_version: fixture.schema_version,
      machines: Object.entries({
        bot: states.bot,
        flow_execution: states.flow,
        handler_run: states.handler,
      }).map(([name, its]) => ({
        name,
        description: name,
        history: true,
        states: its.map((state, position) => ({
          state,
          kind: position === 0 ? 'initial' : ends.has(state) ? 'terminal' : 'open',
          position,
          description: state,
          time_limit_s: null,
          allowed: [],
        })),
      })),
      error_codes: [
        {
          code: 'JOIN_ROOM_TIMEOUT',
          attribution: 'host',
          retryable: true,
          meaning: 'The bot did not get into the room in time.',
          next_step: "Check the room's lobby.",
        },
      ],
    })),
  list: (filter, before, max_rows, signal) =>
    answer(
      'list',
      signal,
      () => {
        const all = sorted(filter)
        const from = before
          ? all.findIndex(
              ({ created_at, id }) =>
                created_at < before.before_created ||
                (created_at === before.before_created && id < before.before_id),
            )
          : 0
        const items = from < 0 ? [] : all.slice(from, from + max_rows)
        const last = items.at(-1)
        const has_more = last !== undefined && from + max_rows < all.length
        return {
          items,
          next: has_more ? { before_created: last.created_at, before_id: last.id } : null,
          as_of: as_of(),
        }
      },
      { body: { filter, before } },
    ),
  get: (ids, filter, signal) =>
    answer('get', signal, () => {
      const items = ids.flatMap((id) => rows.get(id) ?? [])
      return {
        items,
        matches: items.filter((row) => passes(row, filter)).map(({ id }) => id),
        as_of: as_of(),
      }
    }),
  counts: (filter, signal) =>
    answer('counts', signal, () => {
      if (fixture.counts) return fixture.counts
      const { state: _state, stuck: _stuck, ...rest } = filter
      const of = new Map<string, number>()
      for (const row of rows.values())
        if (passes(row, rest))
          of.set(`${row.kind} ${row.state}`, (of.get(`${row.kind} ${row.state}`) ?? 0) + 1)
      const kinds = words(filter.kind) ?? run_kinds
      const hour_ago = stamp(fixture.now() - 3_600_000)
      const all = [...rows.values()].filter((row) => kinds.includes(row.kind))
      return {
        counts: run_kinds
          .filter((kind) => kinds.includes(kind))
          .flatMap((kind) =>
            states[kind].map((state) => ({ kind, state, n: of.get(`${kind} ${state}`) ?? 0, exact: true })),
          ),
        stuck: { n: all.filter((row) => row.stuck_rule !== null).length, exact: true },
        failed_last_hour: {
          n: all.filter(
            (row) => row.state === 'failed' && row.finished_at !== null && row.finished_at >= hour_ago,
          ).length,
          exact: true,
        },
        stuck_rules,
        exact: true,
        as_of: as_of(),
      }
    }),
  changes: (after, max_rows, signal) =>
    answer('changes', signal, () => {
      const from = after === null ? (max_rows === 0 ? log.length : 0) : Number(after)
      const events = log.slice(from, from + max_rows)
      const next = from + events.length
      return {
        events,
        next: String(next),
        has_more: next < log.length && max_rows > 0,
        reset: false,
      } as never
    }),
  recent: (_since, _max_rows, signal) =>
    answer('changes', signal, () => ({ events: [], next: String(log.length) })),
  timeline: (id, signal) =>
    answer('timeline', signal, () => ({
      id,
      kind: rows.get(id)?.kind ?? 'bot',
      transitions: [],
      omitted: 0,
      rejections: [],
      retry_of: rows.get(id)?.retry_of ?? null,
      retried_by: [...rows.values()].find(({ retry_of }) => retry_of === id)?.id ?? null,
      as_of: as_of(),
      ...fixture.timelines[id],
    })),
  detail: ({ id }, signal) => answer('detail', signal, () => fixture.details[id] ?? { id }),
  timing: (machine, since, until, signal) =>
    answer('timing', signal, () => ({
      machine,
      since,
      until,
      exact: true,
      as_of: as_of(),
      states: (rows.size === 0 ? [] : ['pending', 'starting', 'running']).map((state, index) => ({
        state,
        n: 40 + index,
        p50_ms: 1200 * (index + 1),
        p90_ms: 4000 * (index + 1),
        p95_ms: 8600 * (index + 1),
        p99_ms: 20_000 * (index + 1),
        max_ms: 64_000 * (index + 1),
        open_n: index,
        oldest_open_at: index > 0 ? as_of() : null,
      })),
    })),
  failures: (_filter, signal) =>
    answer('failures', signal, () => ({
      failures:
        rows.size === 0
          ? []
          : [{ kind: 'bot' as const, stage: 'joining', code: 'JOIN_ROOM_TIMEOUT', n: 12, last_at: as_of() }],
      exact: true,
      as_of: as_of(),
    })),
  violations: (signal) => answer('call', signal, () => [], { path: 'violations' }),
  call: <T>(path: string, call: FunctionCall = {}) =>
    answer(
      'call',
      call.signal,
      () => {
        const told = fixture.answers[path] ?? { items: [], checks: [] }
        if (typeof told === 'object' && told !== null && 'throw' in told) throw toError(told.throw as Fault)
        return told as T
      },
      { path, body: { ...(call.body as object), key: call.headers?.['idempotency-key'] } },
    ),
  listen(topic, events) {
    listeners.set(events, 'everything' in topic ? 'everything' : topic.id)
    queueMicrotask(() => feed_is_up && listeners.has(events) && events.ready())
    return () => listeners.delete(events)
  },
}

declare global {
  interface Window {
    fixture: typeof fixture
  }
}

window.fixture = fixture
export type Fixture = typeof fixture

const root = document.getElementById('rollcall')
// Not before the test has made up what is there.
addEventListener('rollcall-mount', () => {
  const { is_operator, page_size } = fixture
  if (root) mount(root, { source, is_operator, live: { page_size } })
})
