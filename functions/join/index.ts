import { z } from 'zod'
import { JoinResponse, joinRequest } from '../../src/contract/join.ts'
import { hashToken, launchRequested, newCallbackToken } from '../../src/worker/launch.ts'
import { workerSettings } from '../../src/worker/settings.ts'
import { actingFor } from '../_shared/caller.ts'
import { endpoint } from '../_shared/endpoint.ts'
import { env, waitUntil } from '../_shared/env.ts'
import { idempotencyKey } from '../_shared/idempotency.ts'

const input = joinRequest({
  room_url: env('ROOM_URL'),
  allow_private_webhooks: env('WEBHOOKS_ALLOW_PRIVATE') === '1',
})

/** What request_bot answers beside the row. */
const Requested = JoinResponse.omit({ callback_url: true, callback_token: true }).and(
  z.object({
    result: z.enum(['created', 'replayed']),
    launch_token: z.string().nullish(),
    passcode: z.string().nullish(),
    bot_name: z.string().nullable(),
    bot_config: z.record(z.string(), z.unknown()).nullable(),
  }),
)

/** A signed-in user asks for a bot. */
export default endpoint(
  { method: 'POST', auth: ['user', 'secret'], input },
  async (order, { request, caller, admin, rpc }) => {
    const { owner_id, actor } = actingFor(caller, order.owner_id)
    const token = newCallbackToken()
    const answer = await rpc('request_bot', {
      owner_id,
      actor,
      token_hash: await hashToken(token),
      idempotency_key: idempotencyKey(request),
      max_open: botLimit(),
      platform: order.platform ?? null,
      native_meeting_id: order.native_meeting_id ?? null,
      meeting_url: order.meeting_url ?? null,
      passcode: order.passcode ?? null,
      bot_name: order.bot_name ?? null,
      bot_config: order.bot_config ?? null,
      process_insights: order.process_insights ?? null,
      webhook_url: order.webhook_url ?? null,
      metadata: order.metadata ?? null,
      retry_of: order.retry_of ?? null,
      launch: order.launch,
    })
    const bot = Requested.parse(answer)
    const settings = workerSettings(env)
    const body = JoinResponse.parse(answer)
    if (bot.result === 'replayed') return { status: 201, body }
    if (bot.launch_token != null) {
      const launch = {
        bot_id: bot.bot_id,
        launch_token: bot.launch_token,
        platform: bot.platform ?? '',
        native_meeting_id: bot.native_meeting_id ?? '',
        meeting_url: bot.meeting_url ?? '',
        passcode: bot.passcode ?? null,
        bot_name: bot.bot_name,
        bot_config: bot.bot_config,
      }
      // The row and its token exist, so the bot may call back before this answer has left.
      waitUntil(launchRequested({ db: admin, settings }, launch, token))
      return { status: 201, body }
    }
    return { status: 201, body: { ...body, callback_url: settings.callback_url, callback_token: token } }
  },
)

/** How many bots one owner may have attending; null without a limit, 0 for none at all. */
function botLimit(): number | null {
  const text = env('BOT_LIMIT_PER_OWNER')
  if (text === undefined) return null
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new Error(`BOT_LIMIT_PER_OWNER must be a whole number, or unset for no limit, not "${text}".`)
}
