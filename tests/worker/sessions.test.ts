import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { runLane } from '../../src/worker/lanes.ts'
import { runSession } from '../../src/worker/sessions.ts'
import {
  type Automation,
  eventsOf,
  mutationsOf,
  orderedOnce,
  orderScript,
  passTime,
  runsOf,
  startAutomation,
  stateOf,
  workflowOf,
} from '../support/automations.ts'
import { type Ledger, type LedgerAnswer, startLedger } from '../support/ledger.ts'
import { type Project, startProject } from '../support/project.ts'
import { refusal, rpc } from '../support/rpc.ts'
import { watchRequests } from '../support/watched_requests.ts'
import { spawnWorker, workerOf } from '../support/worker.ts'

let project: Project
let ledger: Ledger

beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation(() => {})
  project = await startProject()
  ledger = await startLedger()
  // Only the workers of the tests work.
  await project.wakes(null)
})
beforeEach(() => ledger.reset())
afterEach(async () => {
  expect(await project.sql`select * from public.invariant_violations`).toEqual([])
  // Nothing of a test is due in the next.
  await project.sql`delete from public.workflows`
})
afterAll(async () => {
  await project?.close()
  await ledger?.close()
})

const worker = (env: Record<string, string> = { SCRIPTS_ALLOW_PRIVATE: '1' }, name: string = randomUUID()) =>
  workerOf(project, env, name)

/** A new automation that orders these items. */
async function ordering(items: string[], more: Partial<Parameters<typeof orderScript>[0]> = {}) {
  const feed = randomUUID()
  ledger.feeds[feed] = items
  return startAutomation(project, orderScript({ url: ledger.url, feed, ...more }))
}

const names = (n: number) => Array.from({ length: n }, () => randomUUID())
const statuses = async (automation: Automation, topic: string) =>
  (await eventsOf(project, automation, topic)).map(({ status }) => status)
const lastRun = async (automation: Automation) => (await runsOf(project, automation)).at(-1)

describe('a session', () => {
  test('takes a workflow through its producer and its consumers, one side effect a run', async () => {
    const items = names(3)
    const automation = await ordering(items)
    expect(await runLane('scripts', worker())).toBe(1)
    expect(orderedOnce(ledger, items)).toBe(true)
    expect(ledger.calls).toHaveLength(3)
    expect(await statuses(automation, 'items')).toEqual(['consumed', 'consumed', 'consumed'])
    expect(await statuses(automation, 'orders')).toEqual(['consumed', 'consumed', 'consumed'])
    expect((await stateOf(project, automation, 'keep')).kept.toSorted()).toEqual(items.toSorted())
    const runs = await runsOf(project, automation)
    expect(runs.every(({ status, phase }) => status === 'committed' && phase === 'committed')).toBe(true)
    const [session] = await project.sql`
      select * from public.script_runs where workflow_id = ${automation.workflow_id}`
    expect(session).toMatchObject({ status: 'success', result: 'completed', handler_run_count: runs.length })
    // The idempotency keys are the ids of the side effects.
    const mutations = await mutationsOf(project, automation)
    expect(mutations.map(({ id }) => id).toSorted()).toEqual(ledger.calls.map(({ key }) => key).toSorted())
    expect(mutations.every(({ status }) => status === 'applied')).toBe(true)
    const logs = runs.flatMap((run) => run.logs ?? []).map(({ text }) => text)
    expect(logs).toContain(`ordered ${items[0]} applied`)
    expect(await runLane('scripts', worker())).toBe(0)
  })

  test('that may begin nothing more is given back, and the next worker goes on at the same phase', async () => {
    const items = names(2)
    const automation = await ordering(items)
    const context = worker()
    for (let phases = 0; phases < 60 && !orderedOnce(ledger, items); phases++) {
      // Time for exactly one phase: the claim asks, then the first phase does.
      let asked = 0
      await runSession(context, () => asked++ < 1)
    }
    expect(orderedOnce(ledger, items)).toBe(true)
    await runLane('scripts', worker())
    const sessions = await project.sql`
      select status from public.script_runs where workflow_id = ${automation.workflow_id}`
    expect(sessions).toEqual([{ status: 'success' }])
    expect((await stateOf(project, automation, 'keep')).kept.toSorted()).toEqual(items.toSorted())
  })

  test('whose lease is lost stops at once, and writes nothing', async () => {
    const [item = ''] = names(1)
    const automation = await ordering([item], { reconcile: true })
    ledger.always = async (): Promise<LedgerAnswer> => {
      await project.sql`update public.script_runs set lease_token = gen_random_uuid() where status = 'running'`
      return 'do'
    }
    await runLane('scripts', worker())
    expect(await lastRun(automation)).toMatchObject({ status: 'active', phase: 'mutating' })
    expect(await mutationsOf(project, automation)).toMatchObject([{ status: 'in_flight', result: null }])
    expect(ledger.asked).toHaveLength(0)
    await passTime(project)
    expect(await lastRun(automation)).toMatchObject({ status: 'crashed', phase: 'mutating' })
    expect(await workflowOf(project, automation)).toMatchObject({
      state: 'error',
      unresolved_mutation: { status: 'needs_reconcile' },
    })
    expect(await statuses(automation, 'items')).toEqual(['reserved'])
  })
})

