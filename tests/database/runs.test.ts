import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { botIn, report, requestBot } from '../support/bots.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { claimExecution, running, storeResult } from '../support/flows.ts'
import { manyRuns } from '../support/many_runs.ts'
import { refusal, rpc } from '../support/rpc.ts'
import { ask, type Counts, everyRow, type Page, pagesOf, type Reader } from '../support/seen_runs.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

const owner = () => ({ sub: randomUUID() })
const operator = () => ({ sub: randomUUID(), app_metadata: { rollcall: 'operator' } })
const list = (reader: Reader, filter: Record<string, unknown> = {}, max_rows = 50) =>
  ask<Page>(database, reader, 'runs_list', { filter, max_rows })
const idsOf = (page: { items: { id: string }[] }) => page.items.map(({ id }) => id)
const count = (answer: Counts, kind: string, state: string) =>
  answer.counts.find((counted) => counted.kind === kind && counted.state === state)

/** A workflow with a script, of this owner. */
async function workflow(owner_id: string, title = 'Orders'): Promise<{ workflow_id: string }> {
  const handler = { schedule: { interval: '5m' }, publishes: ['orders'] }
  const consumer = { subscribe: ['orders'], publishes: [], has_mutate: true, has_next: true }
  return rpc(database.owner, 'create_workflow', {
    owner_id,
    title,
    code: 'workflow = {}',
    config: { topics: ['orders'], producers: { poll: handler }, consumers: { ship: consumer } },
  })
}

/** Its first session, with one producer run that was just created. */
async function session(owner_id: string, title?: string) {
  const { workflow_id } = await workflow(owner_id, title)
  await rpc(database.owner, 'activate_workflow', { workflow_id })
  const claimed = await rpc<{ session_id: string; lease_token: string; workflow_id: string }>(
    database.owner,
    'claim_workflow_session',
    { worker: 'w' },
  )
  if (claimed?.workflow_id !== workflow_id) throw new Error('another workflow was due')
  const { session_id, lease_token } = claimed
  const { run } = await rpc<{ run: { run_id: string } }>(database.owner, 'create_handler_run', {
    session_id,
    lease_token,
  })
  return { workflow_id, session_id, lease_token, run_id: run.run_id }
}

