import { useState } from 'preact/hooks'
import type { RunRow } from '../../client/live/run.ts'
import type { Step } from '../detail.ts'
import { clipped, duration } from '../format.ts'
import { CopyButton } from './CopyButton.tsx'
import { Icon } from './Icon.tsx'
import { ProgressBar } from './ProgressBar.tsx'
import { Since } from './Since.tsx'

/** More of a text than this is not drawn (characters). */
const SHOWN = 64 * 1024
const icons = { done: 'ok', failed: 'bad', now: 'working', open: 'queued' } as const
const said = { done: 'done', failed: 'failed', now: 'being answered', open: 'not begun' } as const

/** The steps of a run, each with what was asked and answered. */
export function Steps({ row, steps }: { row: RunRow; steps: Step[] }) {
  return (
    <section aria-labelledby="steps">
      <div class="head">
        <h2 id="steps">Steps</h2>
        <ProgressBar row={row} />
      </div>
      <ol class="steps">
        {steps.map((step, index) => (
          <StepItem key={index} step={step} n={index + 1} since={row.updated_at} />
        ))}
      </ol>
    </section>
  )
}

function StepItem({ step, n, since }: { step: Step; n: number; since: string }) {
  const [is_wrapped, wrap] = useState(true)
  const answer = step.response ?? step.error
  const tone = icons[step.state]
  const line = (
    <>
      <span class={`state ${tone}`}>
        <Icon name={tone} spins={step.state === 'now'} />
        <span class="unseen">{said[step.state]}</span>
      </span>
      <span class="quiet num">{n}</span>
      <bdi class="prompt">{clipped(step.prompt, 300)}</bdi>
      <span class="quiet num">
        {step.state === 'now' ? (
          <Since at={since} />
        ) : step.duration_ms === null ? (
          ''
        ) : (
          duration(step.duration_ms)
        )}
      </span>
    </>
  )
  if (answer === null && step.prompt.length <= 300) return <li class="plain">{line}</li>
  return (
    <li>
      <details open={step.state === 'failed'}>
        <summary>{line}</summary>
        <div class="answer">
          {step.prompt.length > 120 && <Text words={step.prompt} is_wrapped={is_wrapped} label="Prompt" />}
          {step.response !== null && <Text words={step.response} is_wrapped={is_wrapped} label="Response" />}
          {step.error !== null && <p class="trouble">{clipped(step.error, SHOWN)}</p>}
          <div class="buttons">
            {answer !== null && <CopyButton text={answer} what="Response" words="Copy" />}
            <button type="button" class="small" aria-pressed={is_wrapped} onClick={() => wrap(!is_wrapped)}>
              Wrap lines
            </button>
          </div>
        </div>
      </details>
    </li>
  )
}

function Text({ words, is_wrapped, label }: { words: string; is_wrapped: boolean; label: string }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: who has no mouse scrolls it with the arrows
    // biome-ignore lint/a11y/useSemanticElements: a text, not fields of a form
    <pre class={is_wrapped ? 'wrapped' : ''} tabIndex={0} aria-label={label} role="group">
      <bdi>{clipped(words, SHOWN)}</bdi>
    </pre>
  )
}
