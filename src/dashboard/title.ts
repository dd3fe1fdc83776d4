import { useEffect } from 'preact/hooks'
import type { LiveSnapshot } from '../client/live/live.ts'
import { count } from './format.ts'
import type { Route } from './route.ts'

const names: Record<Exclude<Route['screen'], 'run'>, string> = {
  runs: 'Runs',
  timing: 'Timing',
  webhooks: 'Webhooks',
  health: 'Health',
  connect: 'Sign in',
}

/** Title and icon of the tab tell of trouble: "(3 failed) Runs". */
export function useTitle(route: Route, seen: LiveSnapshot): void {
  const failed = seen.counts?.failed_last_hour
  const stuck = seen.counts?.stuck
  const trouble = [
    failed && failed.n > 0 ? `${count(failed.n, failed.exact)} failed` : '',
    stuck && stuck.n > 0 ? `${count(stuck.n, stuck.exact)} stuck` : '',
  ].filter((part) => part !== '')
  const run = route.screen === 'run' ? seen.open.get(route.id)?.row : null
  const screen = route.screen === 'run' ? (run ? `${run.name}: ${run.state}` : 'Run') : names[route.screen]
  const title = `${trouble.length > 0 ? `(${trouble.join(', ')}) ` : ''}${screen} – Rollcall`
  const color = failed && failed.n > 0 ? 'b42318' : stuck && stuck.n > 0 ? '8a2be2' : '15703a'
  useEffect(() => {
    document.title = title
  }, [title])
  useEffect(() => {
    const icon = document.querySelector<HTMLLinkElement>('link[rel=icon]')
    if (icon) icon.href = iconOf(color)
  }, [color])
}

function iconOf(color: string): string {
  const svg = `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><rect width='16' height='16' rx='4' fill='#${color}'/><path d='m4 8.5 2.8 2.8L12 5' fill='none' stroke='#fff' stroke-width='2'/></svg>`
  return `data:image/svg+xml,${encodeURIComponent(svg)}`
}