test('a lease that is taken away in the middle of a call ends the call with the next renewal', {
  timeout: 60_000,
}, async () => {
  const automation = await ordering(names(1), { reconcile: true })
  ledger.always = async (): Promise<LedgerAnswer> => {
    await project.sql`update public.script_runs set lease_token = gen_random_uuid() where status = 'running'`
    return 'hang'
  }
  const started = performance.now()
  await runLane('scripts', worker())
  // It is renewed every 20 s, and a call is cut off after 30 s.
  expect(performance.now() - started).toBeLessThan(25_000)
  expect(ledger.asked).toHaveLength(0)
  expect(await lastRun(automation)).toMatchObject({ status: 'active', phase: 'mutating', logs: null })
  await passTime(project)
})

test('functions run scripts as workers do, woken by the activation', async () => {
  const host = await project.host({ SCRIPTS_ALLOW_PRIVATE: '1', WORK_SECONDS: '1000000' })
  await project.wakes(host.url)
  try {
    const items = names(2)
    const automation = await ordering(items)
    const kept = async () => (await stateOf(project, automation, 'keep'))?.kept?.length
    await expect.poll(kept, { timeout: 20_000 }).toBe(2)
    expect(orderedOnce(ledger, items)).toBe(true)
  } finally {
    await project.wakes(null)
    await host.close()
  }
})

test('a worker goes on once the database is there again', async () => {
  const requests = await watchRequests(project.stack.api_url, ledger.url)
  try {
    const items = names(2)
    await ordering(items)
    // Each call is lost twice: on the way there, and on the way back.
    const lost = new Map<string, number>()
    requests.at = (moment, path) => {
      if (path.includes('claim_workflow_session')) return true
      const times = lost.get(path + moment) ?? 0
      lost.set(path + moment, times + 1)
      return times > 0
    }
    const away = { ...project, stack: { ...project.stack, api_url: requests.url } }
    await runLane('scripts', workerOf(away, { SCRIPTS_ALLOW_PRIVATE: '1' }, randomUUID()))
    expect(lost.size).toBeGreaterThan(15)
    expect(orderedOnce(ledger, items)).toBe(true)
    expect(ledger.calls).toHaveLength(2)
    const [session] = await project.sql`select status from public.script_runs`
    expect(session?.status).toBe('success')
  } finally {
    await requests.close()
  }
})

