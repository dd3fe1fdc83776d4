import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { followPage } from '../client/live/page_events.ts'
import { Announcer } from './announcer.ts'
import { Banner } from './components/Banner.tsx'
import { Header, nextTheme } from './components/Header.tsx'
import { HelpDialog } from './components/HelpDialog.tsx'
import { Toasts } from './components/Toasts.tsx'
import { VersionNotice } from './components/VersionNotice.tsx'
import { type Desk, DeskProvider } from './desk.ts'
import { failedStates } from './groups.ts'
import { useRoute, useSnapshot } from './hooks.ts'
import { preferences, setPreferences } from './preferences.ts'
import type { Route } from './route.ts'
import { HealthScreen } from './screens/HealthScreen.tsx'
import { RunScreen } from './screens/RunScreen.tsx'
import { RunsScreen } from './screens/RunsScreen.tsx'
import { TimingScreen } from './screens/TimingScreen.tsx'
import { WebhooksScreen } from './screens/WebhooksScreen.tsx'
import { useShortcuts } from './shortcuts.ts'
import { tickNow } from './ticker.ts'
import { useTitle } from './title.ts'
import { everything, toFilter, type View } from './view.ts'

/** The page of somebody who is signed in. */
export function App({ desk }: { desk: Desk }) {
  const { live } = desk
  const route = useRoute()
  const seen = useSnapshot(live)
  const [helps, setHelps] = useState(false)
  const [said, say] = useState('')
  const last_view = useRef<View>(route.screen === 'runs' ? route.view : everything)
  if (route.screen === 'runs') last_view.current = route.view
  const view = last_view.current

  const failed = view.failed_lately ? failedStates(view.kind, seen.counts).join() : ''
  const view_key = `${JSON.stringify(view)} ${failed}`
  useMemo(() => live.setFilter(toFilter(view, live.now(), failed.split(','))), [live, view_key])

  const announcer = useMemo(() => new Announcer((text) => say(text)), [])
  useEffect(() => announcer.observe(seen.rows, seen.connection))
  useEffect(() => () => announcer.stop(), [announcer])

  useEffect(() => {
    const unfollow = followPage(live)
    live.start()
    const onVisible = () => tickNow()
    document.addEventListener('visibilitychange', onVisible)
    return () => {
      document.removeEventListener('visibilitychange', onVisible)
      unfollow()
      live.stop()
    }
  }, [live])

  useTitle(route, seen)
  // A new screen is read from its beginning, by who sees it and who hears it.
  const main = useRef<HTMLElement>(null)
  const shown = route.screen === 'run' ? route.id : route.screen
  const shown_before = useRef(shown)
  useEffect(() => {
    if (shown_before.current === shown) return
    shown_before.current = shown
    scrollTo(0, 0)
    if (route.screen !== 'runs') main.current?.focus({ preventScroll: true })
  }, [shown, route.screen])

  useShortcuts({
    '?': () => setHelps(true),
    t: () => setPreferences({ theme: nextTheme(preferences().theme) }),
    p: () => (live.snapshot().paused_at === null ? live.pause() : live.resume()),
    f: () => live.follow(!live.snapshot().is_following),
    'g r': () => go('#/'),
    'g t': () => go('#/timing'),
    'g w': () => go('#/webhooks'),
    'g h': desk.is_operator ? () => go('#/health') : undefined,
  })

  return (
    <DeskProvider value={desk}>
      {/* biome-ignore lint/a11y/useValidAnchor: it leads to a place in the page, whose address is taken by the route */}
      <a class="skip" href="#main" onClick={(event) => skip(event, main.current)}>
        Skip to the content
      </a>
      <Header seen={seen} screen={route.screen} onHelp={() => setHelps(true)} />
      <main id="main" ref={main} tabIndex={-1}>
        <Banner seen={seen} />
        <VersionNotice catalog={seen.catalog} />
        <Screen route={route} seen={seen} view={view} />
      </main>
      <Toasts />
      {helps && <HelpDialog onClose={() => setHelps(false)} />}
      <p role="status" aria-live="polite" class="unseen">
        {said}
      </p>
    </DeskProvider>
  )
}

function Screen({
  route,
  seen,
  view,
}: {
  route: Route
  seen: ReturnType<Desk['live']['snapshot']>
  view: View
}) {
  switch (route.screen) {
    case 'runs':
      return <RunsScreen seen={seen} view={route.view} />
    case 'run':
      return <RunScreen key={route.id} id={route.id} seen={seen} view={view} />
    case 'timing':
      return <TimingScreen />
    case 'webhooks':
      return <WebhooksScreen />
    case 'health':
      return <HealthScreen />
    default:
      return null
  }
}

function go(hash: string): void {
  location.hash = hash
}

/** The hash is the route: the skip link moves the focus and leaves it alone. */
function skip(event: Event, main: HTMLElement | null): void {
  event.preventDefault()
  main?.focus()
}
