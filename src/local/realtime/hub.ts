import type { Broadcast } from './broadcast.ts'
import { encodeBroadcast, type Frame, type Vsn } from './frames.ts'
import { PresenceBook, type PresenceDiff, type Presences } from './presence.ts'

/** A joined channel, as the hub sees it. */
export type Listener = {
  readonly vsn: Vsn
  /** The topic as the client joined it, with its prefix. */
  readonly topic: string
  readonly hears_broadcasts: boolean
  /** Has this message been replayed to it already? */
  already_has(id: string): boolean
  deliverBroadcast(frame: Frame): void
  deliverPresence(diff: PresenceDiff): void
}

/** Passes messages between the channels of a space. */
export class Hub {
  readonly #spaces = new Map<string, Set<Listener>>()
  readonly #presence = new PresenceBook<Listener>()

  join(space: string, listener: Listener): void {
    const listeners = this.#spaces.get(space)
    if (listeners) listeners.add(listener)
    else this.#spaces.set(space, new Set([listener]))
  }

  leave(space: string, listener: Listener): void {
    const listeners = this.#spaces.get(space)
    listeners?.delete(listener)
    if (listeners?.size === 0) this.#spaces.delete(space)
    this.untrack(space, listener)
  }

  /** Delivers to everyone in the space but the sender. */
  broadcast(space: string, broadcast: Broadcast, sender?: Listener): void {
    const listeners = this.#spaces.get(space)
    if (!listeners) return
    const id = 'meta' in broadcast ? broadcast.meta?.id : undefined
    // Everyone on one protocol version gets the same bytes.
    const frames = new Map<Vsn, Frame | undefined>()
    for (const listener of listeners) {
      if (listener === sender || !listener.hears_broadcasts || (id !== undefined && listener.already_has(id)))
        continue
      const { vsn, topic } = listener
      if (!frames.has(vsn)) frames.set(vsn, encodeBroadcast(vsn, topic, broadcast))
      const frame = frames.get(vsn)
      if (frame !== undefined) listener.deliverBroadcast(frame)
    }
  }

  presences(space: string): Presences {
    return this.#presence.state(space)
  }

  track(space: string, listener: Listener, key: string, payload: Record<string, unknown>): void {
    this.#announce(space, this.#presence.track(space, listener, key, payload))
  }

  untrack(space: string, listener: Listener): void {
    const diff = this.#presence.untrack(space, listener)
    if (diff) this.#announce(space, diff)
  }

  #announce(space: string, diff: PresenceDiff): void {
    for (const listener of this.#spaces.get(space) ?? []) listener.deliverPresence(diff)
  }
}
