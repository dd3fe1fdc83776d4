import type { SupabaseClient } from '@supabase/supabase-js'
import type {
  NewWebhookEndpoint,
  RotatedSecret,
  WebhookDelivery,
  WebhookDeliveryList,
  WebhookDeliveryState,
  WebhookEndpoint,
  WebhookEndpointList,
} from '../contract/webhooks.ts'
import type { CallOptions } from './bots.ts'
import { callFunction, type FunctionCall } from './http.ts'

export interface DeliveryFilters extends CallOptions {
  endpoint_id?: string
  /** The run that a delivery tells of. */
  subject_id?: string
  state?: WebhookDeliveryState
  /** 1 to 200; 50 if absent. */
  limit?: number
  /** `next_cursor` of the page before. */
  cursor?: string
}

/** Transitions over HTTP, for backends that hold no socket. Every call throws RollcallError, or the reason of its signal. */
export interface Webhooks {
  /** `events`: `<machine>.<state>` such as `bot.failed`, `bot.*`, or `*`. The secret is shown this once. */
  create(endpoint: { url: string; events: string[] }, options?: CallOptions): Promise<NewWebhookEndpoint>
  list(options?: CallOptions): Promise<WebhookEndpointList>
  get(endpoint_id: string, options?: CallOptions): Promise<WebhookEndpoint>
  update(
    endpoint_id: string,
    change: { url?: string; events?: string[]; enabled?: boolean },
    options?: CallOptions,
  ): Promise<WebhookEndpoint>
  /** Its deliveries go with it. */
  delete(endpoint_id: string, options?: CallOptions): Promise<WebhookEndpoint>
  /**
   * A new secret, shown this once; the old one signs beside it for 24 h. Without an endpoint: the secret that signs what
   * goes to the `webhook_url` of single bots.
   */
  rotate(endpoint_id?: string, options?: CallOptions): Promise<RotatedSecret>
  /** What was sent, or will be; newest first. */
  deliveries(filters?: DeliveryFilters): Promise<WebhookDeliveryList>
  /** One delivery, with its payload. */
  delivery(delivery_id: string, options?: CallOptions): Promise<WebhookDelivery>
  /** Sends a delivery once more, with the same id. */
  resend(delivery_id: string, options?: CallOptions): Promise<WebhookDelivery>
}

/** The part of the client that is about webhooks. */
export function createWebhooks(supabase: SupabaseClient, owner_id: string | undefined): Webhooks {
  const owner = owner_id === undefined ? {} : { owner_id }
  const ask = <T>(
    path: string,
    method: 'GET' | 'DELETE',
    { signal }: CallOptions,
    query: FunctionCall['query'] = {},
  ) => callFunction<T>(supabase, `webhooks${path}`, { method, query: { ...query, ...owner }, signal })
  const tell = <T>(path: string, method: 'POST' | 'PATCH', { signal }: CallOptions, body: object = {}) =>
    callFunction<T>(supabase, `webhooks${path}`, { method, body: { ...body, ...owner }, signal })
  const at = (id: string) => `/${encodeURIComponent(id)}`

  return {
    create: (endpoint, options = {}) => tell('', 'POST', options, endpoint),
    list: (options = {}) => ask('', 'GET', options),
    get: (endpoint_id, options = {}) => ask(at(endpoint_id), 'GET', options),
    update: (endpoint_id, change, options = {}) => tell(at(endpoint_id), 'PATCH', options, change),
    delete: (endpoint_id, options = {}) => ask(at(endpoint_id), 'DELETE', options),
    rotate: (endpoint_id, options = {}) => tell(`${at(endpoint_id ?? 'secret')}/rotate`, 'POST', options),
    deliveries: ({ signal, ...filters } = {}) => ask('/deliveries', 'GET', { signal }, filters),
    delivery: (delivery_id, options = {}) => ask(`/deliveries${at(delivery_id)}`, 'GET', options),
    resend: (delivery_id, options = {}) => tell(`/deliveries${at(delivery_id)}/resend`, 'POST', options),
  }
}
