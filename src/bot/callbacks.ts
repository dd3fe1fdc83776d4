import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import type { CallbackTarget } from './environment.ts'

/** What Rollcall made of a report: taken, refused (a 4xx), or never heard. */
export type Answer =
  | { outcome: 'taken'; result: string }
  | { outcome: 'refused'; status: number; code: string }
  | { outcome: 'unanswered' }

/** What a bot has to know from the answers to its reports. */
export type CallbackListener = {
  /** `command: "leave"` came with an answer. */
  onLeave(): void
  /** The bot is not known, or its run has ended: nobody waits for it any more. */
  onUnwanted(status: number, code: string): void
  log(line: string): void
}

const REQUEST_TIMEOUT_MS = 10_000
const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 30_000
/** Long before this every deadline of the run has passed, so nobody waits for the report. */
const GIVE_UP_AFTER_MS = 3_600_000

/** Sends a bot's reports one after the other, each until it is answered. */
export class Callbacks {
  readonly #target: CallbackTarget
  readonly #listener: CallbackListener
  #last: Promise<unknown> = Promise.resolve()
  #waiting = 0

  constructor(target: CallbackTarget, listener: CallbackListener) {
    this.#target = target
    this.#listener = listener
  }

  /** Reports in the order of the calls; `path` is a sub-path of the callback URL, such as `joining`. */
  report(path: string, fields: Record<string, unknown> = {}): Promise<Answer> {
    const { bot_id, container_id } = this.#target
    const body = JSON.stringify({
      bot_id,
      // The same in every repetition, so that Rollcall counts the report once.
      event_id: randomUUID(),
      timestamp: new Date().toISOString(),
      ...(container_id === null ? {} : { container_id }),
      ...fields,
    })
    this.#waiting += 1
    const answer = this.#last
      .then(() => this.#deliver(path, body))
      .finally(() => {
        this.#waiting -= 1
      })
    this.#last = answer
    return answer
  }

  /** A sign of life, left out while another report is under way: that one is a sign of life too. */
  heartbeat(participant_count: number): void {
    if (this.#waiting === 0) void this.report('heartbeat', { participant_count })
  }

  async #deliver(path: string, body: string): Promise<Answer> {
    const started_at = Date.now()
    for (let attempt = 0; ; attempt++) {
      const response = await this.#post(path, body)
      if (response && response.status < 500 && response.status !== 429) return this.#read(path, response)
      if (Date.now() - started_at > GIVE_UP_AFTER_MS) return { outcome: 'unanswered' }
      const wait_ms = retryAfterMs(response) ?? backoffMs(attempt)
      this.#listener.log(`${path}: ${response?.status ?? 'no answer'}, again in ${Math.round(wait_ms)} ms`)
      await response?.body?.cancel()
      await pause(wait_ms)
    }
  }

  async #post(path: string, body: string): Promise<Response | null> {
    try {
      return await fetch(`${this.#target.callback_url}/${path}`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${this.#target.callback_token}`,
          'content-type': 'application/json',
        },
        body,
        redirect: 'manual',
        signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      })
    } catch {
      return null
    }
  }

  async #read(path: string, response: Response): Promise<Answer> {
    const answer = (await response.json().catch(() => ({}))) as Record<string, unknown>
    if (response.ok) {
      this.#listener.log(`${path}: ${answer.result}`)
      if (answer.command === 'leave') this.#listener.onLeave()
      return { outcome: 'taken', result: String(answer.result) }
    }
    const { status } = response
    const code = String(answer.code ?? '')
    this.#listener.log(`${path}: refused, ${status} ${code}`)
    if ([401, 403, 404, 409].includes(status)) this.#listener.onUnwanted(status, code)
    return { outcome: 'refused', status, code }
  }
}

/** Doubles from half a second to half a minute, with 20 % jitter so that bots do not come back all at once. */
function backoffMs(attempt: number): number {
  return Math.min(FIRST_PAUSE_MS * 2 ** attempt, LONGEST_PAUSE_MS) * (0.8 + Math.random() * 0.4)
}

function retryAfterMs(response: Response | null): number | null {
  const header = response?.headers.get('retry-after')
  if (!header) return null
  const wait_ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Number.isFinite(wait_ms) ? Math.min(Math.max(wait_ms, 0), 5 * 60_000) : null
}
