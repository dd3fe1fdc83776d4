/** Something that the page tells: shown as a toast, and kept in the log. */
export interface Message {
  id: number
  at: number
  text: string
  is_error: boolean
  link: { hash: string; text: string } | null
  /** Still shown as a toast. */
  is_shown: boolean
}

const KEPT = 50
/** What is no error goes by itself after this (ms). */
const SHOWN_MS = 8000

let messages: readonly Message[] = []
let last_id = 0
const listeners = new Set<() => void>()

export function allMessages(): readonly Message[] {
  return messages
}

export function tell(text: string, more: { is_error?: boolean; link?: Message['link'] } = {}): void {
  const id = ++last_id
  const { is_error = false, link = null } = more
  change([{ id, at: Date.now(), text, is_error, link, is_shown: true }, ...messages].slice(0, KEPT))
  if (!is_error) setTimeout(() => dismiss(id), SHOWN_MS)
}

export function dismiss(id: number): void {
  change(messages.map((message) => (message.id === id ? { ...message, is_shown: false } : message)))
}

export function onMessages(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

function change(next: readonly Message[]): void {
  messages = next
  for (const listener of listeners) listener()
}
