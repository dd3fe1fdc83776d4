/** Calls back when a page becomes visible or comes online. Returns how to stop; outside of pages nothing happens. */
export function listenToWakeups(wake: () => void): () => void {
  const page = globalThis.document as Document | undefined
  const onVisible = () => {
    if (page?.visibilityState === 'visible') wake()
  }
  const has_events = typeof globalThis.addEventListener === 'function'
  page?.addEventListener('visibilitychange', onVisible)
  if (has_events) {
    globalThis.addEventListener('online', wake)
    globalThis.addEventListener('offline', wake)
  }
  return () => {
    page?.removeEventListener('visibilitychange', onVisible)
    if (has_events) {
      globalThis.removeEventListener('online', wake)
      globalThis.removeEventListener('offline', wake)
    }
  }
}

/** False only where the browser knows that there is no network. */
export function isOnline(): boolean {
  return globalThis.navigator?.onLine !== false
}
