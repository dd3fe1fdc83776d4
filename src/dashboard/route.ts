import { everything, readView, type View, writeView } from './view.ts'

/** Where in the page somebody is. */
export type Route =
  | { screen: 'runs'; view: View }
  | { screen: 'run'; id: string }
  | { screen: 'timing' | 'webhooks' | 'health' | 'connect' }

const plain = ['timing', 'webhooks', 'health', 'connect'] as const

/** Reads `#/runs/<id>` and the like; what it does not know is the list. */
export function readRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#/, '').split('?')
  const [, first, second] = path.split('/')
  if (first === 'runs' && second) return { screen: 'run', id: decodeURIComponent(second) }
  const screen = plain.find((name) => name === first)
  if (screen) return { screen }
  return { screen: 'runs', view: readView(new URLSearchParams(query)) }
}

export function runsHash(view: View = everything): string {
  return `#/${writeView(view)}`
}

export function runHash(id: string): string {
  return `#/runs/${encodeURIComponent(id)}`
}
