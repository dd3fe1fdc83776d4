import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { runLane } from '../../src/worker/lanes.ts'
import { runSession } from '../../src/worker/sessions.ts'
import {
  type Automation,
  eventsOf,
  mutationsOf,
  orderScript,
  passTime,
  runsOf,
  startAutomation,
  stateOf,
  workflowOf,
} from '../support/automations.ts'
import { type Ledger, type LedgerAnswer, startLedger } from '../support/ledger.ts'
import { type Project, startProject } from '../support/project.ts'
import { rpc } from '../support/rpc.ts'
import { type WatchedRequests, watchRequests } from '../support/watched_requests.ts'
import { spawnSessions, workerOf } from '../support/worker.ts'

let project: Project
let ledger: Ledger
/** Between the worker and the project, and between the worker and the ledger. */
let requests: WatchedRequests
let calls: WatchedRequests

beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation(() => {})
  project = await startProject()
  ledger = await startLedger()
  requests = await watchRequests(project.stack.api_url, ledger.url)
  calls = await watchRequests(ledger.url, ledger.url)
  // Only the workers of the tests work.
  await project.wakes(null)
})
afterAll(async () => {
  await requests?.close()
  await calls?.close()
  await project?.close()
  await ledger?.close()
})

/** What a worker at a session waits for. Claims are left out but for the first: a worker asks until there is one. */
const OF_A_SESSION =
  /rpc\/(create_handler_run|advance_handler_run|peek_events|read_workflow_secrets|begin_mutation|apply_mutation|fail_mutation|update_handler_run_status|commit_\w+|finish_session)|\/feed\/|\/orders/

/** Notes the awaits of a session by their paths, and has the worker drop dead at one of them. */
function watchAwaits(kill?: { point: number; moment: 'before' | 'after'; by: () => void }): string[] {
  const seen: string[] = []
  // Of the claims the first counts, and the first answer.
  const claims = { before: 0, after: 0 }
  let is_dead = false
  const at: WatchedRequests['at'] = (moment, path) => {
    if (is_dead) return false
    const is_first_claim = path.includes('claim_workflow_session') && claims[moment]++ === 0
    if (!is_first_claim && !OF_A_SESSION.test(path)) return true
    if (moment === 'before') seen.push(path)
    if (kill === undefined || seen.length - 1 !== kill.point || moment !== kill.moment) return true
    is_dead = true
    kill.by()
    return false
  }
  requests.at = at
  calls.at = at
  return seen
}

function letThrough(): void {
  requests.at = () => true
  calls.at = () => true
}

async function ordering(
  item: string,
  { reconcile, answer }: { reconcile: boolean; answer: LedgerAnswer },
): Promise<Automation> {
  await project.sql`delete from public.workflows`
  const feed = randomUUID()
  ledger.reset()
  ledger.feeds[feed] = [item]
  ledger.answers = [answer]
  return startAutomation(project, orderScript({ url: calls.url, feed, reconcile }))
}

const healthy = () => workerOf(project, { SCRIPTS_ALLOW_PRIVATE: '1' }, randomUUID())

const isThrough = async (automation: Automation, item: string) =>
  (await stateOf(project, automation, 'keep'))?.kept?.includes(item) === true &&
  (await workflowOf(project, automation)).state === 'active' &&
  (await project.sql`select from public.script_runs where status = 'running'`).length === 0

/** Others go on, time passes, and a person says what it sees at the ledger. Returns what the person was asked for. */
async function recover(automation: Automation, item: string): Promise<string[]> {
  const asked_for: string[] = []
  for (let round = 0; round < 12 && !(await isThrough(automation, item)); round++) {
    await passTime(project)
    await runLane('reconcile', healthy())
    await runLane('scripts', healthy())
    const { error, unresolved_mutation } = await workflowOf(project, automation)
    if (unresolved_mutation?.status !== 'indeterminate') continue
    asked_for.push(error?.code)
    const happened = ledger.done.has(item)
    await rpc(project.sql, 'resolve_mutation', {
      mutation_id: unresolved_mutation.id,
      how: happened ? 'applied' : 'failed',
      ...(happened ? { result: { by: 'a person' } } : {}),
    })
  }
  return asked_for
}

interface Scenario {
  what: string
  /** Whether the service can be asked. */
  reconcile: boolean
  /** What the first call comes to. */
  answer: LedgerAnswer
  /** Where the worker is killed: at those of its awaits whose paths are of these. */
  at: RegExp
  least_points: number
  /** Whether a person has to say what happened, at some of the points. */
  asks_persons: boolean
}

