import type { SupabaseClient } from '@supabase/supabase-js'
import { errorFields, log } from './log.ts'
import {
  createMachines,
  type Machine,
  type MachineOrder,
  type Machines,
  MachinesError,
  type MachinesOptions,
} from './machines.ts'
import { callRpc } from './rpc.ts'
import type { WorkerSettings } from './settings.ts'

/** How long a launch waits for its machine to be up; the row's deadline judges what takes longer. */
const STARTED_WITHIN_S = 30

/** The longest a launch takes, but for a Retry-After: two creations and looks that time out, one that succeeds, the wait. In seconds. */
export const LAUNCH_SECONDS = 90

/** A bot whose machine is to be made, with the token of this attempt. */
export interface Launch {
  bot_id: string
  launch_token: string
  platform: string
  native_meeting_id: string
  meeting_url: string
  passcode: string | null
  bot_name: string | null
  bot_config: Record<string, unknown> | null
}

export interface Launcher {
  db: SupabaseClient
  settings: WorkerSettings
  options?: MachinesOptions
}

/** What became of a launch. `superseded`: another attempt has taken over. `stopped`: a stop came first. */
export type LaunchResult = 'started' | 'created' | 'failed' | 'superseded' | 'stopped'

/** A new callback token: 32 random bytes. Only its SHA-256 is stored. */
export function newCallbackToken(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(32))
  return btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
}

/** The SHA-256 of a token, in hex. */
export async function hashToken(token: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(token))
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Launches a bot that was just requested: its callback token is stored already. */
export function launchRequested(launcher: Launcher, launch: Launch, token: string): Promise<LaunchResult> {
  return run(launcher, launch, { look_first: false, token: async () => token })
}

/** Takes up one launch that nobody finished; null if there is none. */
export async function launchUnfinished(launcher: Launcher, worker: string): Promise<LaunchResult | null> {
  const launch = await callRpc<Launch | null>(launcher.db, 'claim_launch', { worker })
  if (launch === null) return null
  // A machine that the attempt before this one made holds the token whose hash is stored, so it is kept as it is.
  // Only where there is none, a new token is made: the old one died with whoever held it.
  const token = async () => {
    const fresh = newCallbackToken()
    const { bot_id, launch_token } = launch
    const token_hash = await hashToken(fresh)
    const args = { bot_id, launch_token, token_hash }
    const answer = await callRpc<{ ok?: boolean } | null>(launcher.db, 'replace_callback_token', args)
    if (answer?.ok === false) throw new Superseded()
    return fresh
  }
  return run(launcher, launch, { look_first: true, token })
}

/** Another attempt holds the launch now. */
class Superseded extends Error {
  override name = 'Superseded'
}

interface Attempt {
  look_first: boolean
  token(): Promise<string>
}

async function run(launcher: Launcher, launch: Launch, attempt: Attempt): Promise<LaunchResult> {
  const { bot_id } = launch
  try {
    const result = await launchMachine(launcher, launch, attempt)
    log('info', 'launch', { bot_id, result })
    return result
  } catch (error) {
    if (error instanceof Superseded) return 'superseded'
    // The lease runs out, and the next worker finds the machine by its label or makes one.
    log('error', 'launch_broke_off', { bot_id, ...errorFields(error) })
    return 'failed'
  }
}

async function launchMachine(
  { db, settings, options }: Launcher,
  launch: Launch,
  { look_first, token }: Attempt,
): Promise<LaunchResult> {
  if ('missing' in settings.machines) {
    const { missing } = settings.machines
    const message = `No machine can be made: ${missing.join(', ')} not set.`
    return fail(db, launch, message, { attempts: 0, last_status: null, missing })
  }
  const machines = createMachines(settings.machines, options)
  let env: Record<string, string> | undefined
  const order: MachineOrder = {
    bot_id: launch.bot_id,
    // One name for all attempts of a launch: a provider that keeps names unique makes it once.
    name: `bot-${launch.bot_id.slice(0, 8)}-${launch.launch_token.slice(0, 8)}`,
    async env() {
      env ??= botEnv(settings, launch, await token())
      return env
    },
    look_first,
  }
  let machine: Machine
  try {
    machine = await machines.create(order)
  } catch (error) {
    if (!(error instanceof MachinesError)) throw error
    return fail(db, launch, error.message, { attempts: error.attempts, last_status: error.status })
  }
  const made_here = machine.name === order.name
  const refused = await record(db, machines, launch, machine.id, machine.state, made_here)
  if (refused !== null) return refused
  const started =
    machine.state === 'started' || (await machines.wait(machine.id, 'started', STARTED_WITHIN_S))
  const state = started ? 'started' : ((await machines.get(machine.id))?.state ?? 'destroyed')
  if (state === machine.state) return state === 'started' ? 'started' : 'created'
  return (
    (await record(db, machines, launch, machine.id, state, made_here)) ?? (started ? 'started' : 'created')
  )
}

/**
 * Stores what is known of the machine. The answer carries the stop flag as it is after the container id was stored:
 * stop and start can not miss each other. Null: go on.
 */
async function record(
  db: SupabaseClient,
  machines: Machines,
  { bot_id, launch_token }: Launch,
  container_id: string,
  status_text: string,
  made_here: boolean,
): Promise<LaunchResult | null> {
  const args = { bot_id, launch_token, container_id, status_text }
  const answer = await callRpc<{ ok: boolean; stop_requested?: boolean }>(db, 'record_container', args)
  if (!answer.ok) {
    // Another attempt has its own machine, with another token: this one could never report.
    if (made_here) await machines.destroy(container_id)
    return 'superseded'
  }
  if (answer.stop_requested !== true) return null
  await machines.destroy(container_id)
  await callRpc(db, 'record_container', { ...args, status_text: 'destroyed' })
  return 'stopped'
}

async function fail(
  db: SupabaseClient,
  { bot_id, launch_token }: Launch,
  error_message: string,
  error_details: Record<string, unknown>,
): Promise<LaunchResult> {
  const error_code = 'MACHINE_START_FAILED'
  log('error', 'launch_failed', { bot_id, error_code, error_message, ...error_details })
  await callRpc(db, 'fail_launch', { bot_id, launch_token, error_code, error_message, error_details })
  return 'failed'
}

/** What a bot's process is told. */
function botEnv(settings: WorkerSettings, launch: Launch, token: string): Record<string, string> {
  return {
    ROLLCALL_CALLBACK_URL: settings.callback_url,
    ROLLCALL_CALLBACK_TOKEN: token,
    ROLLCALL_BOT_ID: launch.bot_id,
    ROLLCALL_PLATFORM: launch.platform,
    ROLLCALL_NATIVE_MEETING_ID: launch.native_meeting_id,
    ROLLCALL_MEETING_URL: launch.meeting_url,
    ...(launch.passcode === null ? {} : { ROLLCALL_PASSCODE: launch.passcode }),
    ROLLCALL_BOT_NAME: launch.bot_name ?? 'Rollcall',
    ROLLCALL_BOT_CONFIG: JSON.stringify(launch.bot_config ?? {}),
  }
}
