import type { SupabaseClient } from '@supabase/supabase-js'
import type { Lane } from '../contract/work.ts'
import { agentSeconds, workOnTask } from './agents.ts'
import { runExecutions } from './executions.ts'
import { LAUNCH_SECONDS, launchUnfinished } from './launch.ts'
import { processingSeconds, processNext } from './processing.ts'
import { RECONCILE_SECONDS, reconcile } from './reconcile.ts'
import { RECONCILE_MUTATION_SECONDS, reconcileMutation } from './reconcile_mutations.ts'
import { phaseSeconds, runSession } from './sessions.ts'
import type { WorkerSettings } from './settings.ts'
import type { Sockets } from './sockets.ts'
import { DELIVERY_SECONDS, deliverDue } from './webhooks.ts'

/** What every step works with. */
export interface WorkContext {
  /** A client with a secret key. */
  db: SupabaseClient
  settings: WorkerSettings
  /** How webhooks are sent. */
  sockets: Sockets
  /** The name of this worker, as claims record it. */
  worker: string
  /** How long the agent may take for one answer. */
  agent_timeout_s: number
  /** What one phase of a script may take: computing, and in all, in ms. */
  phase: { cpu_ms: number; wall_ms: number }
  /** For how long a lane of prompts goes on looking when it finds nothing, in ms. */
  linger_ms: number
}

/** A kind of work: claims one piece, does it and stores it. */
interface Step {
  /** The longest one step takes, in seconds. */
  longest_s(context: WorkContext): number
  /** False: nothing is due. A step of several pieces or phases asks before each but the first: may it begin? */
  run(context: WorkContext, may_begin: () => boolean): Promise<boolean>
}

const STEPS: Partial<Record<Lane, Step>> = {
  containers: {
    longest_s: () => Math.max(LAUNCH_SECONDS, RECONCILE_SECONDS),
    run: async ({ db, settings, worker }) =>
      (await launchUnfinished({ db, settings }, worker)) !== null ||
      (await reconcile({ db, settings }, worker)).checked > 0,
  },
  processing: { longest_s: processingSeconds, run: processNext },
  scripts: { longest_s: phaseSeconds, run: runSession },
  agents: { longest_s: agentSeconds, run: workOnTask },
  reconcile: { longest_s: () => RECONCILE_MUTATION_SECONDS, run: reconcileMutation },
  webhooks: { longest_s: () => DELIVERY_SECONDS, run: deliverDue },
}

/** The lanes that have work in this version. */
export const WORKING_LANES = [...Object.keys(STEPS), 'prompts'] as Lane[]

/**
 * Works on a lane until nothing is due, or until the next step might not end before `until` (epoch ms).
 * Returns how many steps were taken. Throws what a claim throws.
 */
export async function runLane(
  lane: Lane,
  context: WorkContext,
  until = Number.POSITIVE_INFINITY,
  signal?: AbortSignal,
): Promise<number> {
  if (lane === 'prompts') return runExecutions(context, until, signal)
  const step = STEPS[lane]
  if (step === undefined) return 0
  const may_begin = () => !signal?.aborted && Date.now() + step.longest_s(context) * 1000 <= until
  for (let steps = 0; ; steps++) {
    if (!may_begin() || !(await step.run(context, may_begin))) return steps
  }
}
