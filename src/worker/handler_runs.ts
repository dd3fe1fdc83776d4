import { z } from 'zod'
import type { WorkContext } from './lanes.ts'
import { type Lease, LeaseLost } from './lease.ts'
import { errorFields, log } from './log.ts'
import { Mutation } from './mutations.ts'
import { RpcError } from './rpc.ts'
import { getTool, type HttpOptions } from './script/http_tools.ts'
import { nextRun } from './script/next_run.ts'
import { type PhaseRequest, type PhaseResult, runPhase } from './script/run_phase.ts'
import { type ErrorClass, type LogLine, ScriptFailure } from './script/script_failure.ts'
import { Run, ScriptConfig, type SessionClaim } from './session_claim.ts'

/** How long Http.get may take, in ms. */
const GET_MS = 30_000

/** What every phase of a session works with. */
export interface SessionWork {
  context: WorkContext
  claim: SessionClaim
  lease: Lease
  /** What the scripts of the present run have logged. */
  logs: LogLine[]
  /** The values of secrets that were used: no log shows them. */
  secrets: Set<string>
}

/** The status in which a run ends by an error. */
const STATUS_OF: Record<ErrorClass, string> = {
  auth: 'paused:approval',
  permission: 'paused:approval',
  network: 'paused:transient',
  logic: 'failed:logic',
  internal: 'failed:internal',
}

/** Refusals that say: the script asked for something it may not. */
const FAULT_OF_THE_SCRIPT = ['unknown_event', 'event_not_pending', 'unknown_topic', 'invalid_request']

const Prepared = z
  .object({
    reservations: z.array(z.object({ topic: z.string(), ids: z.array(z.string()) })).nullish(),
    wakeAt: z.union([z.string(), z.number()]).nullish(),
  })
  .loose()
  .nullish()

/**
 * Takes a run through its next phase. Returns the run as it is then, or how it ended: an error ends its session too.
 * Throws LeaseLost, and nothing is written then.
 */
export async function takePhase(work: SessionWork, run: Run): Promise<Run | 'committed' | 'failed'> {
  try {
    const next = await (run.handler_type === 'producer' ? producerPhase(work, run) : consumerPhase(work, run))
    return next ?? 'committed'
  } catch (error) {
    work.lease.signal.throwIfAborted()
    if (error instanceof LeaseLost) throw error
    await endRun(work, run, error)
    return 'failed'
  }
}

async function producerPhase(work: SessionWork, run: Run): Promise<Run | null> {
  if (run.phase === 'pending') return advance(work, run, 'executing')
  const { claim, lease, logs } = work
  const producer = configOf(claim).producers[run.handler_name]
  if (producer === undefined) throw unknownHandler(run)
  const done = await script(work, run, 'handler', [run.state], {
    get: (request) => getTool(request, http(work)),
  })
  const next_run_at = nextRun(producer.schedule, claim.time_zone, new Date())
  await lease.call('commit_producer', {
    run_id: run.run_id,
    state: done.value ?? null,
    publications: done.publications,
    next_run_at: next_run_at.toISOString(),
    messages: done.messages,
    logs,
  })
  return null
}

async function consumerPhase(work: SessionWork, run: Run): Promise<Run | null> {
  const consumer = configOf(work.claim).consumers[run.handler_name]
  if (consumer === undefined) throw unknownHandler(run)
  switch (run.phase) {
    case 'pending':
      return advance(work, run, 'preparing')
    case 'preparing':
      return prepare(work, run)
    case 'prepared':
      return advance(work, run, consumer.has_mutate && run.events.length > 0 ? 'mutating' : 'emitting')
    case 'mutating':
      return mutate(work, run)
    case 'mutated':
      return advance(work, run, 'emitting')
    case 'emitting':
      return emit(work, run, consumer.has_next)
    default:
      throw new ScriptFailure('internal', `A consumer's run can not go on from ${run.phase}.`)
  }
}

