import { z } from 'zod'
import { BotEvent } from './bots.ts'
import { MAX_URL_LENGTH, publicUrlProblem } from './public_url.ts'

const Time = z.string()

/** `bot.failed`, `meeting.active` ... (`<machine>.<to>`), a whole machine as `bot.*`, or everything as `*`. */
export const WebhookEventName = z
  .string()
  .max(100)
  .regex(
    /^(?:\*|[a-z_]+\.(?:\*|[a-z_:]+))$/,
    'An event is <machine>.<state> such as bot.failed, <machine>.*, or *.',
  )

/** Where an owner wants to be told of transitions, as every answer shows it: without its secret. */
export const WebhookEndpoint = z.object({
  id: z.string(),
  owner_id: z.string(),
  url: z.string(),
  events: z.array(z.string()),
  enabled: z.boolean(),
  /** Why Rollcall disabled it; null where its owner did. */
  disabled_reason: z.string().nullable(),
  disabled_at: Time.nullable(),
  /** The first failure since the last success. */
  failing_since: Time.nullable(),
  created_at: Time,
  updated_at: Time,
})
export type WebhookEndpoint = z.infer<typeof WebhookEndpoint>

/** The 201 of a new endpoint: the one time that its secret (`whsec_...`) is shown. */
export const NewWebhookEndpoint = WebhookEndpoint.extend({ secret: z.string() })
export type NewWebhookEndpoint = z.infer<typeof NewWebhookEndpoint>

export const WebhookEndpointList = z.object({ items: z.array(WebhookEndpoint) })
export type WebhookEndpointList = z.infer<typeof WebhookEndpointList>

/** The answer to a rotation: the new secret, shown this once; until `previous_signs_until` the old one signs as well. */
export const RotatedSecret = z.object({
  owner_id: z.string(),
  /** Null: the owner's own secret, which signs what goes to the `webhook_url` of a bot. */
  endpoint_id: z.string().nullable(),
  secret: z.string(),
  previous_signs_until: Time.nullable(),
})
export type RotatedSecret = z.infer<typeof RotatedSecret>

export const WebhookDeliveryState = z.enum(['pending', 'delivered', 'failed'])
export type WebhookDeliveryState = z.infer<typeof WebhookDeliveryState>

/** What receivers get. Beside the event it shows the run as it was right after it. */
export const WebhookPayload = z.object({
  type: z.string(),
  timestamp: Time,
  data: z.looseObject({ event: BotEvent }),
})
export type WebhookPayload = z.infer<typeof WebhookPayload>

/** One transition on its way to one place. Its id is the `webhook-id`, the same with every attempt. */
export const WebhookDelivery = z.object({
  id: z.string(),
  event_id: z.number(),
  endpoint_id: z.string().nullable(),
  /** The `webhook_url` of a bot; null where there is an endpoint. */
  url: z.string().nullable(),
  owner_id: z.string(),
  machine: z.string(),
  subject_id: z.string(),
  type: z.string(),
  state: WebhookDeliveryState,
  attempts: z.number(),
  last_status: z.number().nullable(),
  last_error: z.string().nullable(),
  next_attempt_at: Time.nullable(),
  created_at: Time,
  delivered_at: Time.nullable(),
  /** Only where one delivery was asked for. */
  payload: WebhookPayload.optional(),
})
export type WebhookDelivery = z.infer<typeof WebhookDelivery>

/** Newest first, `next_cursor` null at the end. */
export const WebhookDeliveryList = z.object({
  items: z.array(WebhookDelivery),
  next_cursor: z.string().nullable(),
})
export type WebhookDeliveryList = z.infer<typeof WebhookDeliveryList>

export interface WebhookOptions {
  /** Lets endpoints lead to private hosts and plain http, for local development (WEBHOOKS_ALLOW_PRIVATE=1). */
  allow_private?: boolean
}

/** Why a webhook may not go to an address, as one sentence; null if it may, as far as the text tells. */
export function webhookUrlProblem(url: string, { allow_private = false }: WebhookOptions): string | null {
  if (!allow_private) return publicUrlProblem(url)
  return URL.canParse(url) && /^https?:$/.test(new URL(url).protocol) ? null : 'Not a URL.'
}

