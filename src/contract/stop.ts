import { z } from 'zod'
import { Bot } from './bots.ts'
import { NativeMeetingId, Platform } from './meeting.ts'

/** The path behind `DELETE /functions/v1/stop/`: all open bots of the caller in a meeting. */
export const StopPath = z.object({ platform: Platform, native_meeting_id: NativeMeetingId })
export type StopPath = z.infer<typeof StopPath>

/** The query of `DELETE /functions/v1/stop/{platform}/{native_meeting_id}`. */
export const StopQuery = z.object({ owner_id: z.guid().optional() })
export type StopQuery = z.infer<typeof StopQuery>

/** The body of `POST /functions/v1/stop`: one bot, and what its history says of why. */
export const StopRequest = z.object({
  bot_id: z.guid(),
  owner_id: z.guid().optional(),
  reason: z.string().max(500).optional(),
})
export type StopRequest = z.infer<typeof StopRequest>

/** The 202 of stop: what was done, and the bots as they are now. */
export const StopResponse = z.object({ message: z.string(), bots: z.array(Bot) })
export type StopResponse = z.infer<typeof StopResponse>