describe('the list', () => {
  test('has bots, executions, workflows and handler runs, newest first, to those who may see them', async () => {
    const me = owner()
    const bot = await botIn(database.owner, 'active', { owner_id: me.sub, bot_name: 'Standup' })
    const { execution } = await running(database.owner, ['one', 'two'], { owner_id: me.sub })
    const { workflow_id, run_id, session_id } = await session(me.sub)
    const page = await list(me)
    expect(idsOf(page)).toEqual([run_id, workflow_id, execution.id, bot.bot_id])
    expect(page.next).toBeNull()
    expect(page.items[0]).toMatchObject({
      kind: 'handler',
      name: 'Orders: poll',
      state: 'active',
      progress_done: 0,
      progress_total: 2,
      workflow_id,
      session_id,
    })
    expect(page.items[1]).toMatchObject({ kind: 'workflow', name: 'Orders', state: 'active', session_id })
    expect(page.items[2]).toMatchObject({
      kind: 'flow',
      state: 'running',
      progress_done: 0,
      progress_total: 2,
      progress_label: 'one',
      allowed_actions: ['cancel'],
    })
    expect(page.items[3]).toMatchObject({
      kind: 'bot',
      name: 'Standup',
      state: 'running',
      meeting_status: 'active',
      allowed_actions: ['stop'],
      attempt: 1,
    })
    expect(idsOf(await list(owner()))).toEqual([])
    expect(idsOf(await list(operator(), { owner_id: me.sub }))).toEqual(idsOf(page))
    expect(idsOf(await list('secret', { owner_id: me.sub }))).toEqual(idsOf(page))
    expect(idsOf(await list(operator()))).toEqual(expect.arrayContaining(idsOf(page)))
    expect(idsOf(await list(owner(), { owner_id: me.sub }))).toEqual([])
  })

  test('a row leaves out what is null and has at most 600 bytes, whatever is in it', async () => {
    const me = owner()
    const bot = await requestBot(database.owner, {
      owner_id: me.sub,
      bot_name: '漢字'.repeat(60),
      launch: false,
    })
    await report(database.owner, bot, 'joining')
    await report(database.owner, bot, 'failed', {
      error_code: 'JOIN_ROOM_TIMEOUT',
      error_message: 'Größe "quoted" \\ 漢字 '.repeat(40),
    })
    const again = await requestBot(database.owner, { owner_id: me.sub, retry_of: bot.workflow_thread_id })
    await report(database.owner, again, 'failed', {
      error_code: 'BOT_CRASHED',
      error_message: 'x'.repeat(4000),
    })
    await running(database.owner, ['漢字 '.repeat(2000), 'b'], { owner_id: me.sub })
    const { items } = await list(me)
    expect(items).toHaveLength(3)
    for (const item of items) {
      expect(Buffer.byteLength(JSON.stringify(item)), item.kind).toBeLessThanOrEqual(600)
      expect(Object.values(item)).not.toContain(null)
    }
    expect(items[2]?.error_message).toMatch(/^Größe "quoted" .*…$/)
    expect(items[1]?.retry_of).toBe(bot.bot_id)
  })

  test('pages hold every run once, also where many began at the same moment', async () => {
    const me = owner()
    await manyRuns(database.superuser, me.sub, { bots: 40, executions: 40 })
    await database.superuser`
      update public.flow_executions set created_at = '2026-01-01' where owner_id = ${me.sub}`
    const all = await everyRow(database, me, {}, 7)
    expect(all).toHaveLength(80)
    expect(new Set(all.map(({ id }) => id)).size).toBe(80)
    const places = all.map(({ created_at, id }) => `${created_at} ${id}`)
    expect(places).toEqual(places.toSorted().reverse())
  })

  test('filters by kind, state, code, stage and time', async () => {
    const me = owner()
    await manyRuns(database.superuser, me.sub, { bots: 30, executions: 30 })
    const all = await everyRow(database, me, {}, 50)
    const some = async (filter: Record<string, unknown>) =>
      (await everyRow(database, me, filter, 9)).map(({ id }) => id)
    const those = (test: (row: (typeof all)[number]) => boolean) => all.filter(test).map(({ id }) => id)
    expect(await some({ kind: 'flow' })).toEqual(those(({ kind }) => kind === 'flow'))
    expect(await some({ kind: ['bot', 'handler'] })).toEqual(those(({ kind }) => kind === 'bot'))
    expect(await some({ state: 'failed' })).toEqual(those(({ state }) => state === 'failed'))
    expect(await some({ state: ['failed', 'running'], kind: 'bot' })).toEqual(
      those(({ state, kind }) => state === 'failed' && kind === 'bot'),
    )
    expect(await some({ code: 'AGENT_ERROR' })).toEqual(those((row) => row.error_code === 'AGENT_ERROR'))
    expect(await some({ stage: 'joining' })).toEqual(those((row) => row.error_stage === 'joining'))
    const middle = all[20]?.created_at as string
    expect(await some({ since: middle })).toEqual(those((row) => row.created_at >= middle))
    expect(await some({ until: middle })).toEqual(those((row) => row.created_at < middle))
    const since = new Date(Date.now() - 600_000).toISOString()
    expect(await some({ ended_since: since })).toEqual(those((row) => (row.finished_at ?? '') >= since))
  })

  test('finds ids by their first and last characters, names by their beginning, and codes', async () => {
    const me = owner()
    await manyRuns(database.superuser, me.sub, { bots: 20, executions: 20 })
    const all = await everyRow(database, me, {}, 50)
    const wanted = all[7] as (typeof all)[number]
    for (const search of [wanted.id, wanted.id.slice(0, 6), wanted.id.slice(0, 13), wanted.id.slice(-8)]) {
      expect(idsOf(await list(me, { search })), search).toEqual([wanted.id])
      expect(idsOf(await list(owner(), { search })), search).toEqual([])
    }
    // Whoever names a run means it, however old it is.
    expect(idsOf(await list(me, { search: wanted.id, since: new Date().toISOString() }))).toEqual([wanted.id])
    const routines = await list(me, { search: 'routine 3' })
    expect(routines.items.map(({ name }) => name)).toEqual(
      all.filter(({ name }) => name === 'Routine 3').map(({ name }) => name),
    )
    expect((await list(me, { search: 'agent_error' })).items).toHaveLength(2)
    expect((await list(me, { search: 'room' })).items.length).toBe(20)
  })

  test('finds workflows and handler runs by what is shown of them', async () => {
    const me = owner()
    const { workflow_id, run_id, lease_token } = await session(me.sub, 'Invoices')
    await rpc(database.owner, 'update_handler_run_status', {
      run_id,
      status: 'paused:approval',
      error: 'The key is not valid.',
      error_type: 'auth',
      lease_token,
    })
    expect(idsOf(await list(me, { state: 'error' }))).toEqual([workflow_id])
    expect(idsOf(await list(me, { state: 'paused:approval' }))).toEqual([run_id])
    expect(idsOf(await list(me, { state: 'active' }))).toEqual([])
    const { items } = await list(me, { code: 'AUTH_REQUIRED' })
    expect(items.map(({ id }) => id)).toEqual([run_id, workflow_id])
    expect(items[0]).toMatchObject({
      error_stage: 'producer',
      reason: 'auth',
      error_message: 'The key is not valid.',
    })
    expect(items[1]?.allowed_actions).toContain('retry')
    expect(idsOf(await list(me, { search: 'invoices' }))).toEqual([run_id, workflow_id])
  })

  test.each([
    [{ kin: 'bot' }, 'kin', /there are kind, state/],
    [{ kind: 'cat' }, 'kind', /bot, flow, handler, workflow/],
    [{ kind: [] }, 'kind', /one or more/],
    [{ state: ['failed', 'faild'] }, 'state', /completed/],
    [{ stuck: 'yes' }, 'stuck', /true or false/],
    [{ since: 'yesterday-ish' }, 'since', /2026-11-21/],
    [{ until: 5 }, 'until', /2026-11-21/],
    [{ code: 5 }, 'code', /text/],
    [{ search: 'x'.repeat(201) }, 'search', /200/],
    [{ owner_id: 'me' }, 'owner_id', /UUID/],
    [[1], 'filter', /object/],
  ])('the filter %j is refused with the cure', async (filter, path, cure) => {
    for (const name of ['runs_list', 'runs_counts', 'run_failures']) {
      const error = await refusal(ask(database, owner(), name, { filter }))
      expect(error.code).toBe('PT422')
      expect(JSON.parse(error.detail ?? '').issues[0].path).toBe(path)
      expect(error.hint).toMatch(cure)
    }
  })

  test.each([
    [{ max_rows: 0 }, 'max_rows'],
    [{ max_rows: 201 }, 'max_rows'],
    [{ before_id: randomUUID() }, 'before_id'],
    [{ before_id: 'x', before_created: new Date().toISOString() }, 'before_id'],
  ])('the place %j is refused', async (args, path) => {
    const error = await refusal(ask(database, owner(), 'runs_list', args))
    expect(error.code).toBe('PT422')
    expect(JSON.parse(error.detail ?? '').issues[0].path).toBe(path)
  })

  test('no text of a filter is taken for SQL', async () => {
    const evil = `'); drop table public.workflow_threads; --`
    for (const filter of [{ search: evil }, { code: evil }, { stage: evil }]) {
      expect((await list(owner(), filter)).items).toEqual([])
    }
    expect((await list(owner(), { search: `%_\\'"` })).items).toEqual([])
    expect((await database.owner`select 1 from public.workflow_threads limit 1`).length).toBe(1)
  })
})

