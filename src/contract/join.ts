import { z } from 'zod'
import { Bot } from './bots.ts'
import type { Issue } from './errors.ts'
import { jsonBytes } from './json.ts'
import { completeMeeting, NativeMeetingId, Platform, passcodeProblem } from './meeting.ts'
import { MAX_URL_LENGTH, publicUrlProblem } from './public_url.ts'

/** What the columns `bot_config` and `metadata` hold at most, as JSON. */
export const MAX_OBJECT_BYTES = 64 * 1024

/** A bot may be asked to stay for a day at most. */
const MAX_DURATION_S = 86_400

const Text = z.string().min(1).max(255)
const Link = z.string().min(1).max(MAX_URL_LENGTH)

const PublicUrl = z.string().superRefine((url, context) => {
  const problem = publicUrlProblem(url)
  if (problem !== null) context.addIssue({ code: 'custom', message: problem })
})

function small(what: string) {
  return (value: unknown, context: z.RefinementCtx) => {
    if (jsonBytes(value) > MAX_OBJECT_BYTES) {
      context.addIssue({ code: 'custom', message: `${what} has at most ${MAX_OBJECT_BYTES} bytes as JSON.` })
    }
  }
}

/** Settings of the bot. The bot reads all of it; Rollcall knows these. */
export const BotConfig = z
  .looseObject({
    /** `static` shows `static_image` instead of a camera. */
    video_mode: Text.optional(),
    static_image: PublicUrl.optional(),
    /** Seconds in the room before the bot is told to leave; 4 h if absent. */
    max_duration_s: z.int().min(1).max(MAX_DURATION_S).optional(),
    /** Seconds alone in the room before the bot leaves by itself. */
    alone_after_s: z.number().min(0).max(MAX_DURATION_S).optional(),
  })
  .superRefine((config, context) => {
    if (config.video_mode === 'static' && config.static_image === undefined) {
      context.addIssue({
        code: 'custom',
        path: ['static_image'],
        message: 'video_mode "static" needs a static_image.',
      })
    }
  })
  .superRefine(small('bot_config'))
export type BotConfig = z.infer<typeof BotConfig>

const Body = z.object({
  platform: Platform.optional(),
  /** The same as `platform`, in the vocabulary of Daily. */
  provider: Platform.optional(),
  native_meeting_id: NativeMeetingId.optional(),
  meeting_url: Link.optional(),
  /** The same as `meeting_url`, in the vocabulary of Daily. */
  room_url: Link.optional(),
  passcode: Text.optional(),
  bot_name: Text.optional(),
  bot_config: BotConfig.optional(),
  /** Whether the transcript is turned into questions, answers and insights. True if absent. */
  process_insights: z.boolean().optional(),
  webhook_url: Link.optional(),
  metadata: z.record(z.string(), z.unknown()).superRefine(small('metadata')).optional(),
  /** A bot of the caller that has ended: its settings are the defaults of this one. */
  retry_of: Text.optional(),
  /** False: no machine is created, the answer holds what your own bot needs to report back. */
  launch: z.boolean().default(true),
  /** For whom; only operators and secret keys may name somebody else. */
  owner_id: z.guid().optional(),
})

/** What a client may send to join. */
export type JoinInput = z.input<typeof Body>

export interface JoinOptions {
  /** The address of the local room (ROOM_URL); undefined everywhere but on the local stack. */
  room_url?: string | undefined
  /** Lets `webhook_url` lead to a private host, for local development (WEBHOOKS_ALLOW_PRIVATE=1). */
  allow_private_webhooks?: boolean
}

/**
 * The body of `POST /functions/v1/join`. Its output has one name for each thing: the aliases are resolved and the
 * meeting is complete, or absent altogether when `retry_of` supplies it.
 */
export function joinRequest(options: JoinOptions = {}) {
  return Body.transform((body, context) => {
    const { provider, room_url, ...rest } = body
    const refuse = (issues: Issue[]) => {
      for (const { path, message } of issues) {
        context.issues.push({ code: 'custom', path: path === '' ? [] : [path], message, input: body })
      }
      return z.NEVER
    }
    const platform = body.platform ?? provider
    if (platform !== (provider ?? platform)) {
      return refuse([
        { path: 'provider', message: 'provider is another name of platform: they must be equal.' },
      ])
    }
    const meeting_url = body.meeting_url ?? room_url
    if (meeting_url !== (room_url ?? meeting_url)) {
      return refuse([
        { path: 'room_url', message: 'room_url is another name of meeting_url: they must be equal.' },
      ])
    }
    const webhook_problem = body.webhook_url === undefined ? null : webhookProblem(body.webhook_url, options)
    if (webhook_problem !== null) return refuse([{ path: 'webhook_url', message: webhook_problem }])

    const retried = body.retry_of !== undefined
    if (platform === undefined) {
      if (retried && body.native_meeting_id === undefined && meeting_url === undefined) {
        return { ...rest, platform, meeting_url }
      }
      return refuse([
        { path: 'platform', message: `Say where the meeting is: ${Platform.options.join(', ')}.` },
      ])
    }
    const completed = completeMeeting(
      { platform, native_meeting_id: body.native_meeting_id, meeting_url },
      options.room_url,
    )
    if ('issues' in completed) return refuse(completed.issues)
    const problem = body.passcode === undefined ? null : passcodeProblem(platform, body.passcode)
    if (problem !== null) return refuse([{ path: 'passcode', message: problem }])
    return { ...rest, ...completed.meeting }
  })
}

/** What join works with. */
export type JoinOrder = z.output<ReturnType<typeof joinRequest>>

function webhookProblem(url: string, options: JoinOptions): string | null {
  if (!options.allow_private_webhooks) return publicUrlProblem(url)
  return URL.canParse(url) && /^https?:$/.test(new URL(url).protocol) ? null : 'Not a URL.'
}

/** The 201 of join. The callback's address and token come once, and only with `launch: false`. */
export const JoinResponse = Bot.pick({
  workflow_thread_id: true,
  bot_id: true,
  status: true,
  bot_status: true,
  meeting_status: true,
  container_status: true,
  error: true,
  platform: true,
  native_meeting_id: true,
  meeting_url: true,
  room_url: true,
  created_at: true,
  topic: true,
})
  .strip()
  .extend({ callback_url: z.string().optional(), callback_token: z.string().optional() })
export type JoinResponse = z.infer<typeof JoinResponse>
