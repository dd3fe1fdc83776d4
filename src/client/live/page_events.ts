import { isOnline, listenToWakeups } from '../wakeups.ts'
import type { Live } from './live.ts'

/** Tells a list whether its page is visible and online, until the returned function is called. */
export function followPage(live: Live): () => void {
  const tell = () => {
    live.setOnline(isOnline())
    live.setHidden(globalThis.document?.visibilityState === 'hidden')
  }
  const page = globalThis.document as Document | undefined
  page?.addEventListener('visibilitychange', tell)
  const stop = listenToWakeups(tell)
  tell()
  return () => {
    page?.removeEventListener('visibilitychange', tell)
    stop()
  }
}
