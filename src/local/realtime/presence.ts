import { randomBytes } from 'node:crypto'

export type Meta = Record<string, unknown> & { phx_ref: string }

/** Presences by key, as clients get them. */
export type Presences = Record<string, { metas: Meta[] }>

export type PresenceDiff = { joins: Presences; leaves: Presences }

type Entry = { key: string; meta: Meta }

/** Who is present in each space. One member has at most one presence in a space; several may share a key. */
export class PresenceBook<Member> {
  readonly #spaces = new Map<string, Map<Member, Entry>>()

  state(space: string): Presences {
    return group([...(this.#spaces.get(space)?.values() ?? [])])
  }

  /** Enters a member or replaces what it said before. */
  track(space: string, member: Member, key: string, payload: Record<string, unknown>): PresenceDiff {
    const entries = this.#spaces.get(space) ?? new Map<Member, Entry>()
    this.#spaces.set(space, entries)
    const before = entries.get(member)
    const phx_ref = randomBytes(9).toString('base64url')
    const meta = { ...payload, phx_ref, ...(before && { phx_ref_prev: before.meta.phx_ref }) }
    entries.set(member, { key, meta })
    return { joins: group([{ key, meta }]), leaves: group(before ? [before] : []) }
  }

  /** Takes a member out; undefined when it was not present. */
  untrack(space: string, member: Member): PresenceDiff | undefined {
    const entries = this.#spaces.get(space)
    const entry = entries?.get(member)
    if (!entries || !entry) return undefined
    entries.delete(member)
    if (entries.size === 0) this.#spaces.delete(space)
    return { joins: {}, leaves: group([entry]) }
  }
}

function group(entries: Entry[]): Presences {
  const presences = new Map<string, { metas: Meta[] }>()
  for (const { key, meta } of entries) {
    const present = presences.get(key)
    if (present) present.metas.push(meta)
    else presences.set(key, { metas: [meta] })
  }
  // Keys are the clients' own: fromEntries defines them, so `__proto__` is a key like any other.
  return Object.fromEntries(presences)
}
