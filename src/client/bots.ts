import type { SupabaseClient } from '@supabase/supabase-js'
import type { Bot, BotStatus, MeetingStatus } from '../contract/bots.ts'
import type { JoinInput, JoinResponse } from '../contract/join.ts'
import type { BotList, Include } from '../contract/status.ts'
import type { StopResponse } from '../contract/stop.ts'
import type { BotChange } from './change.ts'
import { RollcallError } from './errors.ts'
import { callFunction } from './http.ts'
import { Follower, runsOf } from './runs.ts'
import { Stream } from './stream.ts'

export interface CallOptions {
  signal?: AbortSignal | undefined
}

export interface JoinOptions extends CallOptions {
  /** The same key and the same request: the same answer, and no second bot. */
  idempotency_key?: string
}

export interface GetOptions extends CallOptions {
  include?: readonly Include[]
}

export interface ListOptions extends CallOptions {
  status?: BotStatus
  meeting_status?: MeetingStatus
  /** Only bots that have not ended. */
  active?: boolean
  /** 1 to 200; 50 if absent. */
  limit?: number
  /** `next_cursor` of the page before. */
  cursor?: string
}

export interface WatchOptions extends CallOptions {
  /** The id of the last change that was handled; absent: from the first. */
  after?: number
}

export interface WaitOptions extends CallOptions {
  /** Whose status is meant; the bot's if absent. */
  machine?: 'bot' | 'meeting'
  /** Absent: as long as it takes, which the deadlines of every status bound. */
  timeout_ms?: number
}

/** Bots in meetings. Every call throws RollcallError, or the reason of its signal. */
export interface Bots {
  /** Asks for a bot in a meeting. */
  join(input: JoinInput, options?: JoinOptions): Promise<JoinResponse>
  get(bot_id: string, options?: GetOptions): Promise<Bot>
  /** Newest first. */
  list(options?: ListOptions): Promise<BotList>
  /**
   * Asks the bot to leave; its end is a change like any other. `reason`: what its history says of why, at most 500
   * characters.
   */
  stop(bot_id: string, options?: CallOptions & { reason?: string }): Promise<StopResponse>
  /**
   * Every transition of the bot and of its meeting exactly once and in order, from the first one on; it ends after
   * the one that ends the bot.
   */
  watch(bot_id: string, options?: WatchOptions): AsyncIterableIterator<BotChange>
  /**
   * Resolves once the bot has reached a status, also if it is past it by now: with the bot as it is then.
   * @throws RollcallError 409 `state_not_reached` when the bot ends without it, 408 `timeout`.
   */
  wait(bot_id: string, state: BotStatus, options?: WaitOptions & { machine?: 'bot' }): Promise<Bot>
  wait(bot_id: string, state: MeetingStatus, options: WaitOptions & { machine: 'meeting' }): Promise<Bot>
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** The part of the client that is about bots. */
export function createBots(supabase: SupabaseClient, owner_id: string | undefined): Bots {
  const owner = owner_id === undefined ? {} : { owner_id }

  function get(bot_id: string, { include = [], signal }: GetOptions = {}): Promise<Bot> {
    const included = include.length === 0 ? undefined : include.join(',')
    const query = { bot_id, include: included, ...owner }
    return callFunction<Bot>(supabase, 'status', { method: 'GET', query, signal })
  }

  function watch(bot_id: string, { after = 0, signal }: WatchOptions = {}): AsyncIterableIterator<BotChange> {
    const subject_id = bot_id.toLowerCase()
    return new Stream<BotChange>((stream) => {
      if (!UUID.test(subject_id)) {
        stream.fail(noBotId(bot_id))
        return () => {}
      }
      const over = new AbortController()
      const follower = new Follower(subject_id, after, {
        push(change) {
          stream.push(change as BotChange)
          if (change.machine === 'bot' && isTerminal(change.to)) stream.end()
        },
        fail: (error) => stream.fail(error),
        empty() {
          // No such bot, somebody else's, or one whose history was pruned.
          get(bot_id, { signal: over.signal }).then(
            ({ bot_status }) => {
              if (isTerminal(bot_status)) stream.end()
            },
            (error) => {
              if (error instanceof RollcallError && error.status === 404) stream.fail(error)
            },
          )
        },
      })
      const remove = runsOf(supabase, owner_id).add(follower)
      return () => {
        remove()
        over.abort()
      }
    }, signal)
  }

  async function wait(
    bot_id: string,
    state: BotStatus | MeetingStatus,
    { machine = 'bot', timeout_ms, signal }: WaitOptions = {},
  ): Promise<Bot> {
    const over = new AbortController()
    const abort = () => over.abort(signal?.reason)
    if (signal?.aborted) abort()
    signal?.addEventListener('abort', abort)
    const timer =
      timeout_ms === undefined
        ? undefined
        : setTimeout(() => over.abort(timedOut(state, timeout_ms)), timeout_ms)
    try {
      for await (const change of watch(bot_id, { signal: over.signal })) {
        if (change.machine === machine && change.to === state)
          return await get(bot_id, { signal: over.signal })
      }
      const bot = await get(bot_id, { signal: over.signal })
      // Its history may have been pruned.
      if ((machine === 'bot' ? bot.bot_status : bot.meeting_status) === state) return bot
      throw notReached(bot, state)
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
    }
  }

  return {
    join: (input, { idempotency_key, signal } = {}) =>
      callFunction<JoinResponse>(supabase, 'join', {
        body: { ...owner, ...input },
        ...(idempotency_key !== undefined && { headers: { 'idempotency-key': idempotency_key } }),
        signal,
      }),
    get,
    list: ({ signal, ...filters } = {}) =>
      callFunction<BotList>(supabase, 'status', { method: 'GET', query: { ...filters, ...owner }, signal }),
    stop: (bot_id, { reason, signal } = {}) =>
      callFunction<StopResponse>(supabase, 'stop', { body: { bot_id, reason, ...owner }, signal }),
    watch,
    wait,
  }
}

/** A status that this version does not know is no end: the history says what follows. */
function isTerminal(bot_status: string): boolean {
  return bot_status === 'completed' || bot_status === 'failed'
}

function noBotId(bot_id: string): RollcallError {
  return new RollcallError({
    status: 422,
    code: 'invalid_request',
    message: `"${bot_id}" is no bot_id.`,
    hint: 'Pass the bot_id that bots.join() answered: a UUID.',
    details: { issues: [{ path: 'bot_id', message: 'is no UUID' }] },
  })
}

function timedOut(state: string, timeout_ms: number): RollcallError {
  return new RollcallError({
    status: 408,
    code: 'timeout',
    message: `The bot was not ${state} within ${timeout_ms} ms.`,
    hint: 'It goes on: wait again, or stop it with bots.stop().',
    details: { state, timeout_ms },
  })
}

function notReached({ bot_status, meeting_status, error }: Bot, state: string): RollcallError {
  return new RollcallError({
    status: 409,
    code: 'state_not_reached',
    message: `The bot ended ${bot_status} and was never ${state}${error ? `: ${error.message}` : '.'}`,
    hint: error?.next_step ?? undefined,
    details: { state, bot_status, meeting_status, error },
  })
}