async function prepare(work: SessionWork, run: Run): Promise<Run> {
  const { value } = await script(work, run, 'prepare', [run.state], {
    get: (request) => getTool(request, http(work)),
    peek: (topic, limit) => peek(work, run, topic, limit),
  })
  const parsed = Prepared.safeParse(value)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new ScriptFailure('logic', `prepare() returned a wrong ${issue?.path.join('.')}: ${issue?.message}`)
  }
  const { reservations, wakeAt } = parsed.data ?? {}
  return advance(work, run, 'prepared', {
    result: parsed.data ?? {},
    reservations: (reservations ?? []).filter(({ ids }) => ids.length > 0),
    wake_at: wakeAt === null || wakeAt === undefined ? null : timeOf(wakeAt),
  })
}

async function mutate(work: SessionWork, run: Run): Promise<Run> {
  // Whoever began it has not stored what became of it.
  if (run.mutation) throw new Unresolved(new ScriptFailure('internal', 'The side effect was begun already.'))
  const mutation = new Mutation({ run_id: run.run_id, lease: work.lease, http: http(work) })
  let failure: ScriptFailure | null = null
  try {
    await script(work, run, 'mutate', [prepared(run)], { send: (request) => mutation.send(request) })
  } catch (error) {
    work.lease.signal.throwIfAborted()
    failure = failureOf(error)
  }
  if (mutation.status === 'in_flight') {
    await mutation.askOnce()
    // The script has no other complaint than that nobody knew.
    if (mutation.status !== 'in_flight' && isTheSame(failure, mutation.failure)) failure = null
  }
  if (mutation.status === 'in_flight') {
    throw new Unresolved(mutation.failure ?? failure ?? new ScriptFailure('internal', 'The call has no end.'))
  }
  if (mutation.status === 'failed' && mutation.failure !== null) throw mutation.failure
  if (failure !== null) throw failure
  return mutation.status === 'applied' ? { ...run, phase: 'mutated' } : advance(work, run, 'mutated')
}

async function emit(work: SessionWork, run: Run, has_next: boolean): Promise<null> {
  const { lease, logs } = work
  const result = run.result ?? { status: 'none' }
  const done = has_next ? await script(work, run, 'next', [prepared(run), result], {}) : null
  await lease.call('commit_consumer', {
    run_id: run.run_id,
    state: done?.value ?? null,
    publications: done?.publications ?? [],
    messages: done?.messages ?? [],
    logs,
  })
  return null
}

/** One legal hop. Returns the run as it was, with what the hop has changed. */
async function advance(
  { lease }: SessionWork,
  before: Run,
  phase: Run['phase'],
  payload: object = {},
): Promise<Run> {
  const { run_id } = before
  const { run } = await lease.call<{ run: object }>('advance_handler_run', { run_id, phase, payload })
  return Run.parse({ ...before, ...run })
}

async function script(
  { context, claim, lease, logs, secrets }: SessionWork,
  { handler_type, handler_name }: Run,
  phase: PhaseRequest['phase'],
  args: unknown[],
  tools: PhaseRequest['tools'],
): Promise<PhaseResult> {
  try {
    const done = await runPhase({
      code: claim.script.code,
      config: configOf(claim),
      handler_type,
      handler_name,
      phase,
      args,
      started_at: new Date().toISOString(),
      ...context.phase,
      signal: lease.signal,
      tools,
    })
    logs.push(...redacted(done.logs, secrets))
    return done
  } catch (error) {
    if (error instanceof ScriptFailure) logs.push(...redacted(error.logs, secrets))
    throw error
  }
}

/** What mutate and next are given: what prepare returned, and the events that it reserved. */
function prepared({ prepare_result, events }: Run): Record<string, unknown> {
  return {
    ...(prepare_result as Record<string, unknown> | null),
    events: events.map(({ topic, message_id, payload, attempt_number }) => ({
      topic,
      id: message_id,
      payload,
      attempt: attempt_number,
    })),
  }
}

