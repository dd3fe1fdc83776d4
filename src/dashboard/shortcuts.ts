import { useEffect, useRef } from 'preact/hooks'
import { preferences } from './preferences.ts'

/** Keys and what they do; `g r` is pressed one after the other. */
export type Shortcuts = Record<string, (() => void) | undefined>

/** The keys as the help has them. */
export const shortcut_help: [keys: string, what: string][] = [
  ['/', 'Search'],
  ['j k', 'Next, previous run'],
  ['Enter', 'Open the run'],
  ['x', 'Show its error'],
  ['u Esc', 'Back to the list'],
  ['n', 'Show new runs'],
  ['p', 'Pause, resume'],
  ['f', 'Follow new runs'],
  ['c', 'Copy the id'],
  ['s', 'Stop the run'],
  ['r', 'Retry the run'],
  ['1 – 6', 'Filter by state'],
  ['g r', 'Runs'],
  ['g t', 'Timing'],
  ['g w', 'Webhooks'],
  ['t', 'Theme'],
  ['?', 'This help'],
]

const active: Shortcuts[] = []
/** A first key waits this long for its second (ms). */
const SECOND_KEY_MS = 1500
let first = ''
let first_at = 0

function onKey(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return
  const target = event.target instanceof HTMLElement ? event.target : null
  if (target?.closest('input, textarea, select, [contenteditable]')) return
  if (document.querySelector('dialog[open]')) return
  // A button that has the focus is pressed with Enter and blank; they are nobody's shortcut.
  if (event.key === 'Enter' || event.key === ' ') return
  if (!preferences().shortcuts && event.key !== 'Escape') return
  const is_second = first !== '' && Date.now() - first_at < SECOND_KEY_MS
  const keys = is_second ? `${first} ${event.key}` : event.key
  first = ''
  for (const shortcuts of active.toReversed()) {
    const act = shortcuts[keys]
    if (!act) continue
    event.preventDefault()
    act()
    return
  }
  if (!is_second && event.key === 'g') {
    first = 'g'
    first_at = Date.now()
  }
}

/** The keys of a part of the page, as long as it is there; a later part goes before an earlier one. */
export function useShortcuts(shortcuts: Shortcuts): void {
  const held = useRef<Shortcuts>({})
  for (const key of Object.keys(held.current)) delete held.current[key]
  Object.assign(held.current, shortcuts)
  useEffect(() => {
    const own = held.current
    active.push(own)
    if (active.length === 1) addEventListener('keydown', onKey)
    return () => {
      active.splice(active.indexOf(own), 1)
      if (active.length === 0) removeEventListener('keydown', onKey)
    }
  }, [])
}
