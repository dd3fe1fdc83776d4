import { Webhook } from 'standardwebhooks'
import { z } from 'zod'
import type { WorkContext } from './lanes.ts'
import { errorFields, log } from './log.ts'
import { PostError, type PostOptions, postPinned } from './pinned_post.ts'
import { callRpc } from './rpc.ts'

/** How long a receiver may take to answer, in ms. */
const TIMEOUT_MS = 10_000

/** The longest that one delivery takes, with claiming and recording it, in seconds. */
export const DELIVERY_SECONDS = 15

/** How many are sent at a time; the database sees to it that all workers together send no more. */
const AT_A_TIME = 20

/** While some are slow, how often others are looked for, in ms. */
const LOOK_EVERY_MS = 500

const Claim = z.object({
  delivery_id: z.string(),
  lease_token: z.string(),
  attempt: z.number(),
  url: z.string(),
  type: z.string(),
  /** The payload, to be sent as it is. */
  body: z.string(),
  secrets: z.array(z.string()).min(1),
})
type Claim = z.infer<typeof Claim>

/**
 * Sends what is due, up to 20 at a time, until nothing is; a slow receiver holds up nobody else. What became of each
 * is stored, and the database says whether and when it is tried again. A worker that dies after a POST has stored
 * nothing: the delivery is sent again with the same id, at least once. False: nothing was due.
 */
export async function deliverDue(context: WorkContext, may_begin: () => boolean): Promise<boolean> {
  const sending = new Set<Promise<void>>()
  let any = false
  try {
    for (;;) {
      const claim = sending.size < AT_A_TIME && may_begin() ? await claimNext(context) : null
      if (claim !== null) {
        any = true
        const one: Promise<void> = deliver(context, claim).finally(() => sending.delete(one))
        sending.add(one)
      } else {
        if (sending.size === 0) return any
        await Promise.race([...sending, new Promise((done) => setTimeout(done, LOOK_EVERY_MS))])
      }
    }
  } finally {
    await Promise.all(sending)
  }
}

async function claimNext({ db, worker }: WorkContext): Promise<Claim | null> {
  return Claim.nullable().parse(await callRpc(db, 'claim_delivery', { worker }))
}

/** Never throws: what could not be stored is sent again when its lease runs out. */
async function deliver({ db, settings, sockets }: WorkContext, claim: Claim): Promise<void> {
  const { delivery_id, lease_token, attempt, type } = claim
  const result = await send(claim, {
    sockets,
    timeout_ms: TIMEOUT_MS,
    allow_private: settings.webhooks_allow_private,
  })
  try {
    const stored = await callRpc<{ ok: boolean; result?: string; code?: string }>(db, 'record_delivery', {
      delivery_id,
      lease_token,
      ...result,
    })
    log('info', 'webhook', { delivery_id, type, attempt, ...result, result: stored.result ?? stored.code })
  } catch (error) {
    log('error', 'webhook_not_recorded', { delivery_id, type, attempt, ...errorFields(error) })
  }
}

/** What an attempt came to, in the words of record_delivery. */
interface Result {
  http_status: number | null
  error: string | null
  retry_after_s: number | null
  refused: boolean
}

async function send({ delivery_id, url, body, secrets }: Claim, options: PostOptions): Promise<Result> {
  try {
    const headers = signedHeaders(delivery_id, body, secrets, new Date())
    const answer = await postPinned(url, headers, body, options)
    return { http_status: answer.status, error: null, retry_after_s: answer.retry_after_s, refused: false }
  } catch (error) {
    const known = error instanceof PostError
    if (!known) log('error', 'webhook_broke_off', { delivery_id, ...errorFields(error) })
    return {
      http_status: null,
      error: known ? error.message : 'The webhook could not be sent.',
      retry_after_s: null,
      refused: known && error.refused,
    }
  }
}

/** The headers of Standard Webhooks. While a secret is being rotated both sign, and either one verifies. */
export function signedHeaders(
  id: string,
  body: string,
  secrets: readonly string[],
  at: Date,
): Record<string, string> {
  return {
    'content-type': 'application/json',
    'user-agent': 'rollcall-webhooks/1',
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    'webhook-signature': secrets.map((secret) => new Webhook(secret).sign(id, at, body)).join(' '),
  }
}
