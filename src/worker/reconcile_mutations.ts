import { z } from 'zod'
import type { WorkContext } from './lanes.ts'
import { errorFields, log } from './log.ts'
import { callRpc } from './rpc.ts'
import { askTool, type HttpOptions } from './script/http_tools.ts'
import { ScriptFailure } from './script/script_failure.ts'

/** How long the other side may take to say whether something happened, in ms. */
const ASK_MS = 15_000

/** The longest that one question takes, with claiming and recording it, in seconds. */
export const RECONCILE_MUTATION_SECONDS = 25

/** Where to ask whether a mutation happened, as a script gives it. */
export const Reconcile = z.object({ url: z.string(), headers: z.record(z.string(), z.string()).optional() })
export type Reconcile = z.output<typeof Reconcile>

const Claim = z.object({
  mutation_id: z.string(),
  attempt: z.number(),
  reconcile: Reconcile,
})

const Told = z.object({ status: z.enum(['applied', 'failed']), result: z.unknown().optional() })

/** What the other side says of a mutation; `again`: nothing that can be relied on. */
export interface Finding {
  outcome: 'applied' | 'failed' | 'again'
  result?: unknown
  error?: string
}

/**
 * Asks with the idempotency key of a mutation whether it happened. Only the two words count, with a 200: anything
 * else may come from somebody who has never heard of it. Throws nothing but what `secrets` throws.
 */
export async function askWhether(
  { url, headers = {} }: Reconcile,
  mutation_id: string,
  http: Omit<HttpOptions, 'timeout_ms'>,
): Promise<Finding> {
  try {
    const { status, body } = await askTool({ url, headers }, mutation_id, { ...http, timeout_ms: ASK_MS })
    const told = Told.safeParse(body)
    if (status === 200 && told.success) {
      return {
        outcome: told.data.status,
        ...(told.data.result === undefined ? {} : { result: told.data.result }),
      }
    }
    return { outcome: 'again', error: `Asked whether it happened, the service answered ${status}.` }
  } catch (error) {
    if (!(error instanceof ScriptFailure)) throw error
    return { outcome: 'again', error: error.message }
  }
}

/** Asks after one mutation of which nobody knows whether it happened. False: none is due. */
export async function reconcileMutation({ db, settings, sockets, worker }: WorkContext): Promise<boolean> {
  const claimed = await callRpc(db, 'claim_reconcile', { worker })
  if (claimed === null) return false
  const { mutation_id, attempt, reconcile } = Claim.parse(claimed)
  const finding = await askWhether(reconcile, mutation_id, {
    sockets,
    allow_private: settings.scripts_allow_private,
    secrets: () => callRpc<Record<string, string>>(db, 'read_workflow_secrets', { mutation_id, attempt }),
    signal: new AbortController().signal,
  })
  try {
    await callRpc(db, 'record_reconcile', { mutation_id, attempt, ...finding })
    log('info', 'mutation_asked', { mutation_id, attempt, outcome: finding.outcome })
  } catch (error) {
    // The claim has counted the attempt and says when the next one is due.
    log('error', 'reconcile_not_recorded', { mutation_id, attempt, ...errorFields(error) })
  }
  return true
}
