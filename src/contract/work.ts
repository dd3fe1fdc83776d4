import { z } from 'zod'

/** The kinds of background work, each claimed and run on its own. */
export const Lane = z.enum([
  'containers',
  'processing',
  'prompts',
  'scripts',
  'agents',
  'webhooks',
  'reconcile',
])
export type Lane = z.infer<typeof Lane>

/** The query of `POST /functions/v1/work`. */
export const WorkQuery = z.object({ lane: Lane })
export type WorkQuery = z.infer<typeof WorkQuery>

/** The 202 of work: the lane runs on after the answer. */
export const WorkResponse = z.object({ lane: Lane, accepted: z.literal(true) })
export type WorkResponse = z.infer<typeof WorkResponse>

/** The 200 of `GET /functions/v1/work`: what an uptime check should watch. */
export const Health = z.record(z.string(), z.unknown())
export type Health = z.infer<typeof Health>