describe('a secret', () => {
  const script = () => `
    workflow = {
      topics: [],
      producers: {
        look: {
          schedule: { interval: '1d' },
          publishes: [],
          async handler() {
            const { body } = await Http.get({ url: '${ledger.url}/feed/x', headers: { authorization: 'Bearer {{secret.TOKEN}}' } })
            console.log('it said', body.items[0])
            await User.send('Looked.')
            return { looked: true }
          },
        },
      },
      consumers: {},
    }`

  test('that is missing is asked for; set, it is sent, and no log shows it', async () => {
    const automation = await startAutomation(project, script())
    const { workflow_id, owner_id } = automation
    const value = randomUUID()
    // A service that repeats what it was sent.
    ledger.feeds.x = [`Bearer ${value}`]
    await runLane('scripts', worker())
    expect(await lastRun(automation)).toMatchObject({ status: 'paused:approval', error_type: 'auth' })
    expect(await workflowOf(project, automation)).toMatchObject({
      state: 'error',
      error: { code: 'AUTH_REQUIRED', message: expect.stringContaining('TOKEN') },
    })
    expect(ledger.gets).toHaveLength(0)
    await rpc(project.sql, 'set_workflow_secret', { workflow_id, name: 'TOKEN', value, owner_id })
    await rpc(project.sql, 'resume_workflow', { workflow_id })
    await runLane('scripts', worker())
    expect(ledger.gets[0]?.headers.authorization).toBe(`Bearer ${value}`)
    const run = await lastRun(automation)
    expect(run).toMatchObject({ status: 'committed' })
    expect(run.logs.map(({ text }: { text: string }) => text)).toEqual(['it said Bearer [secret]'])
    const messages = await project.sql`
      select content from public.workflow_messages where workflow_id = ${workflow_id} and role = 'assistant'`
    expect(messages).toEqual([{ content: 'Looked.' }])
  })

  test('of a service that refuses it: the owner is told which service', async () => {
    const automation = await ordering(names(1))
    ledger.answers = [401]
    await runLane('scripts', worker())
    expect((await lastRun(automation)).details).toEqual({
      service: new URL(ledger.url).host,
      http_status: 401,
    })
  })
})

describe('a workflow that is paused in the middle of a run', () => {
  test('fails nothing, and goes on when it is resumed', async () => {
    const items = names(2)
    const automation = await ordering(items)
    const { workflow_id } = automation
    ledger.always = async (): Promise<LedgerAnswer> => {
      if (ledger.calls.length === 1) await rpc(project.sql, 'pause_workflow', { workflow_id })
      return 'do'
    }
    await runLane('scripts', worker())
    expect(ledger.calls).toHaveLength(1)
    expect(await workflowOf(project, automation)).toMatchObject({ state: 'paused', error: null })
    const runs = await runsOf(project, automation)
    expect(runs.every(({ status }) => status === 'committed')).toBe(true)
    expect(runs.filter(({ handler_name }) => handler_name === 'order')).toHaveLength(1)
    await rpc(project.sql, 'resume_workflow', { workflow_id })
    await runLane('scripts', worker())
    expect(orderedOnce(ledger, items)).toBe(true)
  })
})

describe('a failed call', () => {
  const cases: {
    answer: LedgerAnswer
    status: string
    error_type: string
    mutation: string
    event: string
  }[] = [
    { answer: 401, status: 'paused:approval', error_type: 'auth', mutation: 'failed', event: 'pending' },
    {
      answer: 403,
      status: 'paused:approval',
      error_type: 'permission',
      mutation: 'failed',
      event: 'pending',
    },
    { answer: 404, status: 'failed:logic', error_type: 'logic', mutation: 'failed', event: 'pending' },
    { answer: 429, status: 'paused:transient', error_type: 'network', mutation: 'failed', event: 'pending' },
    {
      answer: 500,
      status: 'paused:reconciliation',
      error_type: 'network',
      mutation: 'indeterminate',
      event: 'reserved',
    },
    {
      answer: 408,
      status: 'paused:reconciliation',
      error_type: 'network',
      mutation: 'indeterminate',
      event: 'reserved',
    },
    {
      answer: 409,
      status: 'paused:reconciliation',
      error_type: 'logic',
      mutation: 'indeterminate',
      event: 'reserved',
    },
    {
      answer: 'cut',
      status: 'paused:reconciliation',
      error_type: 'network',
      mutation: 'indeterminate',
      event: 'reserved',
    },
    {
      answer: 'do_and_rave',
      status: 'failed:logic',
      error_type: 'logic',
      mutation: 'applied',
      event: 'reserved',
    },
  ]
  for (const { answer, status, error_type, mutation, event } of cases) {
    test(`${answer}: ${status}, the side effect ${mutation}`, async () => {
      const automation = await ordering(names(1))
      ledger.answers = [answer]
      await runLane('scripts', worker())
      expect(await lastRun(automation)).toMatchObject({ status, error_type })
      expect(await mutationsOf(project, automation)).toMatchObject([{ status: mutation }])
      expect(await statuses(automation, 'items')).toEqual([event])
      expect(ledger.calls).toHaveLength(1)
    })
  }
})