describe('rows by id', () => {
  test('come for any subject of the history, and say whether the filter lets them through', async () => {
    const me = owner()
    const bot = await botIn(database.owner, 'joining', { owner_id: me.sub })
    const { workflow_id, run_id, session_id } = await session(me.sub)
    type Got = { items: { id: string; kind: string }[]; matches: string[] }
    const get = (ids: string[], filter = {}, reader: Reader = me) =>
      ask<Got>(database, reader, 'runs_get', { ids, filter })
    expect(idsOf(await get([run_id])).sort()).toEqual([run_id, workflow_id].sort())
    expect(idsOf(await get([session_id]))).toEqual([workflow_id])
    const both = await get([bot.bot_id, session_id, randomUUID()], { kind: 'bot' })
    expect(idsOf(both).sort()).toEqual([bot.bot_id, workflow_id].sort())
    expect(both.matches).toEqual([bot.bot_id])
    expect(idsOf(await get([bot.bot_id, run_id], {}, owner()))).toEqual([])
    expect((await refusal(get(['x']))).code).toBe('PT422')
  })

  test('match exactly what the list shows', async () => {
    const me = owner()
    await manyRuns(database.superuser, me.sub, { bots: 40, executions: 40 })
    const all = await everyRow(database, me, {}, 50)
    const filters = [
      { state: 'failed' },
      { kind: 'flow', search: 'routine' },
      { code: 'JOIN_ROOM_TIMEOUT' },
      { stage: 'prompt' },
      { since: all[30]?.created_at },
      { ended_since: new Date(Date.now() - 900_000).toISOString() },
      { search: all[3]?.id.slice(-8) },
    ]
    for (const filter of filters) {
      const listed = (await everyRow(database, me, filter, 50)).map(({ id }) => id)
      const { matches } = await ask<{ matches: string[] }>(database, me, 'runs_get', {
        ids: all.map(({ id }) => id),
        filter,
      })
      expect(matches.toSorted(), JSON.stringify(filter)).toEqual(listed.toSorted())
    }
  })
})

