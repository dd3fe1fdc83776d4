import { z } from 'zod'
import { Bot, BotStatus, MeetingStatus } from './bots.ts'
import { Cursor, Limit } from './list.ts'
import { NativeMeetingId, Platform } from './meeting.ts'

/** What `?include=` may add to a bot. */
export const Include = z.enum(['events', 'transcript'])
export type Include = z.infer<typeof Include>

const INCLUDES: readonly string[] = Include.options

// In a query everything is text, so booleans are read from their one spelling.
const Flag = z.enum(['true', 'false']).transform((text) => text === 'true')

const Includes = z
  .string()
  .refine((text) => text.split(',').every((name) => INCLUDES.includes(name)), {
    message: `include names any of: ${INCLUDES.join(', ')}.`,
  })
  .transform((text) => [...new Set(text.split(','))] as Include[])

/** The query of `GET /functions/v1/status`: one bot by one of three names, or a list with filters. */
export const StatusQuery = z
  .object({
    bot_id: z.guid().optional(),
    workflow_thread_id: z.string().min(1).max(255).optional(),
    platform: Platform.optional(),
    native_meeting_id: NativeMeetingId.optional(),
    include: Includes.optional(),
    status: BotStatus.optional(),
    meeting_status: MeetingStatus.optional(),
    active: Flag.optional(),
    limit: Limit.optional(),
    cursor: Cursor.optional(),
    owner_id: z.guid().optional(),
  })
  .superRefine((query, context) => {
    const wrong = (field: string, message: string) =>
      context.addIssue({ code: 'custom', path: [field], message, input: query })
    if ((query.platform === undefined) !== (query.native_meeting_id === undefined)) {
      const missing = query.platform === undefined ? 'platform' : 'native_meeting_id'
      wrong(missing, 'platform and native_meeting_id name a meeting together: give both.')
    }
    const names = [query.bot_id, query.workflow_thread_id, query.platform].filter(
      (name) => name !== undefined,
    )
    if (names.length > 1) {
      wrong('', 'Name the bot once: bot_id, workflow_thread_id, or platform and native_meeting_id.')
    }
  })
export type StatusQuery = z.output<typeof StatusQuery>
export type StatusInput = z.input<typeof StatusQuery>

/** Whether a query names one bot; otherwise it asks for a list. */
export function namesOneBot(query: StatusQuery): boolean {
  return query.bot_id !== undefined || query.workflow_thread_id !== undefined || query.platform !== undefined
}

/** The 200 of status for one bot. */
export const StatusResponse = Bot
export type StatusResponse = Bot

/** The 200 of status for many: newest first, `next_cursor` null at the end. */
export const BotList = z.object({ items: z.array(Bot), next_cursor: z.string().nullable() })
export type BotList = z.infer<typeof BotList>