describe('a side effect of which nobody knows', () => {
  for (const happened of [true, false]) {
    const answer = happened ? 'do_and_cut' : 'cut'
    const word = happened ? 'happened' : 'did not happen'

    test(`and that ${word} is settled by the worker itself where the service can be asked`, async () => {
      const [item = ''] = names(1)
      const automation = await ordering([item], { reconcile: true })
      ledger.answers = [answer]
      await runLane('scripts', worker())
      expect(ledger.asked).toHaveLength(1)
      if (!happened) {
        expect(await lastRun(automation)).toMatchObject({ status: 'paused:transient', error_type: 'network' })
        await passTime(project)
        await runLane('scripts', worker())
      }
      expect(ledger.done.get(item)).toHaveLength(1)
      expect(ledger.calls).toHaveLength(happened ? 1 : 2)
      expect(new Set(ledger.calls.map(({ key }) => key)).size).toBe(ledger.calls.length)
      const [order] = await eventsOf(project, automation, 'orders')
      expect(order.payload).toMatchObject({ id: item, status: 'applied' })
      if (happened) expect(order.payload.result).toEqual({ told: ledger.calls[0]?.key })
      expect(await workflowOf(project, automation)).toMatchObject({ state: 'active', error: null })
    })

    test(`and that ${word} is held until the service can tell`, async () => {
      const [item = ''] = names(1)
      const automation = await ordering([item], { reconcile: true })
      ledger.answers = [answer]
      ledger.memory = 'forgets'
      await runLane('scripts', worker())
      expect(await workflowOf(project, automation)).toMatchObject({
        state: 'error',
        error: { code: 'MUTATION_UNCERTAIN' },
        unresolved_mutation: { status: 'needs_reconcile' },
      })
      await passTime(project)
      await runLane('reconcile', worker())
      await runLane('scripts', worker())
      expect(ledger.calls).toHaveLength(1)
      expect(await statuses(automation, 'items')).toEqual(['reserved'])
      ledger.memory = 'knows'
      await passTime(project)
      await runLane('reconcile', worker())
      await runLane('scripts', worker())
      expect(ledger.done.get(item)).toHaveLength(1)
      expect(ledger.calls).toHaveLength(happened ? 1 : 2)
      expect(await workflowOf(project, automation)).toMatchObject({ state: 'active', error: null })
      expect(await statuses(automation, 'items')).toEqual(['consumed'])
      const [order] = await eventsOf(project, automation, 'orders')
      expect(order.payload).toMatchObject({ id: item, status: 'applied' })
      if (happened) expect(order.payload.result).toEqual({ told: ledger.calls[0]?.key })
    })

    for (const how of happened ? (['applied', 'skipped'] as const) : (['failed', 'skipped'] as const)) {
      test(`and that ${word} is what a person says: ${how}`, async () => {
        const [item = ''] = names(1)
        const automation = await ordering([item])
        const { workflow_id, owner_id } = automation
        ledger.answers = [answer]
        await runLane('scripts', worker())
        const { unresolved_mutation } = await workflowOf(project, automation)
        expect(unresolved_mutation).toMatchObject({
          status: 'indeterminate',
          actions: expect.arrayContaining([how]),
        })
        expect(unresolved_mutation.actions).not.toContain('ask_again')
        const mutation_id = unresolved_mutation.id
        expect((await refusal(rpc(project.sql, 'resume_workflow', { workflow_id }))).message).toBe(
          'unresolved_mutation',
        )
        expect((await refusal(rpc(project.sql, 'retry_workflow', { workflow_id }))).message).toBe(
          'unresolved_mutation',
        )
        const result = how === 'applied' ? { number: 7 } : null
        await rpc(project.sql, 'resolve_mutation', { mutation_id, how, result, owner_id })
        await passTime(project)
        await runLane('scripts', worker())
        expect(await workflowOf(project, automation)).toMatchObject({ state: 'active', error: null })
        expect(ledger.calls).toHaveLength(how === 'failed' ? 2 : 1)
        const [order] = await eventsOf(project, automation, 'orders')
        if (how === 'failed') {
          expect(ledger.done.get(item)).toHaveLength(1)
          expect(order.payload).toMatchObject({ status: 'applied', result: { status: 201 } })
        } else if (how === 'applied') {
          expect(order.payload).toEqual({ id: item, status: 'applied', result: { number: 7 } })
        } else {
          expect(order.payload).toEqual({ id: item, status: 'skipped' })
        }
        expect(await statuses(automation, 'items')).toEqual([how === 'skipped' ? 'skipped' : 'consumed'])
      })
    }

    test(`and that ${word} is asked five times, then a person has it asked again`, async () => {
      const [item = ''] = names(1)
      const automation = await ordering([item], { reconcile: true })
      const { owner_id } = automation
      ledger.answers = [answer]
      ledger.memory = 'raves'
      await runLane('scripts', worker())
      for (let attempt = 0; attempt < 8; attempt++) {
        await passTime(project)
        await runLane('reconcile', worker())
      }
      // Once by the worker of the session.
      expect(ledger.asked).toHaveLength(1 + 5)
      const { unresolved_mutation } = await workflowOf(project, automation)
      expect(unresolved_mutation).toMatchObject({
        status: 'indeterminate',
        actions: expect.arrayContaining(['ask_again']),
      })
      ledger.memory = 'knows'
      await rpc(project.sql, 'resolve_mutation', {
        mutation_id: unresolved_mutation.id,
        how: 'ask_again',
        owner_id,
      })
      await runLane('reconcile', worker())
      await passTime(project)
      await runLane('scripts', worker())
      expect(ledger.done.get(item)).toHaveLength(1)
      expect(ledger.calls).toHaveLength(happened ? 1 : 2)
      expect(await workflowOf(project, automation)).toMatchObject({ state: 'active', error: null })
    })
  }
})

