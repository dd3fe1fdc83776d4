import { z } from 'zod'
import { jsonBytes } from './json.ts'
import { Cursor, Limit } from './list.ts'
import { Resolution, WorkflowState } from './workflows.ts'

/** What a workflow holds at most. */
export const MAX_SCRIPT_BYTES = 256 * 1024
export const MAX_MESSAGE_BYTES = 32 * 1024
export const MAX_SECRET_BYTES = 8 * 1024
export const MAX_RESULT_BYTES = 64 * 1024

function bytes(text: string): number {
  return new TextEncoder().encode(text).length
}

/** For whom; only operators and secret keys may name somebody else. */
const owner_id = z.guid().optional()

/** What a person says to the agent. */
const Message = z
  .string()
  .refine((text) => text.trim() !== '', 'A message needs words.')
  .refine((text) => bytes(text) <= MAX_MESSAGE_BYTES, 'A message has at most 32 KB.')

const Title = z
  .string()
  .max(255)
  .refine((title) => title.trim() !== '', 'A workflow needs a title.')

const Code = z
  .string()
  .refine((code) => code.trim() !== '', 'A script needs code.')
  .refine((code) => bytes(code) <= MAX_SCRIPT_BYTES, 'A script has at most 256 KB.')

const Comment = z.string().max(2000)

/** Names as the time zone database has them: `Europe/Berlin`, `UTC`. */
const TimeZone = z.string().max(64).refine(isTimeZone, 'Not the name of a time zone, such as Europe/Berlin.')

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    // Offsets such as +02:00 are understood as well, but have no summer.
    return /^[A-Za-z]/.test(name)
  } catch {
    return false
  }
}

/**
 * The body of `POST /functions/v1/workflows`: words from which the agent writes the script, or the script itself.
 */
export const CreateWorkflowRequest = z
  .object({
    message: Message.optional(),
    title: Title.optional(),
    code: Code.optional(),
    time_zone: TimeZone.optional(),
    owner_id,
  })
  .superRefine(({ message, title, code }, context) => {
    const issue = (path: string[], text: string) => context.addIssue({ code: 'custom', path, message: text })
    if (message === undefined && code === undefined) {
      issue([], 'Send { message }, from which the agent writes a script, or { title, code }.')
    } else if (message !== undefined && code !== undefined) {
      issue(['message'], 'Send either message or code: a script that is there need not be written.')
    } else if (code !== undefined && title === undefined) {
      issue(['title'], 'A workflow needs a title.')
    }
  })
export type CreateWorkflowRequest = z.infer<typeof CreateWorkflowRequest>

/** The body of `PATCH /workflows/:id`: what is absent stays as it is. */
export const UpdateWorkflowRequest = z
  .object({ title: Title.optional(), time_zone: TimeZone.optional(), owner_id })
  .refine(
    ({ title, time_zone }) => title !== undefined || time_zone !== undefined,
    'Say what is to change: title or time_zone.',
  )
export type UpdateWorkflowRequest = z.infer<typeof UpdateWorkflowRequest>

/** The query of `GET /functions/v1/workflows`. */
export const WorkflowsQuery = z.object({
  state: WorkflowState.optional(),
  limit: Limit.optional(),
  cursor: Cursor.optional(),
  owner_id,
})
export type WorkflowsQuery = z.output<typeof WorkflowsQuery>

/** The query of whatever is about one thing. */
export const WorkflowQuery = z.object({ owner_id })
export type WorkflowQuery = z.infer<typeof WorkflowQuery>

/** The query of the lists of one workflow: runs and messages. */
export const WorkflowPageQuery = z.object({ limit: Limit.optional(), cursor: Cursor.optional(), owner_id })
export type WorkflowPageQuery = z.output<typeof WorkflowPageQuery>

/** The body of `POST /workflows/:id/messages`. */
export const AddMessageRequest = z.object({ content: Message, owner_id })
export type AddMessageRequest = z.infer<typeof AddMessageRequest>

/** The body of `POST /workflows/:id/script`. Saving activates nothing. */
export const SaveScriptRequest = z.object({
  code: Code,
  /** What has changed. */
  comment: Comment.optional(),
  /** What the script does. */
  summary: Comment.optional(),
  owner_id,
})
export type SaveScriptRequest = z.infer<typeof SaveScriptRequest>

/** The body of `POST /workflows/:id/activate`; it may be left out. */
export const ActivateRequest = z
  .object({
    /** Absent: the newest. */
    script_id: z.guid().optional(),
    owner_id,
  })
  .prefault({})
export type ActivateRequest = z.output<typeof ActivateRequest>

/** The body of pause, resume, archive, unarchive, retry, run and acknowledge; it may be left out. */
export const WorkflowActionRequest = z.object({ owner_id }).prefault({})
export type WorkflowActionRequest = z.output<typeof WorkflowActionRequest>

/** As scripts name it: `{{secret.API_TOKEN}}`. */
export const SecretName = z
  .string()
  .regex(
    /^[A-Za-z_][A-Za-z0-9_]{0,63}$/,
    'A name has 1 to 64 letters, digits and underscores, and does not begin with a digit.',
  )

/** The body of `POST /workflows/:id/secrets`; a value of null takes the secret away. */
export const SetSecretRequest = z.object({
  name: SecretName,
  value: z
    .string()
    .min(1, 'A secret is not empty: null takes it away.')
    .refine((value) => bytes(value) <= MAX_SECRET_BYTES, 'A secret has at most 8 KB.')
    .nullable(),
  owner_id,
})
export type SetSecretRequest = z.infer<typeof SetSecretRequest>

/**
 * The body of `POST /workflows/:id/mutations/:id/resolve`. `failed`: it did not happen, do it again. `skipped`: leave
 * it. `applied`: it did happen. `ask_again`: ask the other side once more.
 */
export const ResolveMutationRequest = z
  .object({
    how: Resolution,
    /** What the other side answered, for next(); only with `applied`. */
    result: z
      .unknown()
      .refine((result) => jsonBytes(result) <= MAX_RESULT_BYTES, 'A result has at most 64 KB.')
      .optional(),
    owner_id,
  })
  .refine(({ how, result }) => how === 'applied' || result === undefined, {
    path: ['result'],
    message: 'Only what was applied has a result.',
  })
export type ResolveMutationRequest = z.infer<typeof ResolveMutationRequest>