describe('the counts', () => {
  test('equal the rows, state by state', async () => {
    const me = owner()
    await manyRuns(database.superuser, me.sub, { bots: 60, executions: 40 })
    await botIn(database.owner, 'active', { owner_id: me.sub })
    await session(me.sub)
    for (const filter of [{}, { kind: 'bot' }, { code: 'AGENT_ERROR' }, { search: 'routine 1' }]) {
      const rows = await everyRow(database, me, filter, 200)
      const answer = await ask<Counts>(database, me, 'runs_counts', { filter })
      for (const { kind, state, n, exact } of answer.counts) {
        const of_it = rows.filter((row) => row.kind === kind && row.state === state)
        expect([n, exact], `${JSON.stringify(filter)} ${kind} ${state}`).toEqual([of_it.length, true])
      }
      expect(answer.exact).toBe(true)
    }
  })

  test('tell what to choose from: state and stuck do not narrow them', async () => {
    const me = owner()
    await manyRuns(database.superuser, me.sub, { bots: 20, executions: 0 })
    const answer = await ask<Counts>(database, me, 'runs_counts', {
      filter: { state: 'failed', stuck: true },
    })
    expect(count(answer, 'bot', 'completed')?.n).toBe(18)
    expect(count(answer, 'bot', 'failed')?.n).toBe(2)
    expect(answer.failed_last_hour).toEqual({ n: 2, exact: true })
    expect(count(answer, 'workflow', 'error')).toEqual({
      kind: 'workflow',
      state: 'error',
      n: 0,
      exact: true,
    })
  })

  test('name each failure by stage and code', async () => {
    const me = owner()
    await manyRuns(database.superuser, me.sub, { bots: 30, executions: 20 })
    const answer = await ask<{ failures: unknown[]; exact: boolean }>(database, me, 'run_failures', {
      filter: {},
    })
    expect(answer).toMatchObject({
      exact: true,
      failures: [
        { kind: 'bot', stage: 'joining', code: 'JOIN_ROOM_TIMEOUT', n: 3, last_at: expect.any(String) },
        { kind: 'flow', stage: 'prompt', code: 'AGENT_ERROR', n: 2, last_at: expect.any(String) },
      ],
    })
  })
})

