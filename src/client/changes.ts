import type { SupabaseClient } from '@supabase/supabase-js'
import { type Change, toChange } from './change.ts'
import { RollcallError } from './errors.ts'
import { type ChangesPage, readChanges } from './history.ts'
import { hubOf } from './hub.ts'
import { Stream } from './stream.ts'

const PAGE = 500

/** A transition, and the cursor that reads on behind it. */
export type ChangeWithCursor = Change & { cursor: string }

export interface ChangesOptions {
  /** The cursor of the last change that was handled; absent: from the beginning, `now`: what comes from now on. */
  after?: string | undefined
  signal?: AbortSignal | undefined
}

/**
 * Every transition of the caller's runs behind a cursor, exactly once, and then the new ones as they come. A run's own
 * order is kept. It ends only by leaving the loop or by the signal.
 */
export function changes(
  supabase: SupabaseClient,
  owner_id: string | undefined,
  { after, signal }: ChangesOptions,
): AsyncIterableIterator<ChangeWithCursor> {
  return new Stream<ChangeWithCursor>((stream) => {
    let cursor: string | null = after ?? null
    let is_open = true
    const readOn = async (read_signal: AbortSignal, count: () => void): Promise<boolean> => {
      let found = false
      for (;;) {
        count()
        const page: ChangesPage = await readChanges(
          supabase,
          cursor === 'now' ? null : cursor,
          cursor === 'now' ? 0 : PAGE,
          owner_id,
          read_signal,
        )
        if (!is_open) return found
        if (page.reset) {
          stream.fail(outdated(page.next))
          return found
        }
        for (const { cursor: behind, ...row } of page.events)
          stream.push({ ...toChange(row), cursor: behind })
        found ||= page.events.length > 0
        cursor = page.next
        if (!page.has_more) return found
      }
    }
    const leave = hubOf(supabase, owner_id).add({
      topic: undefined,
      async read(read_signal, count) {
        try {
          return await readOn(read_signal, count)
        } catch (error) {
          // A cursor that is none is this reader's own mistake.
          if (!(error instanceof RollcallError && error.status === 422)) throw error
          stream.fail(error)
          return false
        }
      },
      isBehind: () => true,
      fail: (error) => stream.fail(error),
    })
    return () => {
      is_open = false
      leave()
    }
  }, signal)
}

/** Why a cursor can not be read on from; details.next is where everything of now ends. */
export function outdated(next: string): RollcallError {
  return new RollcallError({
    status: 410,
    code: 'cursor_outdated',
    message: 'The cursor is older than the history that is kept, or from another database.',
    hint: 'Read everything anew, then go on from details.next.',
    details: { next },
  })
}