async function peek({ lease }: SessionWork, { run_id }: Run, topic: string, limit: number | undefined) {
  try {
    const { events } = await lease.call<{ events: Run['events'] }>('peek_events', {
      run_id,
      topic,
      max_rows: limit ?? 100,
    })
    return events.map(({ message_id, payload, attempt_number }) => ({
      id: message_id,
      payload,
      attempt: attempt_number,
    }))
  } catch (error) {
    if (error instanceof LeaseLost) throw error
    throw failureOf(error)
  }
}

/** Logs without the values of secrets, which a service may have repeated in its answer. */
function redacted(logs: LogLine[], secrets: Set<string>): LogLine[] {
  return logs.map((line) => ({ ...line, text: withoutValues(line.text, secrets) }))
}

function withoutValues(text: string, secrets: Set<string>): string {
  let blotted = text
  for (const value of secrets) blotted = blotted.replaceAll(value, '[secret]')
  return blotted
}

/** How the tools of a session reach the world. Secrets are read for each use. */
function http({ context, claim, lease, secrets }: SessionWork): HttpOptions {
  return {
    timeout_ms: GET_MS,
    sockets: context.sockets,
    allow_private: context.settings.scripts_allow_private,
    async secrets() {
      const { session_id } = claim
      const values = await lease.call<Record<string, string>>('read_workflow_secrets', { session_id })
      for (const value of Object.values(values)) if (value.trim() !== '') secrets.add(value.trim())
      return values
    },
    signal: lease.signal,
  }
}

function configOf({ script }: SessionClaim): ScriptConfig {
  const parsed = ScriptConfig.safeParse(script.config)
  if (!parsed.success) throw new ScriptFailure('internal', 'The stored config of the script can not be read.')
  return parsed.data
}

function unknownHandler({ handler_type, handler_name }: Run): ScriptFailure {
  return new ScriptFailure('internal', `The script has no ${handler_type} "${handler_name}".`)
}

function timeOf(at: string | number): string {
  const time = new Date(at)
  if (Number.isNaN(time.getTime())) {
    throw new ScriptFailure(
      'logic',
      'prepare() returned a wakeAt that is no time: give an ISO string, or ms.',
    )
  }
  return time.toISOString()
}

/** A run that ends while nobody knows whether its side effect happened. */
class Unresolved extends Error {
  readonly failure: ScriptFailure

  constructor(failure: ScriptFailure) {
    super(failure.message)
    this.failure = failure
  }
}

async function endRun(
  { lease, logs, claim, secrets }: SessionWork,
  { run_id, phase }: Run,
  error: unknown,
): Promise<void> {
  const unresolved = error instanceof Unresolved
  const failure = unresolved ? error.failure : failureOf(error)
  const { error_class, message, service, http_status } = failure
  const status = unresolved ? 'paused:reconciliation' : STATUS_OF[error_class]
  const fields = { workflow_id: claim.workflow_id, run_id, phase, status }
  try {
    await lease.call('update_handler_run_status', {
      run_id,
      status,
      error: withoutValues(message, secrets),
      error_type: error_class,
      logs,
      ...(service === undefined ? {} : { details: { service, http_status } }),
    })
    log('info', 'handler_run', fields)
  } catch (refused) {
    if (!(refused instanceof RpcError) || refused.failure !== 'refused') throw refused
    // Somebody else has ended it.
    log('error', 'handler_run_not_ended', { ...fields, ...errorFields(refused) })
  }
}

/** Whatever went wrong, as the class of error that it is. */
function failureOf(error: unknown): ScriptFailure {
  if (error instanceof ScriptFailure) return error
  if (error instanceof RpcError) {
    const is_scripts = FAULT_OF_THE_SCRIPT.includes(error.code)
    if (error.failure === 'unfit')
      return new ScriptFailure('logic', 'The script gave something that can not be stored.')
    if (error.failure === 'refused' && is_scripts) return new ScriptFailure('logic', error.message)
  }
  log('error', 'phase_broke_off', errorFields(error))
  return new ScriptFailure('internal', 'The phase broke off for a reason that is not the script.')
}

function isTheSame(one: ScriptFailure | null, other: ScriptFailure | null): boolean {
  return one?.error_class === other?.error_class && one?.message === other?.message
}