describe('the timeline of a run', () => {
  test('has every transition with how long the run was in each state', async () => {
    const me = owner()
    const bot = await botIn(database.owner, 'active', { owner_id: me.sub })
    await report(database.owner, bot, 'joining')
    const timeline = await ask<{
      transitions: { machine: string; to_status: string; created_at: string; duration_ms: number | null }[]
      rejections: { to_status: string; code: string }[]
      omitted: number
    }>(database, me, 'run_timeline', { id: bot.bot_id })
    const of_bot = timeline.transitions.filter(({ machine }) => machine === 'bot')
    expect(of_bot.map(({ to_status }) => to_status)).toEqual(['pending', 'starting', 'running'])
    expect(of_bot[2]?.duration_ms).toBeNull()
    for (const [i, { created_at, duration_ms }] of of_bot.slice(0, -1).entries()) {
      const gap = Date.parse(of_bot[i + 1]?.created_at ?? '') - Date.parse(created_at)
      expect(Math.abs((duration_ms ?? -1) - gap)).toBeLessThanOrEqual(1)
    }
    expect(timeline.omitted).toBe(0)
    expect(timeline.rejections).toMatchObject([{ to_status: 'joining' }])
    expect(await ask(database, owner(), 'run_timeline', { id: bot.bot_id })).toBeNull()
    expect((await refusal(ask(database, me, 'run_timeline', { id: 'x' }))).code).toBe('PT422')
  })

  test('names the run before and the newest one behind it', async () => {
    const me = owner()
    const bot = await requestBot(database.owner, { owner_id: me.sub })
    await report(database.owner, bot, 'failed', { error_code: 'BOT_CRASHED', error_message: 'x' })
    const again = await requestBot(database.owner, { owner_id: me.sub, retry_of: bot.workflow_thread_id })
    const timeline = (id: string) => ask(database, me, 'run_timeline', { id })
    expect(await timeline(bot.bot_id)).toMatchObject({ retry_of: null, retried_by: again.bot_id })
    expect(await timeline(again.bot_id)).toMatchObject({ retry_of: bot.bot_id, retried_by: null })
  })
})