/** What a request to /functions/v1/webhooks asks for. An owner_id of undefined is the caller's own. */
export type WebhookAction = { owner_id?: string | undefined } & (
  | { do: 'create'; url: string; events: string[] }
  | {
      do: 'update'
      endpoint_id: string
      url?: string | undefined
      events?: string[] | undefined
      enabled?: boolean | undefined
    }
  | { do: 'delete' | 'get'; endpoint_id: string }
  | { do: 'list' }
  | { do: 'rotate'; endpoint_id: string | null }
  | ({ do: 'list_deliveries' } & WebhookDeliveryQuery)
  | { do: 'get_delivery' | 'resend'; delivery_id: string }
)

const Id = z.guid()
const Owner = z.object({ owner_id: Id.optional() })
const NoBody = Owner.optional()

const Events = z
  .array(WebhookEventName)
  .min(1)
  .max(100)
  .transform((events) => [...new Set(events)])

function link(options: WebhookOptions) {
  return z
    .string()
    .min(1)
    .max(MAX_URL_LENGTH)
    .superRefine((url, context) => {
      const problem = webhookUrlProblem(url, options)
      if (problem !== null) context.addIssue({ code: 'custom', message: problem })
    })
    .transform((url) => new URL(url).href)
    .refine((url) => url.length <= MAX_URL_LENGTH, `A URL has at most ${MAX_URL_LENGTH} characters.`)
}

/** The query of `GET /functions/v1/webhooks/deliveries`. */
export const WebhookDeliveryQuery = Owner.extend({
  endpoint_id: Id.optional(),
  /** A bot, a flow execution, a workflow. */
  subject_id: Id.optional(),
  state: WebhookDeliveryState.optional(),
  // In a query everything is text.
  limit: z
    .string()
    .regex(/^[1-9]\d{0,2}$/, 'limit is a whole number from 1 to 200.')
    .transform(Number)
    .refine((limit) => limit <= 200, 'limit is a whole number from 1 to 200.')
    .optional(),
  cursor: z.string().min(1).max(1024).optional(),
})
export type WebhookDeliveryQuery = z.output<typeof WebhookDeliveryQuery>

/** What a method means at a path behind /functions/v1/webhooks: the schema of its input; null for no such path. */
export function webhookRequest(
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
  path: string,
  options: WebhookOptions = {},
): z.ZodType<WebhookAction> | null {
  const [first, second, third, ...rest] = path === '' ? [] : path.split('/')
  if (rest.length > 0) return null
  /** Reads an id of the path: a malformed one is bad input, not a missing page. */
  const named = <K extends string, D extends WebhookAction['do']>(
    verb: D,
    name: K,
    text: string | undefined,
  ) => {
    return (body: object | undefined, context: z.RefinementCtx) => {
      if (Id.safeParse(text).success) return { ...body, do: verb, [name]: text } as unknown as WebhookAction
      context.addIssue({ code: 'custom', path: [name], message: 'Not an id.' })
      return z.NEVER
    }
  }
  const deliveries = first === 'deliveries'
  if (method === 'GET') {
    if (first === undefined) return Owner.transform((query) => ({ ...query, do: 'list' as const }))
    if (deliveries && second === undefined) {
      return WebhookDeliveryQuery.transform((query) => ({ ...query, do: 'list_deliveries' as const }))
    }
    if (deliveries && third === undefined)
      return Owner.transform(named('get_delivery', 'delivery_id', second))
    return second === undefined ? Owner.transform(named('get', 'endpoint_id', first)) : null
  }
  if (method === 'POST') {
    if (first === undefined) {
      return Owner.extend({ url: link(options), events: Events }).transform((body) => ({
        ...body,
        do: 'create' as const,
      }))
    }
    if (deliveries && third === 'resend') return NoBody.transform(named('resend', 'delivery_id', second))
    if (second !== 'rotate' || third !== undefined) return null
    if (first === 'secret') {
      return NoBody.transform((body) => ({ ...body, do: 'rotate' as const, endpoint_id: null }))
    }
    return NoBody.transform(named('rotate', 'endpoint_id', first))
  }
  if (first === undefined || second !== undefined || deliveries) return null
  if (method === 'DELETE') return Owner.transform(named('delete', 'endpoint_id', first))
  return Owner.extend({
    url: link(options).optional(),
    events: Events.optional(),
    enabled: z.boolean().optional(),
  }).transform(named('update', 'endpoint_id', first))
}
