import type { LiveRow } from '../client/live/rows.ts'
import type { LiveConnection } from '../client/live/verdict.ts'
import { plural } from './format.ts'
import { preferences } from './preferences.ts'
import { toneOf } from './vocabulary.ts'

/** What happens by itself is told at most this often (ms). */
const EVERY_MS = 5000

let say: (text: string) => void = () => {}

/** What somebody did, told at once. */
export function announce(text: string): void {
  say(text)
}

/** Tells whoever can not see the page what happens on it: a summary at most every 5 s, never the table itself. */
export class Announcer {
  #known = new Map<string, LiveRow>()
  #rows: readonly LiveRow[] | undefined
  #connection: LiveConnection = 'connecting'
  #failed = 0
  #completed = 0
  #words: string | null = null
  #told_at = Number.NEGATIVE_INFINITY
  #timer: ReturnType<typeof setTimeout> | undefined
  readonly #say: (text: string) => void

  constructor(say_it: (text: string) => void) {
    this.#say = say_it
    say = (text) => {
      this.#told_at = Date.now()
      say_it(text)
    }
  }

  /** `list` changes where other runs are looked at: those that appear with it are no news. */
  observe(rows: readonly LiveRow[], connection: LiveConnection): void {
    if (connection !== this.#connection) {
      const words = connection_words[connection]
      if (words && this.#connection !== 'connecting') this.#words = words
      this.#connection = connection
    }
    if (rows !== this.#rows) {
      const known = new Map<string, LiveRow>()
      for (const row of rows) {
        const before = this.#known.get(row.id)
        known.set(row.id, row)
        if (!before || before === row || before.state === row.state || connection === 'paused') continue
        const tone = toneOf(row, null)
        if (tone === 'bad') this.#failed += 1
        else if (tone === 'ok') this.#completed += 1
      }
      this.#known = known
      this.#rows = rows
    }
    this.#tellSoon()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  #tellSoon(): void {
    if (this.#timer !== undefined || this.#summary() === '') return
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        const text = this.#summary()
        this.#failed = 0
        this.#completed = 0
        this.#words = null
        if (text === '') return
        this.#told_at = Date.now()
        this.#say(text)
      },
      Math.max(0, this.#told_at + EVERY_MS - Date.now()),
    )
  }

  #summary(): string {
    const { announce: wanted } = preferences()
    const runs = [
      this.#failed > 0 && wanted !== 'off' ? `${plural(this.#failed, 'run')} failed` : '',
      this.#completed > 0 && wanted === 'all'
        ? `${this.#failed > 0 ? this.#completed : plural(this.#completed, 'run')} completed`
        : '',
    ].filter((part) => part !== '')
    return [this.#words ?? '', runs.join(', ')].filter((part) => part !== '').join('. ')
  }
}

const connection_words: Partial<Record<LiveConnection, string>> = {
  live: 'Live again',
  polling: 'No live connection, updating every 5 seconds',
  stale: 'The data is old, trying again',
  offline: 'You are offline',
  signed_out: 'Your session has expired',
}