describe('the timing of states', () => {
  test('leaves out what has not ended, and counts it apart', async () => {
    const me = owner()
    const sql = database.connect('postgres', { max: 1 })
    const at = async (second: number) =>
      sql`select set_config('rollcall.now', ${new Date(Date.UTC(2026, 2, 1, 12, 0, second)).toISOString()}, false)`
    for (const seconds of [10, 20, 30]) {
      await at(0)
      const bot = await requestBot(sql, { owner_id: me.sub, launch: false })
      await at(seconds)
      await report(sql, bot, 'joining')
    }
    await at(50)
    await requestBot(sql, { owner_id: me.sub, launch: false })
    const answer = await ask<{ states: { state: string }[]; exact: boolean }>(database, me, 'state_timing', {
      machine: 'bot',
      since: '2026-03-01T00:00:00Z',
      until: '2026-03-02T00:00:00Z',
    })
    expect(answer.exact).toBe(true)
    expect(answer.states.map(({ state }) => state)).toEqual(['pending', 'starting', 'running'])
    expect(answer.states[0]).toEqual({
      state: 'pending',
      n: 3,
      p50_ms: 20_000,
      p90_ms: 28_000,
      p95_ms: 29_000,
      p99_ms: 29_800,
      max_ms: 30_000,
      open_n: 1,
      oldest_open_at: '2026-03-01T12:00:50.000Z',
    })
    expect(answer.states[1]).toMatchObject({ state: 'starting', n: 0, p50_ms: null, open_n: 3 })
    const elsewhere = await ask<{ states: { n: number }[] }>(database, owner(), 'state_timing', {
      machine: 'bot',
      since: '2026-03-01T00:00:00Z',
    })
    expect(elsewhere.states[0]?.n).toBe(0)
  })

  test('an unknown machine and a window without length are refused', async () => {
    const me = owner()
    expect((await refusal(ask(database, me, 'state_timing', { machine: 'cat' }))).hint).toMatch(
      /flow_execution/,
    )
    const since = new Date().toISOString()
    const error = await refusal(ask(database, me, 'state_timing', { machine: 'bot', since, until: since }))
    expect(error.code).toBe('PT422')
  })
})

describe('the newest transitions', () => {
  test('come oldest first, with the cursor that goes on behind them', async () => {
    const me = owner()
    const since = new Date(Date.now() - 60_000).toISOString()
    const bot = await botIn(database.owner, 'joining', { owner_id: me.sub })
    type Recent = { events: { id: number; to_status: string }[]; next: string }
    const recent = await ask<Recent>(database, me, 'recent_changes', { since, max_rows: 3 })
    expect(recent.events).toHaveLength(3)
    expect(recent.events.map(({ id }) => id)).toEqual(
      recent.events.map(({ id }) => id).toSorted((a, b) => a - b),
    )
    await report(database.owner, bot, 'active')
    const { events } = await ask<Recent>(database, me, 'status_changes', { after: recent.next })
    expect(events.map(({ to_status }) => to_status)).toEqual(['awaiting_admission', 'active', 'running'])
    expect((await ask<Recent>(database, owner(), 'recent_changes', { since })).events).toEqual([])
  })
})

