import { Icon } from '../components/Icon.tsx'
import { Problem } from '../components/Problem.tsx'
import { Scroll } from '../components/Scroll.tsx'
import { Skeleton } from '../components/Skeleton.tsx'
import { useDesk } from '../desk.ts'
import { clipped, plural } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { runHash } from '../route.ts'
import { words } from '../vocabulary.ts'

interface Health {
  ok: boolean
  checks: { check: string; ok: boolean; detail: string; cure: string }[]
}

/** Whether the project works as it should, with the cure where it does not. For operators. */
export function HealthScreen() {
  const { source } = useDesk()
  const health = useLoaded('health', (signal) => source.call<Health>('work', { method: 'GET', signal }))
  const violations = useLoaded('violations', (signal) => source.violations(signal))
  const failing = health.data?.checks.filter(({ ok }) => !ok).length ?? 0
  return (
    <>
      <div class="title">
        <h1>Health</h1>
        {health.data && (
          <span class={`state ${failing > 0 ? 'bad' : 'ok'}`}>
            <Icon name={failing > 0 ? 'bad' : 'ok'} />
            {failing > 0 ? `${plural(failing, 'check')} failing` : 'all is well'}
          </span>
        )}
        <button
          type="button"
          onClick={() => {
            health.again()
            violations.again()
          }}
        >
          Check again
        </button>
      </div>
      <section aria-labelledby="checks" aria-busy={health.is_loading}>
        <div class="head">
          <h2 id="checks">Checks</h2>
        </div>
        {health.error && (
          <Problem what="The checks can not be read." error={health.error} onRetry={health.again} />
        )}
        {!health.data && health.is_loading && <Skeleton />}
        <ul class="plain-list checks">
          {health.data?.checks.map(({ check, ok, detail, cure }) => (
            <li key={check}>
              <span class={`state ${ok ? 'ok' : 'bad'}`}>
                <Icon name={ok ? 'ok' : 'bad'} />
                {words(check)}
                <span class="unseen">{ok ? ': fine' : ': failing'}</span>
              </span>
              <span class="quiet">{clipped(detail, 300)}</span>
              {!ok && (
                <span>
                  <strong>Cure: </strong>
                  {cure}
                </span>
              )}
            </li>
          ))}
        </ul>
      </section>
      <section aria-labelledby="violations" aria-busy={violations.is_loading}>
        <div class="head">
          <h2 id="violations">Violated invariants</h2>
        </div>
        {violations.error && (
          <Problem what="They can not be read." error={violations.error} onRetry={violations.again} />
        )}
        {!violations.data && violations.is_loading && <Skeleton />}
        {violations.data?.length === 0 && <p class="quiet">None, as it should be.</p>}
        {violations.data && violations.data.length > 0 && (
          <>
            <p class="quiet">
              {plural(violations.data.length, 'row', 'rows', violations.data.length < 100)} of what must never
              be.
            </p>
            <Scroll label="Table of violations">
              <table>
                <thead>
                  <tr>
                    {['What', 'Machine', 'Run', 'Detail'].map((head) => (
                      <th key={head} scope="col">
                        {head}
                      </th>
                    ))}
                  </tr>
                </thead>
                <tbody>
                  {violations.data.map(({ violation, machine, subject_id, detail }) => (
                    <tr key={`${violation} ${machine} ${subject_id} ${detail}`}>
                      <th scope="row">{words(violation)}</th>
                      <td>{machine ?? '–'}</td>
                      <td>
                        {subject_id ? (
                          <a href={runHash(subject_id)}>
                            <code>{subject_id.slice(-8)}</code>
                          </a>
                        ) : (
                          '–'
                        )}
                      </td>
                      <td class="wide-cell">{clipped(detail ?? '', 300)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </Scroll>
          </>
        )}
      </section>
    </>
  )
}
