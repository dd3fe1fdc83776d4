import { time } from '../format.ts'
import { usePreferences } from '../hooks.ts'
import { allMessages } from '../messages.ts'
import { type Preferences, setPreferences } from '../preferences.ts'
import { shortcut_help } from '../shortcuts.ts'
import { Dialog } from './Dialog.tsx'

/** Shortcuts, settings and the log of messages. */
export function HelpDialog({ onClose }: { onClose(): void }) {
  const held = usePreferences()
  const check = (name: 'shortcuts' | 'compact' | 'absolute_times', words: string) => (
    <label class="check">
      <input
        type="checkbox"
        checked={held[name]}
        onChange={(event) => setPreferences({ [name]: event.currentTarget.checked })}
      />
      {words}
    </label>
  )
  return (
    <Dialog title="Shortcuts and settings" onClose={onClose} is_wide>
      <div class="two">
        <section>
          <h3>Shortcuts</h3>
          <dl class="keys">
            {shortcut_help.map(([keys, what]) => (
              <div key={keys}>
                <dt>
                  {keys.split(' ').map((key) => (
                    <kbd key={key}>{key}</kbd>
                  ))}
                </dt>
                <dd>{what}</dd>
              </div>
            ))}
          </dl>
        </section>
        <section>
          <h3>Settings</h3>
          {check('shortcuts', 'Shortcuts of a single key')}
          {check('compact', 'Compact rows')}
          {check('absolute_times', 'Times of day instead of “3 minutes ago”')}
          <label class="field">
            Screen readers are told
            <select
              value={held.announce}
              onChange={(event) =>
                setPreferences({ announce: event.currentTarget.value as Preferences['announce'] })
              }
            >
              <option value="all">what fails and completes</option>
              <option value="failures">what fails</option>
              <option value="off">nothing of runs</option>
            </select>
          </label>
          <h3>Messages</h3>
          {allMessages().length === 0 ? (
            <p class="quiet">None yet.</p>
          ) : (
            <ol class="log">
              {allMessages().map(({ id, at, text }) => (
                <li key={id}>
                  <span class="num quiet">{time(at, Date.now())}</span> {text}
                </li>
              ))}
            </ol>
          )}
        </section>
      </div>
      <div class="buttons">
        <button type="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  )
}
