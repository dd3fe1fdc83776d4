import { RollcallError } from '../../client/errors.ts'

/** Why a part of a screen is not there, or old, with a way to try again. The rest of the screen lives on. */
export function Problem({ what, error, onRetry }: { what: string; error: Error; onRetry?(): void }) {
  return (
    <div class="problem" role="alert">
      <p>
        <strong>{what}</strong> {sentence(error)}
      </p>
      {onRetry && (
        <button type="button" onClick={onRetry}>
          Try again
        </button>
      )}
    </div>
  )
}

/** An error as a sentence with its cure. */
export function sentence(error: Error): string {
  if (!(error instanceof RollcallError)) return error.message
  if (error.status === 0) return 'The project does not answer.'
  if (error.status === 403) return 'You have no right to see this.'
  if (error.status === 404)
    return 'The project does not know this: its migrations may be older than this page.'
  return error.hint && error.hint !== error.message ? `${error.message} ${error.hint}` : error.message
}
