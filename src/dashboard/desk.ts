import { createContext } from 'preact'
import { useContext } from 'preact/hooks'
import type { Live } from '../client/live/live.ts'
import type { FunctionCall } from '../client/live/project_source.ts'
import type { RunsSource } from '../client/live/source.ts'

/** A row of `invariant_violations`. */
export interface Violation {
  violation: string
  machine: string | null
  subject_id: string | null
  detail: string | null
}

/** Everything that the page reads and does. */
export interface DashboardSource extends RunsSource {
  /** Calls an edge function. */
  call<T>(path: string, call?: FunctionCall): Promise<T>
  violations(signal: AbortSignal): Promise<Violation[]>
}

/** What every part of the page has at hand. */
export interface Desk {
  live: Live
  source: DashboardSource
  /** The project's URL, for the commands that are shown. */
  url: string
  project_name: string
  /** Operators see everybody's runs, and the health of the project. */
  is_operator: boolean
  signOut(): void
}

const context = createContext<Desk | null>(null)

export const DeskProvider = context.Provider

export function useDesk(): Desk {
  const desk = useContext(context)
  if (!desk) throw new Error('There is no desk here.')
  return desk
}
