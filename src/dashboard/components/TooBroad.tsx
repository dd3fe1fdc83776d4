import type { RollcallError } from '../../client/errors.ts'
import { useDesk } from '../desk.ts'
import type { View } from '../view.ts'
import { Problem } from './Problem.tsx'

/** Why the list can not be read; where it would take too long, what to leave out. */
export function TooBroad({ view, error }: { view: View; error: RollcallError }) {
  const { live } = useDesk()
  const retry = () => live.refresh()
  if (error.status === 403) {
    return (
      <p class="notice">
        You can see no runs in this project. <a href="#/connect">Sign in</a> as its owner or an operator.
      </p>
    )
  }
  if (/statement timeout/.test(error.message)) {
    const suspects = [
      view.search && 'the search',
      view.code && 'the code',
      view.stage && 'the stage',
      (view.window === 'all' || view.window === '7d') && 'some of the time',
    ].filter(Boolean)
    const words =
      suspects.length > 0 ? `Leave out ${suspects.join(' or ')}.` : 'Choose a kind or a shorter time.'
    return (
      <Problem what="That filter is too broad to answer in 3 s." error={new Error(words)} onRetry={retry} />
    )
  }
  return <Problem what="The list can not be read." error={error} onRetry={retry} />
}
