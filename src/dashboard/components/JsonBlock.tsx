import { useMemo, useState } from 'preact/hooks'
import { CopyButton } from './CopyButton.tsx'

/** More than this is cut on the page; the rest is in the file (characters). */
const SHOWN = 64 * 1024

/** Something as JSON, folded away; drawn when it is opened. Long ones are cut, with a file of the whole. */
export function JsonBlock({ title, value, name }: { title: string; value: unknown; name: string }) {
  const [is_open, setOpen] = useState(false)
  const json = useMemo(() => (is_open ? JSON.stringify(value, null, 2) : ''), [is_open, value])
  return (
    <details class="json" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{title}</summary>
      {is_open && (
        <>
          <div class="code">
            {/* biome-ignore lint/a11y/noNoninteractiveTabindex: who has no mouse scrolls it with the arrows */}
            <pre tabIndex={0}>{json.length > SHOWN ? `${json.slice(0, SHOWN)}\n…` : json}</pre>
            <CopyButton text={json} what={title} words="Copy" />
          </div>
          {json.length > SHOWN && (
            <button type="button" class="small" onClick={() => download(json, `${name}.json`)}>
              Download all of it
            </button>
          )}
        </>
      )}
    </details>
  )
}

function download(text: string, name: string): void {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}