describe('a hostile script', () => {
  /** Runs a script of which one function has this body; then one that means well, which must be none the worse. */
  async function suffer(more: Partial<Parameters<typeof orderScript>[0]>, env?: Record<string, string>) {
    const [item = '', other = ''] = names(2)
    const automation = await ordering([item], more)
    await runLane('scripts', worker(env))
    const runs = await runsOf(project, automation)
    const good = await ordering([other])
    await runLane('scripts', worker())
    expect(await workflowOf(project, good)).toMatchObject({ state: 'active', error: null })
    expect(ledger.done.get(other)).toHaveLength(1)
    return { automation, item, run: runs.at(-1) }
  }

  test('that never ends is cut off: failed:logic', async () => {
    const { run } = await suffer({ handler: 'for (;;) {}' })
    expect(run).toMatchObject({ status: 'failed:logic', error_type: 'logic', phase: 'executing' })
  })

  test('that takes all memory is cut off: failed:logic', async () => {
    const { run } = await suffer({
      handler: "let all = ['x'.repeat(1e6)]; for (;;) all.push(all.join('') + 'y')",
    })
    expect(run).toMatchObject({ status: 'failed:logic', error_type: 'logic' })
  })

  test('that bends prototypes bends only its own', async () => {
    const { run, item } = await suffer({
      mutate: `
        Object.prototype.url = 'http://127.0.0.1:1/'; Object.prototype.polluted = true
        Array.prototype.toJSON = () => ['bent']
        JSON.stringify = () => '"bent"'
        try { this.constructor.constructor('return process')().exit(1) } catch {}
        try { Http.send.constructor('return globalThis.process')().exit(1) } catch {}`,
    })
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
    expect(['committed', 'failed:logic']).toContain(run.status)
    expect(ledger.done.get(item)?.length ?? 0).toBeLessThanOrEqual(1)
  })

  test('that reaches for a private address reaches nothing: failed:logic', async () => {
    const { run } = await suffer({}, {})
    expect(run).toMatchObject({ status: 'failed:logic', error_type: 'logic', phase: 'executing' })
    expect(ledger.gets.filter(({ path }) => path.startsWith('/feed'))).toHaveLength(1)
  })

  test('that sends to a private address has sent nothing: the side effect failed for certain', async () => {
    const { run, automation } = await suffer(
      {
        mutate: "await Http.send({ url: 'http://169.254.169.254/latest', method: 'POST', body: {} }); return",
        handler: "await Topics.publish('items', { id: 'x', payload: {} }); return {}",
      },
      {},
    )
    expect(run).toMatchObject({ status: 'failed:logic', mutation_outcome: 'failure' })
    expect(await statuses(automation, 'items')).toEqual(['pending'])
  })

  for (const [name, twice] of [
    [
      'one after the other',
      `await Http.send({ url: '${'URL'}/orders', method: 'POST', body: { item: 'first' } })`,
    ],
    ['at the same time', `Http.send({ url: '${'URL'}/orders', method: 'POST', body: { item: 'first' } })`],
  ] as const) {
    test(`that sends twice, ${name}, sends once: failed:logic, and the event is not dealt with again`, async () => {
      const { run, automation, item } = await suffer({ mutate: twice.replaceAll('URL', ledger.url) })
      expect(run).toMatchObject({ status: 'failed:logic', mutation_outcome: 'success', phase: 'mutated' })
      expect(ledger.done.get('first')).toHaveLength(1)
      expect(ledger.done.get(item)).toBeUndefined()
      expect(await statuses(automation, 'items')).toEqual(['reserved'])
      expect(await workflowOf(project, automation)).toMatchObject({
        state: 'fixing',
        pending_retry_run_id: run.id,
      })
    })
  }

  test('that swallows the error of a tool fails with it', async () => {
    ledger.answers = [401]
    const { run } = await suffer({
      mutate: `try { await Http.send({ url: '${ledger.url}/orders', method: 'POST', body: {} }) } catch {} return`,
    })
    expect(run).toMatchObject({ status: 'paused:approval', error_type: 'auth' })
  })

  test('that reserves what is not there reserves nothing: failed:logic', async () => {
    const { run, automation } = await suffer({
      prepare: "return { reservations: [{ topic: 'items', ids: ['nobody has heard of it'] }] }",
    })
    expect(run).toMatchObject({ status: 'failed:logic', phase: 'preparing' })
    expect(await statuses(automation, 'items')).toEqual(['pending'])
  })

  test('that publishes what no column holds, or too much of it: failed:logic', async () => {
    for (const payload of ["'a\\u0000b'", "'x'.repeat(70000)"]) {
      const { run } = await suffer({
        handler: `await Topics.publish('items', { id: 'x', payload: ${payload} }); return {}`,
      })
      expect(run).toMatchObject({ status: 'failed:logic' })
    }
  })
})

