/**
 * An automation: it reads a JSON feed every few minutes and sends each new item once to a webhook. Creates it, sets its
 * secret, activates it and prints what becomes of it.
 *
 *   SUPABASE_URL=... SUPABASE_PUBLISHABLE_KEY=... EMAIL=... PASSWORD=... \
 *   FEED_URL=https://.../feed.json WEBHOOK_URL=https://... WEBHOOK_TOKEN=... npx node examples/automation.ts
 */
import { createClient } from '@supabase/supabase-js'
// As a package of its own: import { createRollcall, RollcallError } from 'rollcall'
import { createRollcall, RollcallError } from '../src/index.ts'

export interface FeedToWebhook {
  /** A JSON Feed (jsonfeed.org): { items: [{ id, title, url }] }. */
  feed_url: string
  /** Gets each item by POST. Asked by GET with an Idempotency-Key it says what it has. */
  webhook_url: string
  /** How often the feed is read: `30s`, `5m`, `1h`. */
  every: string
}

/** The script, which runs in a sandbox: nothing is there but the tools. */
export function feedToWebhook({ feed_url, webhook_url, every }: FeedToWebhook): string {
  return `
const feed_url = ${JSON.stringify(feed_url)}
const webhook_url = ${JSON.stringify(webhook_url)}

workflow = {
  topics: ['items'],

  producers: {
    // Reads, and publishes what it finds: an item that was published before is not published twice.
    read_feed: {
      schedule: { interval: ${JSON.stringify(every)} },
      publishes: ['items'],
      async handler(state) {
        const { body } = await Http.get(feed_url)
        for (const { id, title, url } of body.items) {
          await Topics.publish('items', { id: String(id), payload: { id, title, url } })
        }
        return { items: body.items.length }
      },
    },
  },

  consumers: {
    // One item a run: prepare chooses it, mutate sends it, next learns what became of that.
    send_item: {
      subscribe: ['items'],
      publishes: [],
      async prepare(state) {
        const [item] = await Topics.peek('items', { limit: 1 })
        if (item === undefined) return {}
        return { reservations: [{ topic: 'items', ids: [item.id] }], data: item.payload }
      },
      async mutate({ data }) {
        await Http.send({
          url: webhook_url,
          method: 'POST',
          headers: { authorization: 'Bearer {{secret.WEBHOOK_TOKEN}}' },
          body: data,
          // Where a cut connection leaves it open whether the item has arrived, the receiver is asked.
          reconcile: { url: webhook_url, headers: { authorization: 'Bearer {{secret.WEBHOOK_TOKEN}}' } },
        })
      },
      async next(prepared, result) {
        console.log(prepared.data ? prepared.data.id + ': ' + result.status : 'nothing to send')
      },
    },
  },
}
`
}

async function main(): Promise<void> {
  const { SUPABASE_URL = '', SUPABASE_PUBLISHABLE_KEY = '', EMAIL = '', PASSWORD = '' } = process.env
  const { FEED_URL = '', WEBHOOK_URL = '', WEBHOOK_TOKEN = '' } = process.env
  const supabase = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY)
  const { error } = await supabase.auth.signInWithPassword({ email: EMAIL, password: PASSWORD })
  if (error) throw error

  const { workflows } = createRollcall(supabase)
  const over = new AbortController()
  process.once('SIGINT', () => over.abort())
  try {
    const code = feedToWebhook({ feed_url: FEED_URL, webhook_url: WEBHOOK_URL, every: '5m' })
    const { workflow_id } = await workflows.create({ title: 'Feed to webhook', code })
    await workflows.set_secret(workflow_id, 'WEBHOOK_TOKEN', WEBHOOK_TOKEN)
    await workflows.activate(workflow_id)
    for await (const { machine, from, to } of workflows.watch(workflow_id, { signal: over.signal })) {
      console.log(`${machine.padEnd(11)}  ${from ?? '-'} -> ${to}`)
    }
  } catch (reason) {
    if (reason instanceof RollcallError) {
      const { status, code, message, hint = '', details = '' } = reason
      console.error(`${status} ${code}: ${message}`, hint, details)
      process.exitCode = 1
    } else if (!over.signal.aborted) {
      throw reason
    }
  }
  // The refresh of the session would keep the process alive.
  await supabase.auth.stopAutoRefresh()
}

if (import.meta.main) await main()
