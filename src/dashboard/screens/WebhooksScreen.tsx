import { useState } from 'preact/hooks'
import type {
  WebhookDelivery,
  WebhookDeliveryList,
  WebhookDeliveryState,
  WebhookEndpointList,
} from '../../contract/webhooks.ts'
import { newKey } from '../actions.ts'
import { announce } from '../announcer.ts'
import { Icon } from '../components/Icon.tsx'
import { Problem, sentence } from '../components/Problem.tsx'
import { Scroll } from '../components/Scroll.tsx'
import { Skeleton } from '../components/Skeleton.tsx'
import { When } from '../components/When.tsx'
import { useDesk } from '../desk.ts'
import { clipped, count } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { tell } from '../messages.ts'
import { runHash } from '../route.ts'

const tones = { pending: 'waiting', delivered: 'ok', failed: 'bad' } as const

/** Where a backend is told over HTTP, and what became of each delivery. */
export function WebhooksScreen() {
  const { source } = useDesk()
  const [state, setState] = useState<WebhookDeliveryState | ''>('')
  const endpoints = useLoaded('endpoints', (signal) =>
    source.call<WebhookEndpointList>('webhooks', { method: 'GET', signal }),
  )
  const deliveries = useLoaded(`deliveries ${state}`, (signal) =>
    source.call<WebhookDeliveryList>('webhooks/deliveries', {
      method: 'GET',
      query: { limit: 100, ...(state !== '' && { state }) },
      signal,
    }),
  )
  const urls = new Map(endpoints.data?.items.map(({ id, url }) => [id, url]))

  async function sendAgain({ id }: WebhookDelivery): Promise<void> {
    try {
      await source.call(`webhooks/deliveries/${id}/resend`, {
        body: {},
        headers: { 'idempotency-key': newKey() },
      })
      tell('It is sent again.')
      announce('It is sent again.')
      deliveries.again()
    } catch (error) {
      tell(`It was not sent: ${sentence(error as Error)}`, { is_error: true })
    }
  }

  return (
    <>
      <div class="title">
        <h1>Webhooks</h1>
        <button
          type="button"
          onClick={() => {
            endpoints.again()
            deliveries.again()
          }}
        >
          Read again
        </button>
      </div>
      <section aria-labelledby="endpoints" aria-busy={endpoints.is_loading}>
        <div class="head">
          <h2 id="endpoints">Endpoints</h2>
        </div>
        {endpoints.error && (
          <Problem what="The endpoints can not be read." error={endpoints.error} onRetry={endpoints.again} />
        )}
        {!endpoints.data && endpoints.is_loading && <Skeleton />}
        {endpoints.data?.items.length === 0 && (
          <p class="quiet">
            You have no endpoint. <code>POST /functions/v1/webhooks</code> makes one; docs/webhooks.md says
            how.
          </p>
        )}
        <ul class="plain-list">
          {endpoints.data?.items.map((endpoint) => (
            <li key={endpoint.id}>
              <span class={`state ${endpoint.enabled ? (endpoint.failing_since ? 'waiting' : 'ok') : 'bad'}`}>
                <Icon name={endpoint.enabled ? (endpoint.failing_since ? 'waiting' : 'ok') : 'bad'} />
                {endpoint.enabled ? (endpoint.failing_since ? 'failing' : 'enabled') : 'disabled'}
              </span>
              <bdi class="url">{clipped(endpoint.url, 200)}</bdi>
              <span class="quiet">{endpoint.events.join(', ')}</span>
              {endpoint.disabled_reason && <span class="trouble">{endpoint.disabled_reason}</span>}
              {endpoint.failing_since && (
                <span class="quiet">
                  failing since <When at={endpoint.failing_since} />
                </span>
              )}
            </li>
          ))}
        </ul>
      </section>
      <section aria-labelledby="deliveries" aria-busy={deliveries.is_loading}>
        <div class="head">
          <h2 id="deliveries">Deliveries</h2>
          <select
            aria-label="State of the delivery"
            value={state}
            onChange={(event) => setState(event.currentTarget.value as typeof state)}
          >
            <option value="">All</option>
            <option value="pending">pending</option>
            <option value="delivered">delivered</option>
            <option value="failed">failed</option>
          </select>
        </div>
        {deliveries.error && (
          <Problem
            what="The deliveries can not be read."
            error={deliveries.error}
            onRetry={deliveries.again}
          />
        )}
        {!deliveries.data && deliveries.is_loading && <Skeleton />}
        {deliveries.data?.items.length === 0 && (
          <p class="quiet">{state === '' ? 'Nothing was delivered yet.' : `No delivery is ${state}.`}</p>
        )}
        {deliveries.data && deliveries.data.items.length > 0 && (
          <Scroll label="Table of deliveries">
            <table>
              <thead>
                <tr>
                  {[
                    'State',
                    'Event',
                    'Run',
                    'To',
                    'Attempts',
                    'Last answer',
                    'Next try',
                    'Created',
                    'Send',
                  ].map((head) => (
                    <th key={head} scope="col">
                      {head === 'Send' ? <span class="unseen">{head}</span> : head}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {deliveries.data.items.map((delivery) => (
                  <tr key={delivery.id}>
                    <td>
                      <span class={`state ${tones[delivery.state]}`}>
                        <Icon name={tones[delivery.state]} />
                        {delivery.state}
                      </span>
                    </td>
                    <td>{delivery.type}</td>
                    <td>
                      <a href={runHash(delivery.subject_id)}>
                        <code>{delivery.subject_id.slice(-8)}</code>
                      </a>
                    </td>
                    <td class="wide-cell">
                      <bdi>{clipped(delivery.url ?? urls.get(delivery.endpoint_id ?? '') ?? '–', 80)}</bdi>
                    </td>
                    <td>{count(delivery.attempts)}</td>
                    <td class="wide-cell">
                      {delivery.last_status ?? ''} {clipped(delivery.last_error ?? '', 120)}
                    </td>
                    <td>{delivery.next_attempt_at ? <When at={delivery.next_attempt_at} ms /> : '–'}</td>
                    <td>
                      <When at={delivery.created_at} />
                    </td>
                    <td>
                      {delivery.state !== 'pending' && (
                        <button type="button" class="small" onClick={() => void sendAgain(delivery)}>
                          Send again
                        </button>
                      )}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        )}
      </section>
    </>
  )
}