describe('stuck', () => {
  type Stuck = { id: string; kind: string; rule: string; words: string }
  const stuckOf = (reader: Reader) =>
    database.as(
      reader === 'secret' ? 'service_role' : 'authenticated',
      reader === 'secret' ? {} : reader,
      (sql) => sql<Stuck[]>`select * from public.stuck_runs`,
    )
  const change = (id: string, column: string, ago_s: number) =>
    database.superuser.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`
        update public.workflow_threads set ${sql(column)} = now() - make_interval(secs => ${ago_s}) where bot_id = ${id}`
    })

  test.each([
    ['deadline_at', 31, 'past_deadline'],
    ['launch_due_at', 61, 'start_unclaimed'],
    ['processing_due_at', 61, 'result_unclaimed'],
  ])('a bot whose %s passed %i s ago is %s', async (column, ago_s, rule) => {
    const me = owner()
    const bot = await requestBot(database.owner, { owner_id: me.sub })
    expect(await stuckOf(me)).toEqual([])
    await change(bot.bot_id, column, ago_s - 5)
    expect(await stuckOf(me)).toEqual([])
    await change(bot.bot_id, column, ago_s + 1)
    expect(await stuckOf(me)).toMatchObject([
      { id: bot.bot_id, kind: 'bot', rule, words: expect.any(String) },
    ])
    const { items } = await list(me, { stuck: true })
    expect(items).toMatchObject([{ id: bot.bot_id, stuck_rule: rule }])
    expect((await ask<Counts>(database, me, 'runs_counts', {})).stuck).toEqual({ n: 1, exact: true })
    const { matches } = await ask<{ matches: string[] }>(database, me, 'runs_get', {
      ids: [bot.bot_id],
      filter: { stuck: true },
    })
    expect(matches).toEqual([bot.bot_id])
    expect(await stuckOf(owner())).toEqual([])
    expect((await stuckOf(operator())).map(({ id }) => id)).toContain(bot.bot_id)
  })

  test('a bot in the room that is silent for two minutes is, until it is heard of again', async () => {
    const me = owner()
    const bot = await botIn(database.owner, 'active', { owner_id: me.sub })
    await change(bot.bot_id, 'joined_at', 600)
    await change(bot.bot_id, 'last_heartbeat_at', 121)
    expect(await stuckOf(me)).toMatchObject([{ rule: 'no_heartbeat' }])
    await rpc(database.owner, 'report_bot', {
      bot_id: bot.bot_id,
      token_hash: (await import('node:crypto')).createHash('sha256').update('token').digest('hex'),
      status: 'heartbeat',
    })
    expect(await stuckOf(me)).toEqual([])
  })

  test('a bot that was told to leave long ago is', async () => {
    const me = owner()
    const bot = await botIn(database.owner, 'stopping', { owner_id: me.sub })
    expect(await stuckOf(me)).toEqual([])
    await change(bot.bot_id, 'stop_requested_at', 91)
    expect(await stuckOf(me)).toMatchObject([{ rule: 'stop_ignored' }])
  })

  test('an execution that nobody claims is, and one whose prompt is slow by its own measure', async () => {
    const me = owner()
    const age = (id: string, change: Record<string, unknown>) =>
      database.superuser`update public.flow_executions set ${database.superuser(change)} where id = ${id}`
    const ago = (seconds: number) => new Date(Date.now() - seconds * 1000)
    const { execution, flow } = await running(database.owner, ['a', 'b', 'c'], { owner_id: me.sub })
    expect(await stuckOf(me)).toEqual([])
    await age(execution.id, { created_at: ago(61) })
    expect(await stuckOf(me)).toMatchObject([{ rule: 'prompt_unclaimed', kind: 'flow' }])
    const claim = (await claimExecution(database.owner)) as { id: string; lease_token: string }
    expect(claim.id).toBe(execution.id)
    expect(await stuckOf(me)).toEqual([])
    await storeResult(database.owner, claim, 0, { response: 'x', duration_ms: 10_000 })
    await age(execution.id, { progressed_at: ago(61), lease_expires_at: ago(-60) })
    expect(flow.id).toBeDefined()
    expect(await stuckOf(me)).toMatchObject([{ rule: 'slow_prompt' }])
    await database.superuser`
      update public.flow_prompt_results set duration_ms = 30000 where execution_id = ${execution.id}`
    expect(await stuckOf(me)).toEqual([])
    await age(execution.id, { progressed_at: ago(1000) })
    expect(await stuckOf(me)).toMatchObject([{ rule: 'past_deadline' }])
  })

  test('a workflow whose session is lost, or whose side effect only a person can tell, is', async () => {
    const me = owner()
    const { workflow_id, session_id, run_id } = await session(me.sub)
    expect(await stuckOf(me)).toEqual([])
    await database.superuser`
      update public.script_runs set lease_expires_at = now() - interval '121 s' where id = ${session_id}`
    expect((await stuckOf(me)).map(({ id, rule }) => `${id} ${rule}`).sort()).toEqual(
      [`${run_id} lease_lost`, `${workflow_id} session_lost`].sort(),
    )
    await database.superuser.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`update public.script_runs set lease_expires_at = now() + interval '60 s' where id = ${session_id}`
      await sql`
        insert into public.workflow_mutations (run_id, workflow_id, owner_id, tool, params, status, created_at)
        values (${run_id}, ${workflow_id}, ${me.sub}, 'Http.send', '{}', 'indeterminate', now())`
    })
    expect(await stuckOf(me)).toMatchObject([{ id: workflow_id, rule: 'mutation_waits' }])
  })

  test('a workflow with an error that nobody acknowledged for an hour is', async () => {
    const me = owner()
    const { workflow_id, run_id, lease_token } = await session(me.sub)
    const status = 'failed:internal'
    await rpc(database.owner, 'update_handler_run_status', { run_id, status, error: 'Ours.', lease_token })
    expect(await stuckOf(me)).toEqual([])
    await database.superuser`
      update public.workflow_messages set created_at = now() - interval '61 min' where workflow_id = ${workflow_id}`
    expect(await stuckOf(me)).toMatchObject([{ id: workflow_id, rule: 'error_waits' }])
  })

  test('every rule has words, and the counts tell them', async () => {
    const { stuck_rules } = await ask<Counts>(database, owner(), 'runs_counts', {})
    expect(stuck_rules.length).toBeGreaterThan(10)
    for (const { words } of stuck_rules) expect(words).toMatch(/\.$/)
  })
})