const scenarios: Scenario[] = [
  {
    what: 'in a session where all goes well',
    reconcile: true,
    answer: 'do',
    at: /./,
    least_points: 35,
    asks_persons: false,
  },
  {
    what: 'around a side effect of which nobody can be asked',
    reconcile: false,
    answer: 'do',
    at: /begin_mutation|orders|apply_mutation/,
    least_points: 3,
    asks_persons: true,
  },
  {
    what: 'while it asks whether what happened did happen',
    reconcile: true,
    answer: 'do_and_cut',
    at: /orders|apply_mutation/,
    least_points: 3,
    asks_persons: false,
  },
  {
    what: 'while it asks whether what did not happen happened',
    reconcile: true,
    answer: 'cut',
    at: /orders|fail_mutation|update_handler_run_status/,
    least_points: 4,
    asks_persons: false,
  },
  {
    what: 'while it gives up what nobody can tell',
    reconcile: false,
    answer: 'do_and_cut',
    at: /orders|update_handler_run_status/,
    least_points: 2,
    asks_persons: true,
  },
  {
    what: 'while it stores that a service was busy',
    reconcile: false,
    answer: 429,
    at: /fail_mutation|update_handler_run_status/,
    least_points: 2,
    asks_persons: true,
  },
]

for (const { what, reconcile, answer, at, least_points, asks_persons } of scenarios) {
  test(`a worker killed at every await point ${what} loses nothing and does nothing twice`, {
    timeout: 600_000,
  }, async () => {
    const env = {
      SUPABASE_URL: requests.url,
      SUPABASE_SECRET_KEY: project.stack.secret_key,
      SCRIPTS_ALLOW_PRIVATE: '1',
    }
    // Once without a killing, to see what there is to wait for.
    await ordering(randomUUID(), { reconcile, answer })
    const awaits = watchAwaits()
    const watched = { ...project, stack: { ...project.stack, api_url: requests.url } }
    await runSession(workerOf(watched, { SCRIPTS_ALLOW_PRIVATE: '1' }, randomUUID()), () => true)
    const points = [...awaits.keys()].filter((point) => at.test(awaits[point] ?? ''))
    expect(points.length, awaits.join(' ')).toBeGreaterThanOrEqual(least_points)

    const persons: string[] = []
    for (const point of points) {
      for (const moment of ['before', 'after'] as const) {
        // Where the connection is cut there is no answer after which to be killed.
        const is_cut = awaits[point]?.endsWith('/orders') && String(answer).endsWith('cut')
        if (is_cut && moment === 'after') continue
        const label = `killed ${moment} await ${point}, ${awaits[point]}`
        const item = randomUUID()
        const automation = await ordering(item, { reconcile, answer })
        const child = spawnSessions(env)
        const died = once(child, 'exit')
        watchAwaits({ point, moment, by: () => child.kill('SIGKILL') })
        const is_killed = await Promise.race([died.then(() => true), pause(30_000).then(() => false)])
        child.kill('SIGKILL')
        expect(is_killed, label).toBe(true)
        letThrough()
        persons.push(...(await recover(automation, item)))
        await expectDoneOnce(automation, item, label)
      }
    }
    expect(persons.every((code) => code === 'MUTATION_UNCERTAIN')).toBe(true)
    expect(persons.length > 0).toBe(asks_persons)
  })
}

async function expectDoneOnce(automation: Automation, item: string, label: string): Promise<void> {
  expect(await isThrough(automation, item), label).toBe(true)
  expect(ledger.done.get(item), label).toHaveLength(1)
  expect(new Set(ledger.calls.map(({ key }) => key)).size, label).toBe(ledger.calls.length)
  for (const topic of ['items', 'orders']) {
    const events = await eventsOf(project, automation, topic)
    expect(
      events.map(({ message_id, status }) => [message_id, status]),
      label,
    ).toEqual([[item, 'consumed']])
  }
  expect(await stateOf(project, automation, 'keep'), label).toEqual({ kept: [item] })
  for (const { status } of await runsOf(project, automation)) {
    expect(['committed', 'crashed', 'paused:transient', 'paused:reconciliation'], label).toContain(status)
  }
  for (const { status } of await mutationsOf(project, automation)) {
    expect(['applied', 'failed'], label).toContain(status)
  }
  expect(await project.sql`select * from public.invariant_violations`, label).toEqual([])
}
