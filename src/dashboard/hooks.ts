import { useEffect, useState } from 'preact/hooks'
import type { Live, LiveSnapshot } from '../client/live/live.ts'
import { onPreferences, type Preferences, preferences } from './preferences.ts'
import { type Route, readRoute } from './route.ts'
import { onTick } from './ticker.ts'

/** Draws once a frame at most, whatever arrives. */
export function useSnapshot(live: Live): LiveSnapshot {
  const [, draw] = useState(0)
  useEffect(() => {
    let frame = 0
    const stop = live.subscribe(() => {
      frame ||= requestAnimationFrame(() => {
        frame = 0
        draw((n) => n + 1)
      })
    })
    return () => {
      stop()
      cancelAnimationFrame(frame)
    }
  }, [live])
  return live.snapshot()
}

export function useRoute(): Route {
  const [route, set] = useState(() => readRoute(location.hash))
  useEffect(() => {
    const follow = () => set(readRoute(location.hash))
    addEventListener('hashchange', follow)
    return () => removeEventListener('hashchange', follow)
  }, [])
  return route
}

export function usePreferences(): Preferences {
  const [, draw] = useState(0)
  useEffect(() => onPreferences(() => draw((n) => n + 1)), [])
  return preferences()
}

/** Draws once a second. For the few parts whose words change, not for rows. */
export function useTick(): void {
  const [, draw] = useState(0)
  useEffect(() => onTick(() => draw((n) => n + 1)), [])
}

export interface Loaded<T> {
  data: T | null
  error: Error | null
  is_loading: boolean
  again(): void
}

/** Reads something for a part of a screen, anew when `key` changes or again() is called. Data that was read stays. */
export function useLoaded<T>(key: string, read: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [round, next] = useState(0)
  const [state, set] = useState<{ key: string; data: T | null; error: Error | null; is_loading: boolean }>({
    key,
    data: null,
    error: null,
    is_loading: true,
  })
  useEffect(() => {
    const over = new AbortController()
    set((held) => ({ ...held, key, data: held.key === key ? held.data : null, is_loading: true }))
    read(over.signal).then(
      (data) => !over.signal.aborted && set({ key, data, error: null, is_loading: false }),
      (error: Error) => !over.signal.aborted && set((held) => ({ ...held, error, is_loading: false })),
    )
    return () => over.abort()
  }, [key, round])
  return { ...state, again: () => next((n) => n + 1) }
}
