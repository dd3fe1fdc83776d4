/**
 * The realism mode: what happens to messages and channels on a bad day of the hosted service. Probabilities are
 * from 0 to 1; durations are in milliseconds.
 */
export type ChaosSettings = {
  seed: number
  /** Per delivered broadcast. */
  drop: number
  duplicate: number
  /** It changes places with the next one. */
  reorder: number
  /** It and what follows wait, up to delay_ms. */
  delay: number
  delay_ms: number
  /** Per delivered broadcast: the socket is cut. */
  close: number
  /** Per delivered broadcast: the channel is closed with a system message. */
  close_channel: number
  /** Per delivered broadcast: the channel crashes (phx_error). */
  crash: number
  /** Per join: refused after join_error_ms, in which the whole socket is silent. Real refusals take as long. */
  join_error: number
  join_error_ms: number
  /** Per join: deaf for deaf_ms, and its replication_ready comes only after that. */
  deaf: number
  deaf_ms: number
  /** Per second: today's partition of realtime.messages is gone for partition_ms. */
  lose_partition: number
  partition_ms: number
}

export type Fate = {
  drop: boolean
  duplicate: boolean
  reorder: boolean
  delay_ms: number
  end: 'socket' | 'channel' | 'crash' | undefined
}

const defaults: ChaosSettings = {
  seed: 1,
  drop: 0,
  duplicate: 0,
  reorder: 0,
  delay: 0,
  delay_ms: 250,
  close: 0,
  close_channel: 0,
  crash: 0,
  join_error: 0,
  join_error_ms: 5000,
  deaf: 0,
  deaf_ms: 1000,
  lose_partition: 0,
  partition_ms: 3000,
}

/**
 * Reads `seed=42,drop=0.3,duplicate=0.1` (ROLLCALL_REALTIME_CHAOS); undefined when nothing is set.
 * @throws on a name or number that it does not know.
 */
export function parseChaos(text: string | undefined): ChaosSettings | undefined {
  if (!text?.trim()) return undefined
  const settings = { ...defaults }
  for (const part of text.split(',')) {
    const [name = '', value = ''] = part.split('=').map((piece) => piece.trim())
    const number = Number(value)
    const is_probability = name !== 'seed' && !name.endsWith('_ms')
    if (!Object.hasOwn(defaults, name) || value === '' || !(number >= 0) || (is_probability && number > 1)) {
      const names = Object.keys(defaults).join(', ')
      throw new Error(
        `ROLLCALL_REALTIME_CHAOS: "${part.trim()}" is not name=number. Probabilities are 0 to 1; names: ${names}.`,
      )
    }
    settings[name as keyof ChaosSettings] = number
  }
  return settings
}

/**
 * Decides by the seed. Each topic has streams of its own, one a join, so that the n-th message after the k-th
 * join of a topic meets the same fate in every run, whatever else goes on.
 */
export class Chaos {
  readonly settings: ChaosSettings
  readonly #joins = new Map<string, number>()
  readonly #refusals = new Map<string, Random>()
  readonly #partition: Random

  constructor(settings: ChaosSettings) {
    this.settings = settings
    this.#partition = random(`${settings.seed} partition`)
  }

  /** Is this join of the topic refused? */
  refusesJoin(topic: string): boolean {
    const refusals = this.#refusals.get(topic) ?? random(`${this.settings.seed} refusals ${topic}`)
    this.#refusals.set(topic, refusals)
    return refusals() < this.settings.join_error
  }

  /** Asked once a second. */
  losesPartition(): boolean {
    return this.#partition() < this.settings.lose_partition
  }

  /** The fates of the messages of one more join of this topic. */
  joined(topic: string): { is_deaf: boolean; next(): Fate } {
    const count = (this.#joins.get(topic) ?? 0) + 1
    this.#joins.set(topic, count)
    const roll = random(`${this.settings.seed} join ${count} ${topic}`)
    const is_deaf = roll() < this.settings.deaf
    return { is_deaf, next: () => this.#fate(roll) }
  }

  #fate(roll: Random): Fate {
    const { drop, duplicate, reorder, delay, delay_ms, close, close_channel, crash } = this.settings
    // Always the same number of rolls: one probability more must not change what the others decide.
    const [for_drop, for_duplicate, for_reorder, for_delay, length, for_end] = [
      roll(),
      roll(),
      roll(),
      roll(),
      roll(),
      roll(),
    ]
    let end: Fate['end']
    if (for_end < close) end = 'socket'
    else if (for_end < close + close_channel) end = 'channel'
    else if (for_end < close + close_channel + crash) end = 'crash'
    return {
      drop: for_drop < drop,
      duplicate: for_duplicate < duplicate,
      reorder: for_reorder < reorder,
      delay_ms: for_delay < delay ? length * delay_ms : 0,
      end,
    }
  }
}

type Random = () => number

/** Mulberry32 over an FNV-1a hash of the name: small, and good enough for dice. */
function random(name: string): Random {
  let state = 0x811c9dc5
  for (const byte of Buffer.from(name)) state = Math.imul(state ^ byte, 0x01000193)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
