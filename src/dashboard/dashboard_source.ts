import { fromDatabase, RollcallError } from '../client/errors.ts'
import { createProjectSource } from '../client/live/project_source.ts'
import type { DashboardProject } from '../contract/dashboard.ts'
import type { DashboardSource, Violation } from './desk.ts'
import type { Session } from './session.ts'

/** The runs of a project as whoever is signed in may see them. */
export function createDashboardSource(
  project: DashboardProject,
  session: Session,
): DashboardSource & { close(): void } {
  const source = createProjectSource({ ...project, token: () => session.token(), worker: true })
  return {
    ...source,
    async violations(signal) {
      const token = await session.token()
      let response: Response
      try {
        response = await fetch(`${project.url.replace(/\/+$/, '')}/rest/v1/invariant_violations?limit=100`, {
          headers: { apikey: project.key, authorization: `Bearer ${token ?? project.key}` },
          signal,
        })
      } catch (cause) {
        signal.throwIfAborted()
        throw new RollcallError({
          status: 0,
          code: 'unreachable',
          message: 'The project can not be reached.',
          cause,
        })
      }
      const body: unknown = await response.json().catch(() => null)
      if (response.ok) return body as Violation[]
      throw fromDatabase(body as Parameters<typeof fromDatabase>[0], response.status)
    },
  }
}
