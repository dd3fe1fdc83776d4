import { z } from 'zod'

/** Where a bot reports to, and as whom. */
export type CallbackTarget = {
  callback_url: string
  callback_token: string
  bot_id: string
  /** The machine it runs in, if it runs in one. */
  container_id: string | null
}

/** What a bot was sent to do. */
export type Assignment = {
  platform: string
  meeting_url: string
  passcode: string | null
  bot_name: string
  /** How long it stays in a room without people. */
  alone_after_s: number
}

const Target = z.object({
  ROLLCALL_CALLBACK_URL: z.url(),
  ROLLCALL_CALLBACK_TOKEN: z.string().min(1),
  ROLLCALL_BOT_ID: z.guid(),
  FLY_MACHINE_ID: z.string().min(1).optional(),
})

const BotConfig = z.looseObject({ alone_after_s: z.number().min(0).max(86_400).default(60) })

const Assigned = z.object({
  ROLLCALL_PLATFORM: z.string().min(1),
  ROLLCALL_MEETING_URL: z.url(),
  ROLLCALL_PASSCODE: z.string().optional(),
  ROLLCALL_BOT_NAME: z.string().min(1).default('Rollcall'),
  ROLLCALL_BOT_CONFIG: z
    .string()
    .default('{}')
    .transform((text, context) => {
      try {
        return JSON.parse(text) as unknown
      } catch {
        context.issues.push({ code: 'custom', message: 'must be JSON', input: text })
        return z.NEVER
      }
    })
    .pipe(BotConfig),
})

/** Where to report to. @throws when a variable is missing or wrong; then there is nobody to tell. */
export function readCallbackTarget(env: NodeJS.ProcessEnv): CallbackTarget {
  const target = read(Target, env)
  return {
    callback_url: target.ROLLCALL_CALLBACK_URL.replace(/\/$/, ''),
    callback_token: target.ROLLCALL_CALLBACK_TOKEN,
    bot_id: target.ROLLCALL_BOT_ID,
    container_id: target.FLY_MACHINE_ID ?? null,
  }
}

/** What to do. @throws when a variable is missing or wrong, naming it. */
export function readAssignment(env: NodeJS.ProcessEnv): Assignment {
  const assigned = read(Assigned, env)
  return {
    platform: assigned.ROLLCALL_PLATFORM,
    meeting_url: assigned.ROLLCALL_MEETING_URL,
    passcode: assigned.ROLLCALL_PASSCODE || null,
    bot_name: assigned.ROLLCALL_BOT_NAME,
    alone_after_s: assigned.ROLLCALL_BOT_CONFIG.alone_after_s,
  }
}

function read<T>(schema: z.ZodType<T>, env: NodeJS.ProcessEnv): T {
  const parsed = schema.safeParse(env)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
  throw new Error(`Set the environment of the bot: ${problems.join('; ')}`)
}
