import { issuesOf } from '../../src/contract/errors.ts'
import { StopPath, StopQuery, StopRequest, type StopResponse } from '../../src/contract/stop.ts'
import { workerSettings } from '../../src/worker/settings.ts'
import { type MachineCommand, sendMachineCommands } from '../../src/worker/stop.ts'
import { actingFor, actingOn } from '../_shared/caller.ts'
import { type Answer, type Context, endpoint, endpoints } from '../_shared/endpoint.ts'
import { env, waitUntil } from '../_shared/env.ts'
import { invalidRequest } from '../_shared/errors.ts'

/** All open bots of the caller in a meeting leave it. */
const meeting = endpoint(
  // Any path is taken here and judged as input: an unknown platform is a bad request, not a missing page.
  { method: 'DELETE', auth: ['user', 'secret'], input: () => StopQuery },
  async ({ owner_id }, context) => {
    const place = meetingIn(context.path)
    return stop(context, { ...actingFor(context.caller, owner_id), ...place })
  },
)

/** One bot leaves its meeting. */
const bot = endpoint(
  { method: 'POST', auth: ['user', 'secret'], input: StopRequest },
  async ({ bot_id, owner_id, reason }, context) =>
    stop(context, { ...actingOn(context.caller, owner_id), bot_id, reason }),
)

export default endpoints(meeting, bot)

function meetingIn(path: string): StopPath {
  const [platform, native_meeting_id, ...rest] = path.split('/')
  const parsed = StopPath.safeParse({
    platform,
    native_meeting_id: rest.length > 0 ? '/' : decoded(native_meeting_id),
  })
  if (!parsed.success) throw invalidRequest(issuesOf(parsed.error))
  return parsed.data
}

function decoded(segment = ''): string {
  try {
    return decodeURIComponent(segment)
  } catch {
    return ''
  }
}

async function stop({ rpc }: Context, what: Record<string, unknown>): Promise<Answer> {
  const delay_s = stopDelay()
  const { message, bots, machines } = await rpc<StopResponse & { machines: MachineCommand[] }>('stop_bot', {
    ...what,
    delay_s,
  })
  // The intent is stored: whatever becomes of these commands, the deadline sees to the rest.
  waitUntil(sendMachineCommands(workerSettings(env), machines, delay_s))
  return { status: 202, body: { message, bots } satisfies StopResponse }
}

/** How long a bot may take to leave before its machine is destroyed. */
function stopDelay(): number {
  const text = env('BOT_STOP_DELAY_SECONDS')
  if (text === undefined) return 30
  const seconds = Number(text)
  if (/^\d+$/.test(text) && seconds >= 1 && seconds <= 3600) return seconds
  throw new Error(`BOT_STOP_DELAY_SECONDS must be a whole number from 1 to 3600, not "${text}".`)
}