describe('200 workflows and four workers', () => {
  const quick = `
    workflow = {
      topics: [],
      producers: { only: { schedule: { interval: '1d' }, publishes: [], async handler() { return { done: true } } } },
      consumers: {},
    }`

  test('no session runs twice, the oldest due goes first, and one that fails slows nobody', {
    timeout: 300_000,
  }, async () => {
    const failing = await ordering(names(1))
    ledger.always = 'hang'
    const many: Automation[] = []
    for (let n = 0; n < 200; n++) many.push(await startAutomation(project, quick))
    const ids = many.map(({ workflow_id }) => workflow_id)
    const env = {
      SUPABASE_URL: project.stack.api_url,
      SUPABASE_SECRET_KEY: project.stack.secret_key,
      SCRIPTS_ALLOW_PRIVATE: '1',
    }
    // Two at a time each.
    const processes = [spawnWorker(env), spawnWorker(env)]
    const sessions = () => project.sql`
      select s.workflow_id, s.started_at, s.status, s.lease_owner,
        (select count(*)::int from public.handler_runs r where r.script_run_id = s.id) as runs
      from public.script_runs s where s.workflow_id = any (${ids}) order by s.started_at`
    try {
      const done = async () => (await sessions()).filter(({ status }) => status === 'success').length
      // The one that hangs was the first, and hangs on until its send is cut off: others are done meanwhile.
      const hangs = { status: 'active', phase: 'mutating' }
      await expect.poll(() => lastRun(failing), { timeout: 60_000 }).toMatchObject(hangs)
      const done_at_first = await done()
      await expect.poll(done, { timeout: 60_000 }).toBeGreaterThan(done_at_first)
      expect(await lastRun(failing)).toMatchObject(hangs)
      await expect.poll(done, { timeout: 200_000, interval: 500 }).toBe(200)
      await expect
        .poll(async () => (await lastRun(failing)).status, { timeout: 60_000 })
        .toBe('paused:reconciliation')
    } finally {
      await Promise.all(
        processes.map((child) => {
          const ended = once(child, 'exit')
          child.kill('SIGTERM')
          return ended
        }),
      )
    }
    const all = await sessions()
    expect(all).toHaveLength(200)
    expect(all.every(({ runs }) => runs === 1)).toBe(true)
    expect(new Set(all.map(({ lease_owner }) => lease_owner)).size).toBeGreaterThan(2)
    // In the order in which they became due, but for what several workers take at the same moment.
    const places = ids.map((id) => all.findIndex(({ workflow_id }) => workflow_id === id))
    expect(Math.max(...places.map((place, index) => Math.abs(place - index)))).toBeLessThan(8)
  })
})
