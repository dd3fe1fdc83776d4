import { useState } from 'preact/hooks'
import type { RunKind, StateTiming } from '../../client/live/run.ts'
import { Problem } from '../components/Problem.tsx'
import { Scroll } from '../components/Scroll.tsx'
import { Since } from '../components/Since.tsx'
import { Skeleton } from '../components/Skeleton.tsx'
import { When } from '../components/When.tsx'
import { useDesk } from '../desk.ts'
import { count, duration } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { runsHash } from '../route.ts'
import { everything } from '../view.ts'
import { kind_names, words } from '../vocabulary.ts'

const machines: { machine: string; kind: RunKind; name: string }[] = [
  { machine: 'bot', kind: 'bot', name: 'Bots' },
  { machine: 'meeting', kind: 'bot', name: 'Bots in their meetings' },
  { machine: 'handler_run', kind: 'handler', name: 'Handler runs' },
  { machine: 'script_run', kind: 'workflow', name: 'Runs of workflows' },
  { machine: 'flow_execution', kind: 'flow', name: 'Flows' },
]
const spans = [
  { window: '1h', hours: 1, name: 'Last hour' },
  { window: '24h', hours: 24, name: 'Last 24 hours' },
  { window: '7d', hours: 168, name: 'Last 7 days' },
] as const

/** How long runs are in their states, and what fails most. */
export function TimingScreen() {
  const { source, live } = useDesk()
  const [machine, setMachine] = useState('bot')
  const [window, setWindow] = useState<(typeof spans)[number]['window']>('24h')
  const kind = machines.find((its) => its.machine === machine)?.kind ?? 'bot'
  const hours = spans.find((its) => its.window === window)?.hours ?? 24
  const range = () => {
    const now = live.now()
    return { since: new Date(now - hours * 3_600_000).toISOString(), until: new Date(now).toISOString() }
  }
  const timing = useLoaded(`${machine} ${window}`, (signal) => {
    const { since, until } = range()
    return source.timing(machine, since, until, signal)
  })
  const failures = useLoaded(`${kind} ${window}`, (signal) =>
    source.failures({ kind, since: range().since }, signal),
  )
  const longest = Math.max(1, ...(timing.data?.states.map(({ p99_ms }) => p99_ms ?? 0) ?? []))
  return (
    <>
      <div class="title">
        <h1>Timing</h1>
        <select
          aria-label="Of what"
          value={machine}
          onChange={(event) => setMachine(event.currentTarget.value)}
        >
          {machines.map((its) => (
            <option key={its.machine} value={its.machine}>
              {its.name}
            </option>
          ))}
        </select>
        <select
          aria-label="Time"
          value={window}
          onChange={(event) => setWindow(event.currentTarget.value as typeof window)}
        >
          {spans.map((its) => (
            <option key={its.window} value={its.window}>
              {its.name}
            </option>
          ))}
        </select>
        <button
          type="button"
          onClick={() => {
            timing.again()
            failures.again()
          }}
        >
          Read again
        </button>
      </div>
      <section aria-labelledby="states" aria-busy={timing.is_loading}>
        <div class="head">
          <h2 id="states">Time in each state</h2>
          {timing.data && !timing.data.exact && (
            <span class="quiet">of the newest transitions: there are more than can be read at once</span>
          )}
        </div>
        {timing.error && (
          <Problem what="The times can not be read." error={timing.error} onRetry={timing.again} />
        )}
        {!timing.data && timing.is_loading && <Skeleton />}
        {timing.data && (
          <Scroll label="Table of times">
            <table>
              <thead>
                <tr>
                  {[
                    'State',
                    'Left',
                    'p50',
                    'p90',
                    'p95',
                    'p99',
                    'Max',
                    'p50 – p95 – p99',
                    'In it now',
                    'Oldest',
                  ].map((head) => (
                    <th key={head} scope="col">
                      {head}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {timing.data.states.map((state) => (
                  <tr key={state.state}>
                    <th scope="row">{state.state}</th>
                    <td>{count(state.n)}</td>
                    {[state.p50_ms, state.p90_ms, state.p95_ms, state.p99_ms, state.max_ms].map(
                      (ms, index) => (
                        <td key={index}>{ms === null ? '–' : duration(ms)}</td>
                      ),
                    )}
                    <td>
                      <Spread state={state} longest={longest} />
                    </td>
                    <td>{count(state.open_n)}</td>
                    <td>{state.oldest_open_at ? <Since at={state.oldest_open_at} /> : '–'}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        )}
      </section>
      <section aria-labelledby="failures" aria-busy={failures.is_loading}>
        <div class="head">
          <h2 id="failures">Failures of {kind_names[kind].many.toLowerCase()}</h2>
        </div>
        {failures.error && (
          <Problem what="The failures can not be read." error={failures.error} onRetry={failures.again} />
        )}
        {failures.data?.failures.length === 0 && <p class="quiet">Nothing failed in this time.</p>}
        {failures.data && failures.data.failures.length > 0 && (
          <Scroll label="Table of failures">
            <table>
              <thead>
                <tr>
                  {['Stage', 'Code', 'Runs', 'Last'].map((head) => (
                    <th key={head} scope="col">
                      {head}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {failures.data.failures.map(({ stage, code, n, last_at, kind: its }) => (
                  <tr key={`${its} ${stage} ${code}`}>
                    <td>{words(stage ?? '–')}</td>
                    <th scope="row">
                      <a href={runsHash({ ...everything, kind: its, code, stage: stage ?? '', window })}>
                        <code>{code}</code>
                      </a>
                    </th>
                    <td>{count(n)}</td>
                    <td>
                      <When at={last_at} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        )}
      </section>
    </>
  )
}

function Spread({ state, longest }: { state: StateTiming; longest: number }) {
  const { p50_ms, p95_ms, p99_ms } = state
  if (p50_ms === null || p95_ms === null || p99_ms === null) return null
  const x = (ms: number) => 1 + (ms / longest) * 158
  return (
    <svg
      class="spread"
      viewBox="0 0 160 14"
      role="img"
      aria-label={`${duration(p50_ms)}, ${duration(p95_ms)}, ${duration(p99_ms)}`}
    >
      <line x1={x(p50_ms)} x2={x(p99_ms)} y1="7" y2="7" />
      <rect x={x(p50_ms)} width={Math.max(1.5, x(p95_ms) - x(p50_ms))} y="3" height="8" rx="1.5" />
      <line x1={x(p50_ms)} x2={x(p50_ms)} y1="1" y2="13" class="mark" />
    </svg>
  )
}
