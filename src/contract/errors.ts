import { z } from 'zod'

/** One thing that is wrong with a request: where (`bot_config.static_image`, empty for the whole) and why. */
export const Issue = z.object({ path: z.string(), message: z.string() })
export type Issue = z.infer<typeof Issue>

/** The body of every answer that is not a success. `code` is a stable word, `message` a sentence for a person. */
export const ErrorBody = z.object({
  code: z.string(),
  message: z.string(),
  hint: z.string().optional(),
  details: z.record(z.string(), z.unknown()).optional(),
})
export type ErrorBody = z.infer<typeof ErrorBody>

/** Whose fault a failure is; null for a code that nobody knows. */
export const Attribution = z.enum(['user', 'host', 'platform', 'system'])
export type Attribution = z.infer<typeof Attribution>

/** Why a run failed: the columns of the row together with what `public.error_codes` knows of its code. */
export const RunError = z.object({
  stage: z.string(),
  code: z.string(),
  message: z.string(),
  details: z.unknown(),
  attribution: Attribution.nullable(),
  meaning: z.string().nullable(),
  next_step: z.string().nullable(),
  retryable: z.boolean().nullable(),
})
export type RunError = z.infer<typeof RunError>

/** The dotted path of an issue, as it is shown: `transcript.0.text`. */
export function issuePath(path: readonly PropertyKey[]): string {
  return path.map(String).join('.')
}

/** What zod found, in the form of the wire. */
export function issuesOf(error: z.ZodError): Issue[] {
  return error.issues.map((issue) => ({ path: issuePath(issue.path), message: issue.message }))
}
