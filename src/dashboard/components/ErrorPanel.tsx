import type { Failure } from '../detail.ts'
import { words } from '../vocabulary.ts'
import { JsonBlock } from './JsonBlock.tsx'

const culprits: Record<string, string> = {
  user: 'Whoever asked for it can mend this.',
  host: 'The host of the meeting can mend this.',
  platform: 'The platform is at fault.',
  system: 'The system is at fault.',
}

/** Why a run failed: stage, code and what it means, the message, and what to do next. */
export function ErrorPanel({ failure }: { failure: Failure }) {
  const { stage, code, message, meaning, next_step, attribution, details } = failure
  return (
    <section class="error-panel" aria-labelledby="error">
      <h2 id="error">
        {stage && <span class="quiet">{words(stage)} · </span>}
        <code>{code}</code>
      </h2>
      {meaning && <p class="meaning">{meaning}</p>}
      {next_step && (
        <p>
          <strong>Next: </strong>
          {next_step}
        </p>
      )}
      <p class="message">{message ?? 'It left no message.'}</p>
      {attribution && culprits[attribution] && <p class="quiet">{culprits[attribution]}</p>}
      {details !== null && <JsonBlock title="Details" value={details} name="details" />}
    </section>
  )
}
