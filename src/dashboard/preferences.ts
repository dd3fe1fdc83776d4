import { for_browser } from './storage.ts'

export interface Preferences {
  theme: 'system' | 'light' | 'dark'
  /** What the live region says. */
  announce: 'off' | 'failures' | 'all'
  /** Shortcuts of a single key. */
  shortcuts: boolean
  /** Rows of 32 px. */
  compact: boolean
  /** Times of day instead of "3 minutes ago". */
  absolute_times: boolean
}

const at_first: Preferences = {
  theme: 'system',
  announce: 'all',
  shortcuts: true,
  compact: false,
  absolute_times: false,
}

const NAME = 'preferences'

let present: Preferences = { ...at_first, ...read() }
const listeners = new Set<() => void>()

export function preferences(): Preferences {
  return present
}

export function setPreferences(change: Partial<Preferences>): void {
  present = { ...present, ...change }
  for_browser.set(NAME, JSON.stringify(present))
  applyTheme()
  for (const listener of listeners) listener()
}

export function onPreferences(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** Before the first paint, and after each change. */
export function applyTheme(): void {
  const root = document.documentElement
  root.style.colorScheme = present.theme === 'system' ? 'light dark' : present.theme
  root.dataset.theme = present.theme
}

function read(): Partial<Preferences> {
  try {
    return JSON.parse(for_browser.get(NAME) ?? '{}') as Partial<Preferences>
  } catch {
    return {}
  }
}
