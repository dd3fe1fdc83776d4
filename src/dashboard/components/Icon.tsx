import type { JSX } from 'preact'
import type { Tone } from '../vocabulary.ts'

export type IconName = Tone | 'attention' | 'wrench' | 'copy' | 'chevron' | 'close' | 'back' | 'theme'

const shapes: Record<IconName, JSX.Element> = {
  queued: <circle cx="8" cy="8" r="6" class="line" stroke-dasharray="2.7 2" />,
  working: <path d="M4.5 2.8v10.4L13 8z" />,
  waiting: <path d="M4 3h3v10H4zM9 3h3v10H9z" />,
  ok: <path d="m2.5 8.5 3.7 3.7 7.3-8" class="line" />,
  bad: <path d="m3.5 3.5 9 9m0-9-9 9" class="line" />,
  attention: <path d="M8 1.6 15 14H1zM7.2 6v4h1.6V6zm0 5v1.6h1.6V11z" fill-rule="evenodd" />,
  unknown: (
    <>
      <circle cx="8" cy="8" r="6.2" class="line" />
      <path d="M6.2 6.4a1.8 1.8 0 1 1 2.6 1.6c-.6.3-.8.6-.8 1.2" class="line thin" />
      <circle cx="8" cy="11.2" r=".9" />
    </>
  ),
  wrench: (
    <path d="M10.8 1.5a3.8 3.8 0 0 0-3.6 5L1.6 12a1.7 1.7 0 0 0 2.4 2.4l5.5-5.6a3.8 3.8 0 0 0 4.8-4.9L12 6.2 9.8 4l2.3-2.3a3.8 3.8 0 0 0-1.3-.2z" />
  ),
  copy: <path d="M5.5 5.5v-3h8v8h-3m-8-5h8v8h-8z" class="line thin" />,
  chevron: <path d="m5.5 3 5 5-5 5" class="line" />,
  close: <path d="m4 4 8 8m0-8-8 8" class="line" />,
  back: <path d="M9.5 3 4.5 8l5 5" class="line" />,
  theme: (
    <>
      <circle cx="8" cy="8" r="6" class="line thin" />
      <path d="M8 2a6 6 0 0 1 0 12z" />
    </>
  ),
}

/** A sign beside words; alone it says nothing to who can not see it. */
export function Icon({ name, spins = false }: { name: IconName; spins?: boolean }) {
  return (
    <svg class={spins ? 'icon spins' : 'icon'} viewBox="0 0 16 16" aria-hidden="true">
      {spins && <circle cx="8" cy="8" r="7.2" class="line thin ring" stroke-dasharray="14 40" />}
      {spins ? <path d="M6 4.8v6.4L11.2 8z" /> : shapes[name]}
    </svg>
  )
}
