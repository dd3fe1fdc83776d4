import { type SessionWork, takePhase } from './handler_runs.ts'
import type { WorkContext } from './lanes.ts'
import { Lease, LeaseLost } from './lease.ts'
import { log } from './log.ts'
import { callRpc, RpcError } from './rpc.ts'
import { Run, SessionClaim } from './session_claim.ts'

/** Claiming and storing around a phase, in seconds. */
const OWN_SECONDS = 10

/** The longest that one phase takes, in seconds. */
export function phaseSeconds({ phase }: WorkContext): number {
  return OWN_SECONDS + phase.wall_ms / 1000
}

/** The workers that are at a session: a sandbox takes memory, and computes without a break. */
const at_work = new Set<string>()

/**
 * Takes one session of a workflow through its runs, phase by phase, until nothing of it is due. Before each phase it
 * asks whether another one may begin; if not, the session is given back for the next worker. A worker has one session
 * at a time. False: nothing is due. Throws what the claim throws.
 */
export async function runSession(context: WorkContext, may_begin: () => boolean): Promise<boolean> {
  const { db, worker } = context
  if (at_work.has(worker)) return false
  at_work.add(worker)
  try {
    const asked_at = performance.now()
    const claimed = await callRpc(db, 'claim_workflow_session', { worker })
    if (claimed === null) return false
    const claim = SessionClaim.parse(claimed)
    const { session_id, lease_token, workflow_id } = claim
    const holder = { session_id, lease_token }
    const lease = new Lease({ db, holder, renewal: 'renew_session', asked_at })
    try {
      const result = await goOn(context, claim, lease, may_begin)
      log('info', 'session', { workflow_id, session_id, result })
    } catch (error) {
      if (!(error instanceof LeaseLost)) throw error
      log('error', 'session', { workflow_id, session_id, result: 'lease_lost' })
    } finally {
      lease.end()
    }
    return true
  } finally {
    at_work.delete(worker)
  }
}

type End = 'finished' | 'yielded' | 'failed'

async function goOn(
  context: WorkContext,
  claim: SessionClaim,
  lease: Lease,
  may_begin: () => boolean,
): Promise<End> {
  const { session_id } = claim
  const work: SessionWork = { context, claim, lease, logs: [], secrets: new Set() }
  let run: Run | null = claim.run
  for (;;) {
    if (!may_begin()) {
      await lease.call('yield_session', { session_id })
      return 'yielded'
    }
    run ??= await nextOfSession(lease, session_id)
    if (run === null) {
      await lease.call('finish_session', { session_id })
      return 'finished'
    }
    const taken = await takePhase(work, run)
    if (taken === 'failed') return 'failed'
    if (taken === 'committed') work.logs = []
    run = taken === 'committed' ? null : taken
  }
}

/** The next handler that is due; null where there is none, or the workflow is not to go on. */
async function nextOfSession(lease: Lease, session_id: string): Promise<Run | null> {
  try {
    const { run } = await lease.call<{ run: unknown }>('create_handler_run', { session_id })
    return Run.nullable().parse(run ?? null)
  } catch (error) {
    const paused = error instanceof RpcError && ['not_runnable', 'retry_pending'].includes(error.code)
    if (!paused) throw error
    return null
  }
}
