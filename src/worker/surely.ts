import { pause } from './pause.ts'
import { RpcError } from './rpc.ts'

/** For how long an answer is held while the database is away, in ms: most leases are over then. */
const HOLD_MS = 45_000

/**
 * Calls again while the database is away: storing the same twice changes nothing, and what is to be stored has cost
 * more than a wait. `go_on` is asked before each further call, by default for 45 s. Throws what the last call threw.
 */
export async function surely<T>(call: () => Promise<T>, go_on = within(HOLD_MS)): Promise<T> {
  for (let wait_ms = 250; ; wait_ms = Math.min(wait_ms * 2, 5_000)) {
    try {
      return await call()
    } catch (error) {
      const away = error instanceof RpcError && error.failure === 'unavailable'
      if (!away || !go_on(wait_ms)) throw error
      await pause(wait_ms)
    }
  }
}

function within(ms: number): (wait_ms: number) => boolean {
  const give_up_at = Date.now() + ms
  return (wait_ms) => Date.now() + wait_ms <= give_up_at
}
