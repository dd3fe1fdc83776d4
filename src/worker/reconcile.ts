import type { SupabaseClient } from '@supabase/supabase-js'
import { log } from './log.ts'
import { createMachines, type Machine, type Machines, MachinesError } from './machines.ts'
import { callRpc } from './rpc.ts'
import type { WorkerSettings } from './settings.ts'

/** What a round of reconciliation found and did. */
export interface ReconcileCounts {
  /** Machines that were asked after or taken down. */
  checked: number
  /** Bots that ended by it. */
  finalized: number
  still_running: number
  /** Machines destroyed: of ended bots, and of none. */
  destroyed: number
  /** Answers that the machines API did not give; they end nothing. */
  errors: number
}

/** How many machines one round takes, and the longest it lasts, in seconds: each costs two requests, the list one. */
const AT_MOST = 3
export const RECONCILE_SECONDS = AT_MOST * 20 + 10

/** A machine in one of these has ended, whatever its events say. */
const ENDED = ['stopped', 'destroyed', 'failed', 'suspended']

interface Probe {
  bot_id: string
  probe_token: string
  container_id: string
  action: 'probe' | 'destroy'
}

interface Finding {
  outcome: 'alive' | 'ended' | 'destroyed' | 'not_found' | 'error'
  status_text?: string
  evidence?: Record<string, unknown>
}

/**
 * Asks after machines whose bots are silent, takes down those of bots that have ended, and destroys machines that belong
 * to no open bot. The database decides what each finding means. All counts zero: nothing was due.
 */
export async function reconcile(
  { db, settings }: { db: SupabaseClient; settings: WorkerSettings },
  worker: string,
): Promise<ReconcileCounts> {
  const counts: ReconcileCounts = { checked: 0, finalized: 0, still_running: 0, destroyed: 0, errors: 0 }
  if ('missing' in settings.machines) return counts
  const machines = createMachines(settings.machines)
  while (counts.checked < AT_MOST) {
    const probe = await callRpc<Probe | null>(db, 'claim_probe', { worker })
    if (probe === null) break
    counts.checked++
    const finding = await examine(machines, probe)
    if (finding.outcome === 'destroyed') counts.destroyed++
    if (finding.outcome === 'error') counts.errors++
    const { bot_id, probe_token, container_id, action } = probe
    const { result } = await callRpc<{ result?: string }>(db, 'record_probe', {
      bot_id,
      probe_token,
      ...finding,
    })
    if (result === 'finalized') counts.finalized++
    if (result === 'still_running') counts.still_running++
    log('info', 'machine_probed', { bot_id, container_id, action, outcome: finding.outcome, result })
  }
  await destroyOrphans(db, machines, counts)
  if (Object.values(counts).some((count) => count > 0)) log('info', 'reconciled', { ...counts })
  return counts
}

async function examine(machines: Machines, { container_id, action }: Probe): Promise<Finding> {
  try {
    if (action === 'destroy' && !(await machines.destroy(container_id))) return { outcome: 'not_found' }
    const machine = await machines.get(container_id)
    if (action === 'destroy') return afterDestroy(machine)
    if (machine === null) return { outcome: 'not_found' }
    const evidence = exitOf(machine)
    if (ENDED.includes(machine.state) || evidence !== null) {
      return { outcome: 'ended', status_text: machine.state, evidence: evidence ?? {} }
    }
    return { outcome: 'alive', status_text: machine.state }
  } catch (error) {
    if (!(error instanceof MachinesError)) throw error
    return { outcome: 'error', evidence: { error: error.message, status: error.status } }
  }
}

/** A yes is not enough: only a machine that no longer runs counts as destroyed. */
function afterDestroy(machine: Machine | null): Finding {
  if (machine === null || ENDED.includes(machine.state) || machine.state === 'destroying') {
    return { outcome: 'destroyed', status_text: 'destroyed', evidence: (machine && exitOf(machine)) ?? {} }
  }
  const error = `The machines API took the request to destroy it, but the machine is ${machine.state}.`
  return { outcome: 'error', evidence: { error } }
}

/** How the process ended, from the newest exit event; null if the machine tells of none. */
function exitOf(machine: Machine): Record<string, unknown> | null {
  const exit = machine.events?.find((event) => event.type === 'exit')
  if (exit === undefined) return null
  const { exit_event } = (exit.request ?? {}) as { exit_event?: Record<string, unknown> }
  if (exit_event === undefined) return {}
  const signal = Number(exit_event.guest_signal ?? exit_event.signal ?? -1)
  const guest_code = Number(exit_event.guest_exit_code ?? 0)
  return {
    // A process that a signal ended has no code of its own: shells call it 128 and the signal.
    exit_code: guest_code !== 0 ? guest_code : signal > 0 ? 128 + signal : Number(exit_event.exit_code ?? 0),
    ...(signal > 0 ? { signal } : {}),
    ...(exit_event.oom_killed === true ? { oom_killed: true } : {}),
    requested_stop: exit_event.requested_stop === true,
  }
}

async function destroyOrphans(
  db: SupabaseClient,
  machines: Machines,
  counts: ReconcileCounts,
): Promise<void> {
  if (!(await callRpc<boolean>(db, 'claim_orphan_scan'))) return
  try {
    const running = (await machines.list()).filter((machine) => !ENDED.includes(machine.state))
    const orphans = await callRpc<string[]>(db, 'judge_machines', {
      machines: running.map(({ id, config }) => ({ id, bot_id: config?.metadata?.rollcall_bot_id ?? null })),
    })
    for (const id of orphans) {
      await machines.destroy(id)
      counts.destroyed++
      log('info', 'orphan_destroyed', { container_id: id })
    }
  } catch (error) {
    if (!(error instanceof MachinesError)) throw error
    counts.errors++
    log('error', 'orphan_scan_failed', { error: error.message, status: error.status })
  }
}
