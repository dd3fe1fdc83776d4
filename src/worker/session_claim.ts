import { z } from 'zod'

const Json = z.unknown()

/** The result that next() gets. */
export const MutationResult = z.object({
  status: z.enum(['applied', 'skipped', 'none']),
  result: Json.optional(),
})

/** A handler run as the database hands it out. */
export const Run = z.object({
  run_id: z.string(),
  handler_type: z.enum(['producer', 'consumer']),
  handler_name: z.string(),
  phase: z.enum([
    'pending',
    'executing',
    'preparing',
    'prepared',
    'mutating',
    'mutated',
    'emitting',
    'committed',
  ]),
  state: Json,
  prepare_result: Json,
  mutation: z.object({ mutation_id: z.string(), status: z.string() }).nullish(),
  /** The events that it has reserved. */
  events: z.array(
    z.object({ topic: z.string(), message_id: z.string(), payload: Json, attempt_number: z.number() }),
  ),
  result: MutationResult.nullish(),
})
export type Run = z.output<typeof Run>

/** When a producer runs. */
export const Schedule = z.union([z.object({ interval: z.string() }), z.object({ cron: z.string() })])
export type Schedule = z.output<typeof Schedule>

/** What a script says of itself. */
export const ScriptConfig = z.object({
  topics: z.array(z.string()),
  producers: z.record(z.string(), z.object({ schedule: Schedule, publishes: z.array(z.string()) })),
  consumers: z.record(
    z.string(),
    z.object({
      subscribe: z.array(z.string()),
      publishes: z.array(z.string()),
      has_mutate: z.boolean(),
      has_next: z.boolean(),
    }),
  ),
})
export type ScriptConfig = z.output<typeof ScriptConfig>

/** A session as it is claimed: a workflow's script, and the run to go on with. */
export const SessionClaim = z.object({
  session_id: z.string(),
  lease_token: z.string(),
  workflow_id: z.string(),
  time_zone: z.string(),
  trigger: z.string(),
  script: z.object({ id: z.string(), code: z.string(), config: Json }),
  run: Run.nullable(),
})
export type SessionClaim = z.output<typeof SessionClaim>
