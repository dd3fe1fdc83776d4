import { useDesk } from '../desk.ts'
import { useLoaded } from '../hooks.ts'
import { type View, windows } from '../view.ts'
import { kind_names } from '../vocabulary.ts'
import { CopyButton } from './CopyButton.tsx'

/** A list without rows: nothing matches, nothing in this time, or nothing ever, and then how to begin. */
export function EmptyList({
  view,
  is_narrowed,
  onClear,
  onAllTime,
}: {
  view: View
  is_narrowed: boolean
  onClear(): void
  onAllTime(): void
}) {
  const { source, url } = useDesk()
  // Whether there ever was a run is only asked where it makes a difference.
  const ever = useLoaded(`${view.kind} ${is_narrowed}`, async (signal) =>
    is_narrowed ? 1 : (await source.list(view.kind ? { kind: view.kind } : {}, null, 1, signal)).items.length,
  )
  const in_time = windows.find(({ window }) => window === view.window)?.words ?? ''
  const all_time = view.window !== 'all' && !view.stuck && !view.failed_lately && (
    <button type="button" onClick={onAllTime}>
      Search all time
    </button>
  )
  if (is_narrowed) {
    return (
      <div class="empty">
        <p>
          <strong>No runs match</strong> {!view.stuck && !view.failed_lately && in_time}.
        </p>
        <div class="buttons">
          <button type="button" onClick={onClear}>
            Clear filters
          </button>
          {all_time}
        </div>
      </div>
    )
  }
  const many = view.kind ? kind_names[view.kind].many.toLowerCase() : 'runs'
  if (ever.data === null)
    return (
      <div class="empty">
        {!ever.error && (
          <p class="quiet">
            No {many} {in_time}.
          </p>
        )}
      </div>
    )
  if (ever.data > 0) {
    return (
      <div class="empty">
        <p>
          <strong>No {many}</strong> {in_time}.
        </p>
        <div class="buttons">{all_time}</div>
      </div>
    )
  }
  const command = [
    `curl -X POST ${url}/functions/v1/join`,
    `  -H "apikey: $SUPABASE_KEY" -H "Authorization: Bearer $TOKEN"`,
    `  -H "content-type: application/json"`,
    `  -d '{"platform": "google_meet", "native_meeting_id": "abc-defg-hij"}'`,
  ].join(' \\\n')
  return (
    <div class="empty">
      <p>
        <strong>No {many} yet.</strong> The first one appears here by itself.
      </p>
      {(view.kind === null || view.kind === 'bot') && (
        <div class="code">
          <pre>{command}</pre>
          <CopyButton text={command} what="command" words="Copy" />
        </div>
      )}
      <p class="quiet">
        How to begin is in docs/bots.md, docs/flows.md and docs/workflows.md of the project.
      </p>
    </div>
  )
}
