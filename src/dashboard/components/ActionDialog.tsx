import { useEffect, useRef, useState } from 'preact/hooks'
import { RollcallError } from '../../client/errors.ts'
import type { RunRow } from '../../client/live/run.ts'
import { type Action, actionsOf, neverAgain, newKey, perform } from '../actions.ts'
import { announce } from '../announcer.ts'
import { useDesk } from '../desk.ts'
import { age, shortId } from '../format.ts'
import { tell } from '../messages.ts'
import { runHash } from '../route.ts'
import { toneOf } from '../vocabulary.ts'
import { Dialog } from './Dialog.tsx'
import { Icon } from './Icon.tsx'
import { sentence } from './Problem.tsx'
import { Since } from './Since.tsx'

type Trouble = { text: string; can_repeat: boolean; is_error: boolean }

/** Asks before something is done with a run, of which it reads anew how it is; then does it, once. */
export function ActionDialog({
  row: at_first,
  action,
  onClose,
}: {
  row: RunRow
  action: Action
  onClose(is_done: boolean): void
}) {
  const { source, live } = useDesk()
  const [row, setRow] = useState(at_first)
  const [is_sending, setSending] = useState(false)
  const [trouble, setTrouble] = useState<Trouble | null>(null)
  const [reason, setReason] = useState('')
  const keep = useRef<HTMLButtonElement>(null)
  const key = useRef(newKey())
  const sending = useRef(false)
  const tone = toneOf(row, null)

  async function readAnew(): Promise<RunRow> {
    const { items } = await source.get([at_first.id], {}, AbortSignal.timeout(10_000))
    const read = items.find(({ id }) => id === at_first.id) ?? row
    setRow(read)
    return read
  }

  useEffect(() => {
    keep.current?.focus()
    // What was read last is good enough to ask.
    readAnew().catch(() => {})
  }, [])

  async function act(): Promise<void> {
    if (sending.current) return
    sending.current = true
    setSending(true)
    setTrouble(null)
    try {
      const new_id = await perform(source, row, action, key.current, reason)
      const link = new_id ? { hash: runHash(new_id), text: 'Open the new run' } : null
      tell(action.done, { link })
      announce(action.done)
      onClose(true)
    } catch (error) {
      setTrouble(await troubleOf(error))
    } finally {
      sending.current = false
      setSending(false)
    }
  }

  async function troubleOf(error: unknown): Promise<Trouble> {
    if (!(error instanceof RollcallError)) return { text: String(error), can_repeat: true, is_error: true }
    if (error.status === 409 || error.status === 422) {
      const now = await readAnew().catch(() => row)
      if (now.finished_at) {
        const ended = age(live.now() - Date.parse(now.finished_at))
        return { text: `It already ${now.state} ${ended} ago.`, can_repeat: false, is_error: false }
      }
      return { text: sentence(error), can_repeat: false, is_error: false }
    }
    if (error.status === 403) {
      neverAgain(row, action.name)
      return { text: 'You may not do this. Ask its owner or an operator.', can_repeat: false, is_error: true }
    }
    if (error.status === 0 || error.status >= 500) {
      const text = 'No answer came, so it may or may not have been done. Trying again does it once at most.'
      return { text, can_repeat: true, is_error: true }
    }
    return { text: sentence(error), can_repeat: error.status === 429, is_error: true }
  }

  const is_possible = action.path !== undefined || actionsOf(row).some(({ name }) => name === action.name)
  return (
    <Dialog title={action.title} onClose={() => onClose(false)}>
      <p class="subject">
        <span class={`state ${tone}`}>
          <Icon name={tone} />
          {row.state}
        </span>{' '}
        <bdi class="name">{row.name}</bdi> <code>{shortId(row.id)}</code>
      </p>
      <p class="quiet">
        {row.finished_at ? 'It ended after ' : 'In this state for '}
        <Since
          at={row.finished_at ? (row.started_at ?? row.created_at) : row.state_since}
          until={row.finished_at}
        />
        .
      </p>
      {trouble ? (
        <p class={trouble.is_error ? 'trouble' : 'notice'} role="alert">
          {trouble.text}
        </p>
      ) : (
        <p>{is_possible ? action.words : 'In this state that is not possible any more.'}</p>
      )}
      {(action.takes_reason || action.how === 'applied') && is_possible && (
        <label class="field">
          {action.takes_reason
            ? 'Reason, for its history (optional)'
            : 'What it answered, as JSON (optional)'}
          <input
            type="text"
            maxLength={action.takes_reason ? 500 : 60_000}
            value={reason}
            onInput={(event) => setReason(event.currentTarget.value)}
          />
        </label>
      )}
      <div class="buttons">
        <button type="button" ref={keep} onClick={() => onClose(false)}>
          {trouble && !trouble.can_repeat ? 'Close' : action.keep}
        </button>
        {(!trouble || trouble.can_repeat) && (
          <button
            type="button"
            class={action.is_dangerous ? 'danger' : 'primary'}
            aria-disabled={is_sending || !is_possible}
            onClick={() => is_possible && void act()}
          >
            {is_sending ? 'Sending …' : trouble ? 'Try again' : action.button}
          </button>
        )}
      </div>
    </Dialog>
  )
}
