import type { LiveSnapshot } from '../../client/live/live.ts'

const names: Record<LiveSnapshot['connection'], string> = {
  connecting: 'Connecting',
  live: 'Live',
  polling: 'Polling',
  stale: 'Stale',
  offline: 'Offline',
  signed_out: 'Signed out',
  paused: 'Paused',
}

/** How fresh what is shown is, in a word. The banner says more where it is not live. */
export function ConnectionChip({ connection }: { connection: LiveSnapshot['connection'] }) {
  return (
    <span class={`chip ${connection}`}>
      <span class="dot" aria-hidden="true" />
      <span class="unseen">Connection: </span>
      {names[connection]}
    </span>
  )
}
