import { randomUUID } from 'node:crypto'
import { validateScript } from '../../src/worker/script/validate_script.ts'
import type { Ledger } from './ledger.ts'
import type { Project } from './project.ts'
import { rpc } from './rpc.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests read rows and answers of every form
type Json = any

export interface Automation {
  workflow_id: string
  owner_id: string
  script_id: string
}

export interface OrderScript {
  /** Where the ledger is, as the script reaches it. */
  url: string
  /** Which of its feeds is read. */
  feed: string
  /** Whether the ledger can be asked about an order. */
  reconcile?: boolean
  /** Put at the beginning of a function's body. */
  handler?: string
  prepare?: string
  mutate?: string
  next?: string
  /** How many events a run takes. */
  at_a_time?: number
}

/**
 * A producer that reads a feed, a consumer that orders each item at the ledger and publishes what it heard, and one
 * that keeps what was published: side effects, states and publications of all kinds.
 */
export function orderScript({ url, feed, reconcile = false, at_a_time = 1, ...more }: OrderScript): string {
  return `
workflow = {
  topics: ['items', 'orders'],
  producers: {
    feed: {
      schedule: { interval: '1d' },
      publishes: ['items'],
      async handler(state) {
        ${more.handler ?? ''}
        const { body } = await Http.get('${url}/feed/${feed}')
        for (const item of body.items) await Topics.publish('items', { id: item, payload: { item } })
        return { times: (state?.times ?? 0) + 1 }
      },
    },
  },
  consumers: {
    order: {
      subscribe: ['items'],
      publishes: ['orders'],
      async prepare(state) {
        ${more.prepare ?? ''}
        const events = await Topics.peek('items', { limit: ${at_a_time} })
        if (events.length === 0) return {}
        return { reservations: [{ topic: 'items', ids: events.map((event) => event.id) }], data: { item: events[0].id } }
      },
      async mutate(prepared) {
        ${more.mutate ?? ''}
        await Http.send({
          url: '${url}/orders', method: 'POST', body: { item: prepared.data.item },
          ${reconcile ? `reconcile: { url: '${url}/orders/asked' },` : ''}
        })
      },
      async next(prepared, result) {
        ${more.next ?? ''}
        if (prepared.events.length === 0) return { rested: true }
        const id = prepared.data.item
        console.log('ordered', id, result.status)
        await Topics.publish('orders', { id, payload: { id, status: result.status, result: result.result } })
        return { last: id }
      },
    },
    keep: {
      subscribe: ['orders'],
      publishes: [],
      async prepare(state) {
        const events = await Topics.peek('orders', { limit: 100 })
        const kept = [...(state?.kept ?? []), ...events.map((event) => event.payload.id)]
        return { reservations: [{ topic: 'orders', ids: events.map((event) => event.id) }], data: { kept } }
      },
      async next(prepared) {
        return { kept: prepared.data.kept }
      },
    },
  },
}`
}

/** A workflow with this script, activated; of an owner of its own. */
export async function startAutomation(
  { sql }: Project,
  code: string,
  { activate = true }: { activate?: boolean } = {},
): Promise<Automation> {
  const { config, issues } = await validateScript(code)
  if (issues.length > 0) throw new Error(`The script has issues: ${JSON.stringify(issues)}`)
  const owner_id = randomUUID()
  const made = await rpc<Json>(sql, 'create_workflow', { owner_id, title: 'Automation', code, config })
  const { workflow_id, script_id } = made
  if (activate) await rpc(sql, 'activate_workflow', { workflow_id, owner_id })
  return { workflow_id, owner_id, script_id }
}

/** The workflow as its owner sees it. */
export function workflowOf({ sql }: Project, { workflow_id, owner_id }: Automation): Promise<Json> {
  return rpc(sql, 'get_workflow', { workflow_id, owner_id })
}

/** Its handler runs, the oldest first. */
export async function runsOf({ sql }: Project, { workflow_id }: Automation): Promise<Json[]> {
  return sql`select * from public.handler_runs where workflow_id = ${workflow_id} order by started_at, id`
}

/** Its events by topic, the oldest first. */
export async function eventsOf(
  { sql }: Project,
  { workflow_id }: Automation,
  topic: string,
): Promise<Json[]> {
  return sql`
    select e.* from public.workflow_events e
    join public.workflow_topics t on t.id = e.topic_id
    where e.workflow_id = ${workflow_id} and t.name = ${topic} order by e.position`
}

/** Its side effects, the oldest first. */
export async function mutationsOf({ sql }: Project, { workflow_id }: Automation): Promise<Json[]> {
  return sql`
    select * from public.workflow_mutations where workflow_id = ${workflow_id} order by created_at, id`
}

/** What a handler has kept. */
export async function stateOf({ sql }: Project, { workflow_id }: Automation, handler: string): Promise<Json> {
  const [row] = await sql`
    select state from public.handler_states where workflow_id = ${workflow_id} and handler_name = ${handler}`
  return row?.state ?? null
}

/** All that waits for time to pass has waited: leases of dead workers, back-offs, questions to the other side. */
export async function passTime({ sql }: Project): Promise<void> {
  await sql`
    update public.script_runs set lease_expires_at = lifecycle.now() - interval '5 min' where status = 'running'`
  await sql`select lifecycle.sweep()`
  await sql`
    update public.workflow_mutations set next_reconcile_at = lifecycle.now() - interval '1 s'
    where status = 'needs_reconcile'`
  await sql`
    with waiting as (
      update public.workflows set backoff_until = null where backoff_until is not null returning id
    )
    select private.refresh_due(w.id) from waiting w`
  await sql`
    update public.workflow_tasks set not_before = null, lease_expires_at = lease_expires_at - interval '5 min'
    where state = 'queued'`
}

/** No item was ordered twice, and all of these were. */
export function orderedOnce({ done }: Ledger, items: string[]): boolean {
  return items.every((item) => done.get(item)?.length === 1)
}
