import type { LiveSnapshot } from '../../client/live/live.ts'
import { useDesk } from '../desk.ts'
import { age, count, time } from '../format.ts'
import { useTick } from '../hooks.ts'

/** What is to be known about the data where it is not live: how old it is, why, and what can be done. */
export function Banner({ seen }: { seen: LiveSnapshot }) {
  const { live } = useDesk()
  useTick()
  const now = live.now()
  const { connection, data_at } = seen
  const data_age = data_at === null ? null : age(now - data_at)
  const again = (
    <button type="button" onClick={() => live.refresh()}>
      Retry now
    </button>
  )
  if (connection === 'polling') return <div class="banner wait">Updating every 5 s (no live connection).</div>
  if (connection === 'offline') {
    return (
      <div class="banner bad">
        <span>
          You are offline, or the project does not answer.
          {data_at !== null && ` Data from ${time(data_at, now)}.`}
        </span>
        {again}
      </div>
    )
  }
  if (connection === 'stale') {
    const wait = seen.retry_at === null ? null : age(seen.retry_at - now)
    return (
      <div class="banner bad">
        <span>
          {data_age === null ? 'No data yet' : `Showing data from ${data_age} ago`}
          {wait === null ? '.' : ` – retrying in ${wait}.`}
        </span>
        {again}
      </div>
    )
  }
  if (connection === 'signed_out') {
    return (
      <div class="banner bad">
        <span>Session expired.{data_age === null ? '' : ` What you see is ${data_age} old.`}</span>
        <a class="button" href="#/connect">
          Sign in
        </a>
      </div>
    )
  }
  if (connection === 'paused' && seen.paused_at !== null) {
    return (
      <div class="banner wait">
        <span>
          Paused at {time(seen.paused_at, now)} – {count(seen.waiting)}{' '}
          {seen.waiting === 1 ? 'change' : 'changes'} waiting.
        </span>
        <button type="button" onClick={() => live.resume()}>
          Resume
        </button>
      </div>
    )
  }
  return null
}
