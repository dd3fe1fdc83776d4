import { announce } from '../announcer.ts'
import { tell } from '../messages.ts'
import { Icon } from './Icon.tsx'

/** Copies a text, and says so. */
export async function copy(text: string, what: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text)
    announce(`${what} copied`)
    tell(`${what} copied.`)
  } catch {
    tell(`The browser does not let this page copy. ${what}: ${text.slice(0, 200)}`, { is_error: true })
  }
}

export function CopyButton({ text, what, words }: { text: string; what: string; words?: string }) {
  return (
    <button
      type="button"
      class={words ? 'small' : 'bare'}
      onClick={() => void copy(text, what)}
      title={`Copy ${what}`}
    >
      <Icon name="copy" />
      <span class={words ? '' : 'unseen'}>{words ?? `Copy ${what}`}</span>
    </button>
  )
}
