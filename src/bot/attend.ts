import { Callbacks } from './callbacks.ts'
import type { Assignment, CallbackTarget } from './environment.ts'
import { EntryError, enterRoom, type Over, RoomSession } from './room_session.ts'
import { Transcript } from './transcript.ts'

/** How a stay ends, in the words of the callback. */
type Ending =
  | { status: 'completed'; completion_reason: string }
  | { status: 'failed'; error_code: string; error_message: string }
  /** Nobody waits for this bot any more: it goes without a word. */
  | { status: 'unwanted' }

const HEARTBEAT_EVERY_MS = 15_000

/** What the end of a stay is called in a report. */
const REASONS: Record<Over, string> = {
  rejected: 'awaiting_admission_rejected',
  evicted: 'evicted',
  ended: 'meeting_ended',
  // The room thought that the bot was gone, for want of a sign of life.
  left: 'other',
}

/**
 * Attends one meeting from joining to the last report.
 * @param readAssignment throws when the assignment makes no sense, which is reported like any other failure.
 * @param stop aborts to make the bot leave; with an Error as its reason, because of that failure.
 * @returns the exit code: 0 when the bot did its work, 1 when something failed.
 */
export async function attend(
  target: CallbackTarget,
  readAssignment: () => Assignment,
  stop: AbortSignal,
  print: (line: string) => void,
): Promise<number> {
  const lines: string[] = []
  const log = (line: string) => {
    lines.push(`${new Date().toISOString()} ${line}`)
    print(line)
  }

  const ending = Promise.withResolvers<Ending>()
  const leaving = new AbortController()
  const end = (how: Ending) => {
    if (!leaving.signal.aborted) log(`leaving: ${JSON.stringify(how)}`)
    ending.resolve(how)
    leaving.abort()
  }
  const leave = () => end({ status: 'completed', completion_reason: 'stopped' })
  const onStop = () => (stop.reason instanceof Error ? end(endingOf(stop.reason)) : leave())
  stop.addEventListener('abort', onStop, { once: true })
  if (stop.aborted) onStop()

  const callbacks = new Callbacks(target, {
    onLeave: leave,
    onUnwanted: () => end({ status: 'unwanted' }),
    log,
  })
  const transcript = new Transcript(callbacks)
  let participant_count = 0
  let alone: NodeJS.Timeout | undefined
  const heartbeat = setInterval(() => callbacks.heartbeat(participant_count), HEARTBEAT_EVERY_MS)

  const assigned = () => {
    try {
      return readAssignment()
    } catch (error) {
      throw new Failure('VALIDATION_ERROR', (error as Error).message)
    }
  }
  const arrive = async (): Promise<RoomSession | null> => {
    const { platform, meeting_url, passcode, bot_name, alone_after_s } = assigned()
    if (platform !== 'room') {
      throw new Failure('UNSUPPORTED_PLATFORM', `This bot attends rooms, not ${platform} meetings.`)
    }
    await callbacks.report('joining')
    if (leaving.signal.aborted) return null
    const entry = await enterRoom(meeting_url, { name: bot_name, passcode }, leaving.signal)
    return new RoomSession(entry, bot_name, {
      onWaiting() {
        log('room: waiting in the lobby')
        void callbacks.report('awaiting_admission')
      },
      onAdmitted() {
        // Once it is leaving, an admission says nothing that matters.
        if (leaving.signal.aborted) return
        log('room: admitted')
        void callbacks.report('started')
      },
      onOver(how) {
        log(`room: ${how}`)
        end({ status: 'completed', completion_reason: REASONS[how] })
      },
      onMessage({ name, text, at }) {
        transcript.add({ speaker: name, text, started_at: at, ended_at: at })
      },
      onPeople(count, people) {
        participant_count = count
        if (people > 0) {
          clearTimeout(alone)
          alone = undefined
        } else if (alone === undefined && !leaving.signal.aborted) {
          log(`room: alone, leaving in ${alone_after_s} s`)
          const left_alone = () => end({ status: 'completed', completion_reason: 'left_alone' })
          alone = setTimeout(left_alone, alone_after_s * 1000)
        }
      },
      onLost() {
        end(endingOf(new Failure('CONNECTION_LOST', 'The room has not answered for two minutes.')))
      },
    })
  }
  const arrival = arrive().catch((error) => {
    end(endingOf(error))
    return null
  })

  const how = await ending.promise
  const session = await arrival
  await session?.close()
  clearTimeout(alone)
  clearInterval(heartbeat)
  if (how.status === 'unwanted') return 1
  await transcript.close()
  const exit_code = how.status === 'completed' ? 0 : 1
  await callbacks.report('exited', { ...how, exit_code, bot_logs: lines.join('\n') })
  return exit_code
}

/** Something that went wrong, with the code to report. */
export class Failure extends Error {
  readonly code: string
  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

function endingOf(error: unknown): Ending {
  const error_message = error instanceof Error ? error.message : String(error)
  if (error instanceof EntryError) {
    const { status } = error
    if (status === 410) return { status: 'completed', completion_reason: 'meeting_ended' }
    if (status === null || status >= 500)
      return { status: 'failed', error_code: 'JOIN_ROOM_TIMEOUT', error_message }
    if (status === 401 || status === 403) {
      return { status: 'failed', error_code: 'JOIN_ROOM_AUTH_FAILED', error_message }
    }
    return { status: 'failed', error_code: 'VALIDATION_ERROR', error_message }
  }
  const error_code = error instanceof Failure ? error.code : 'BOT_CRASHED'
  return { status: 'failed', error_code, error_message }
}
