import { useEffect, useState } from 'preact/hooks'
import { allMessages, dismiss, onMessages } from '../messages.ts'
import { Icon } from './Icon.tsx'

/** What the page tells, below. Errors stay until they are closed; all of it is in the log of the help. */
export function Toasts() {
  const [, draw] = useState(0)
  useEffect(() => onMessages(() => draw((n) => n + 1)), [])
  const shown = allMessages().filter(({ is_shown }) => is_shown)
  if (shown.length === 0) return null
  return (
    <section class="toasts" aria-label="Messages">
      {shown.slice(0, 3).map(({ id, text, is_error, link }) => (
        <div key={id} class={is_error ? 'toast bad' : 'toast'}>
          <span>{text}</span>
          {link && (
            <a href={link.hash} onClick={() => dismiss(id)}>
              {link.text}
            </a>
          )}
          <button type="button" class="bare" onClick={() => dismiss(id)}>
            <Icon name="close" />
            <span class="unseen">Close</span>
          </button>
        </div>
      ))}
    </section>
  )
}
