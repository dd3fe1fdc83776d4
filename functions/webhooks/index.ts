import type { z } from 'zod'
import {
  NewWebhookEndpoint,
  RotatedSecret,
  type WebhookAction,
  WebhookDelivery,
  WebhookDeliveryList,
  WebhookEndpoint,
  WebhookEndpointList,
  webhookRequest,
} from '../../src/contract/webhooks.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import { actingFor } from '../_shared/caller.ts'
import { type Answer, type Context, endpoint, endpoints } from '../_shared/endpoint.ts'
import { env } from '../_shared/env.ts'
import { refusal } from '../_shared/errors.ts'

const options = { allow_private: env('WEBHOOKS_ALLOW_PRIVATE') === '1' }

/** Where and of what a backend is told over HTTP, and what became of it. */
const on = (method: 'GET' | 'POST' | 'PATCH' | 'DELETE', from: 'query' | 'body') =>
  endpoint<z.ZodType<WebhookAction>>(
    { method, auth: ['user', 'secret'], input: (path) => webhookRequest(method, path, options), from },
    answer,
  )

export default endpoints(on('GET', 'query'), on('POST', 'body'), on('PATCH', 'body'), on('DELETE', 'query'))

async function answer(action: WebhookAction, context: Context): Promise<Answer> {
  const { rpc } = context
  switch (action.do) {
    case 'create': {
      const { owner_id } = actingFor(context.caller, action.owner_id)
      const created = await rpc('create_webhook_endpoint', {
        owner_id,
        url: action.url,
        events: action.events,
      })
      return { status: 201, body: NewWebhookEndpoint.parse(created) }
    }
    case 'update': {
      const { endpoint_id, url = null, events = null, enabled = null } = action
      const args = { endpoint_id, owner_id: whose(context, action), url, events, enabled }
      return { status: 200, body: WebhookEndpoint.parse(await rpc('update_webhook_endpoint', args)) }
    }
    case 'delete': {
      const args = { endpoint_id: action.endpoint_id, owner_id: whose(context, action) }
      return { status: 200, body: WebhookEndpoint.parse(await rpc('delete_webhook_endpoint', args)) }
    }
    case 'rotate': {
      const { endpoint_id } = action
      const owner_id =
        endpoint_id === null ? actingFor(context.caller, action.owner_id).owner_id : whose(context, action)
      return {
        status: 200,
        body: RotatedSecret.parse(await rpc('rotate_webhook_secret', { endpoint_id, owner_id })),
      }
    }
    case 'list':
      return { status: 200, body: await endpointsOf(context, { owner_id: whose(context, action, true) }) }
    case 'get': {
      const args = { endpoint_id: action.endpoint_id, owner_id: whose(context, action) }
      const [found] = (await endpointsOf(context, args)).items
      if (found === undefined) throw refusal('webhook_endpoint_not_found')
      return { status: 200, body: found }
    }
    case 'list_deliveries': {
      const { endpoint_id = null, subject_id = null, state = null, limit = 50, cursor = null } = action
      const owner_id = whose(context, action, true)
      const args = { endpoint_id, subject_id, state, max_rows: limit, cursor, owner_id }
      return { status: 200, body: await deliveriesOf(context, args) }
    }
    case 'get_delivery': {
      const args = { delivery_id: action.delivery_id, owner_id: whose(context, action) }
      const [found] = (await deliveriesOf(context, args)).items
      if (found === undefined) throw refusal('webhook_delivery_not_found')
      return { status: 200, body: found }
    }
    case 'resend': {
      const args = { delivery_id: action.delivery_id, owner_id: whose(context, action) }
      return { status: 202, body: WebhookDelivery.parse(await rpc('resend_delivery', args)) }
    }
  }
}

async function endpointsOf({ db }: Context, args: Record<string, unknown>): Promise<WebhookEndpointList> {
  return WebhookEndpointList.parse(await callRpc(db, 'list_webhook_endpoints', args))
}

async function deliveriesOf({ db }: Context, args: Record<string, unknown>): Promise<WebhookDeliveryList> {
  return WebhookDeliveryList.parse(await callRpc(db, 'list_webhook_deliveries', args))
}

/**
 * Whose things are meant: a user's own. An id says whose it is, so operators and secret keys need not; of a list an
 * operator sees another owner's by naming the owner. Null: anybody's.
 */
function whose({ caller }: Context, { owner_id }: WebhookAction, list = false): string | null {
  if (owner_id !== undefined) return actingFor(caller, owner_id).owner_id
  if (caller.kind === 'secret' || (caller.kind === 'user' && caller.operator && !list)) return null
  return actingFor(caller, undefined).owner_id
}
