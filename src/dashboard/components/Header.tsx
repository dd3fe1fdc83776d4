import type { LiveSnapshot } from '../../client/live/live.ts'
import { useDesk } from '../desk.ts'
import { usePreferences } from '../hooks.ts'
import { setPreferences } from '../preferences.ts'
import type { Route } from '../route.ts'
import { ConnectionChip } from './ConnectionChip.tsx'
import { Icon } from './Icon.tsx'

const themes = ['system', 'light', 'dark'] as const

export function nextTheme(present: (typeof themes)[number]): (typeof themes)[number] {
  return themes[(themes.indexOf(present) + 1) % themes.length] ?? 'system'
}

/** The bar above every screen. */
export function Header({
  seen,
  screen,
  onHelp,
}: {
  seen: LiveSnapshot
  screen: Route['screen']
  onHelp(): void
}) {
  const { live, project_name, is_operator, signOut } = useDesk()
  const { theme } = usePreferences()
  const link = (to: Route['screen'], hash: string, words: string) => (
    <a href={hash} {...(screen === to && { 'aria-current': 'page' })}>
      {words}
    </a>
  )
  const is_paused = seen.paused_at !== null
  return (
    <header class="top">
      <a class="brand" href="#/">
        <svg viewBox="0 0 20 20" aria-hidden="true">
          <path d="m2 5 1.8 1.8L7 3.2M2 11.5l1.8 1.8L7 9.7M10 5h8M10 11.5h8M2.5 17.5H18" />
        </svg>
        Rollcall
      </a>
      <span class="project" title="Project">
        {project_name}
      </span>
      <nav aria-label="Screens">
        {link('runs', '#/', 'Runs')}
        {link('timing', '#/timing', 'Timing')}
        {link('webhooks', '#/webhooks', 'Webhooks')}
        {is_operator && link('health', '#/health', 'Health')}
      </nav>
      <div class="tools">
        <ConnectionChip connection={seen.connection} />
        <button
          type="button"
          class="quiet-button"
          aria-pressed={is_paused}
          onClick={() => (is_paused ? live.resume() : live.pause())}
        >
          Pause
        </button>
        <button
          type="button"
          class="quiet-button"
          aria-pressed={seen.is_following}
          onClick={() => live.follow(!seen.is_following)}
          title="New runs come into the list by themselves"
        >
          Follow
        </button>
        <button
          type="button"
          class="quiet-button"
          onClick={() => setPreferences({ theme: nextTheme(theme) })}
          title={`Theme: ${theme}`}
        >
          <Icon name="theme" />
          <span class="unseen">Theme: {theme}</span>
        </button>
        <button type="button" class="quiet-button" onClick={onHelp} title="Shortcuts and settings">
          <span aria-hidden="true">?</span>
          <span class="unseen">Shortcuts and settings</span>
        </button>
        <button type="button" class="quiet-button" onClick={signOut}>
          Sign out
        </button>
      </div>
    </header>
  )
}