describe('with 120,000 runs', () => {
  const me = owner()
  let now: string
  beforeAll(async () => {
    await manyRuns(database.superuser, me.sub, { bots: 70_000, executions: 50_000 })
    await manyRuns(database.superuser, randomUUID(), { bots: 5000, executions: 5000 })
    now = new Date().toISOString()
  }, 120_000)

  const call = 'select public.runs_list($1::jsonb, $2, $3, $4)'
  const readers: [string, Reader][] = [
    ['its owner', me],
    ['an operator', operator()],
    ['a secret key', 'secret'],
  ]

  test.each(readers)('a page costs %s the same anywhere in the list', async (_who, reader) => {
    const deep = new Date(Date.now() - 40 * 86_400_000).toISOString()
    expect(await pagesOf(database, reader, call, [{}, null, null, 100])).toBeLessThan(3000)
    expect(await pagesOf(database, reader, call, [{}, deep, randomUUID(), 100])).toBeLessThan(3000)
    expect(await pagesOf(database, reader, call, [{ state: 'running' }, null, null, 100])).toBeLessThan(300)
  })

  test.each(readers)(
    'a rare or unknown filter reads a bounded part for %s, and says where to go on',
    async (_who, reader) => {
      const filters = [
        { code: 'RARE' },
        { code: 'NONE' },
        { search: 'zzz' },
        { search: 'abcdef0' },
        { ended_since: now },
      ]
      for (const filter of filters) {
        const pages = await pagesOf(database, reader, call, [filter, null, null, 50])
        expect(pages, JSON.stringify(filter)).toBeLessThan(20_000)
      }
    },
  )

  test('a rare filter finds all of it, page by page', async () => {
    const rows = await everyRow(database, me, { code: 'RARE' }, 200)
    expect(rows).toHaveLength(70)
  })

  test.each(readers)('counts are capped and say so to %s', async (_who, reader) => {
    const answer = await ask<Counts>(database, reader, 'runs_counts', { filter: {} })
    expect(count(answer, 'bot', 'completed')).toMatchObject({ n: 10_000, exact: false })
    expect(answer.exact).toBe(false)
    expect(await pagesOf(database, reader, 'select public.runs_counts($1::jsonb)', [{}])).toBeLessThan(5000)
  })

  test.each(readers)('deltas cost %s what they bring', async (_who, reader) => {
    const { items } = await list(reader, {}, 100)
    const ids = items.map(({ id }) => id)
    expect(await pagesOf(database, reader, 'select public.runs_get($1::text[])', [ids])).toBeLessThan(3000)
    const text = JSON.stringify(await ask(database, reader, 'runs_get', { ids }))
    expect(Buffer.byteLength(text)).toBeLessThan(64_000)
  })

  test('a page of 100 has at most 60 KB', async () => {
    const text = JSON.stringify(await list(me, { state: 'failed' }, 100))
    expect(Buffer.byteLength(text)).toBeLessThan(60_000)
  })
})
