import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WholeWorkflowRun, WorkflowRunList } from '../../src/contract/workflow_runs.ts'
import { Script, ScriptList, WorkflowMessageList } from '../../src/contract/workflow_texts.ts'
import { Workflow, WorkflowList } from '../../src/contract/workflows.ts'
import { type ClockedSession, openClock } from '../support/clock.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'
import {
  activeWorkflow,
  claimTask,
  config,
  draftWorkflow,
  failLogic,
  type Json,
  readyWorkflow,
  uncertainRun,
} from '../support/workflow_steps.ts'

let database: TestDatabase
let clock: ClockedSession
beforeAll(async () => {
  database = await createTestDatabase()
  clock = await openClock(database)
})
afterAll(async () => {
  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  await database.drop()
})

type Reader = { role: 'authenticated' | 'service_role'; claims: { sub?: string; [claim: string]: unknown } }
const as = (reader: Reader, name: string, args: Record<string, unknown>): Promise<Json> =>
  database.as(reader.role, reader.claims, (sql) => rpc<Json>(sql, name, args))
const user = (sub: string): Reader => ({ role: 'authenticated', claims: { sub } })
const operator: Reader = {
  role: 'authenticated',
  claims: { sub: randomUUID(), app_metadata: { rollcall: 'operator' } },
}
const secret: Reader = { role: 'service_role', claims: {} }

/** A workflow with something of everything: an uncertain run, messages, a secret, two versions. */
async function rich() {
  await clock.advance(60)
  const workflow = await activeWorkflow(clock.sql, { time_zone: 'Europe/Berlin' })
  const { workflow_id, owner_id } = workflow
  await rpc(clock.sql, 'set_workflow_secret', { workflow_id, name: 'TOKEN', value: 'very secret' })
  await rpc(clock.sql, 'save_script', {
    workflow_id,
    owner_id,
    code: 'workflow = 2',
    config,
    comment: 'second',
  })
  const uncertain = await uncertainRun(clock.sql, workflow)
  return { ...workflow, ...uncertain }
}

const byName = (one: { handler_name: string }, other: { handler_name: string }) =>
  one.handler_name.localeCompare(other.handler_name)

test("each read gives its owner's rows to the owner, operators and secret keys, and nothing to anybody else", async () => {
  const { workflow_id, owner_id, script_id, session_id } = await rich()
  const stranger = user(randomUUID())
  for (const reader of [user(owner_id), operator, secret]) {
    const owned = { owner_id: reader === secret ? owner_id : null }
    expect(Workflow.parse(await as(reader, 'get_workflow', { workflow_id }))).toMatchObject({
      ...{ id: workflow_id, owner_id, state: 'error', secret_names: ['TOKEN'], time_zone: 'Europe/Berlin' },
      ...{
        active_script: { id: script_id, version: '1.0' },
        unresolved_mutation: { status: 'indeterminate' },
      },
    })
    const list = WorkflowList.parse(await as(reader, 'list_workflows', { max_rows: 200, ...owned }))
    expect(list.items.map(({ id }) => id)).toContain(workflow_id)
    const scripts = ScriptList.parse(await as(reader, 'list_workflow_scripts', { workflow_id }))
    expect(scripts.items).toMatchObject([{ version: '2.0', comment: 'second' }, { version: '1.0' }])
    expect(Script.parse(await as(reader, 'get_workflow_script', { script_id }))).toMatchObject({ config })
    const messages = WorkflowMessageList.parse(await as(reader, 'list_workflow_messages', { workflow_id }))
    expect(messages.items).toMatchObject([{ role: 'event', type: 'error', content: 'timed out' }])
    const runs = WorkflowRunList.parse(await as(reader, 'list_workflow_runs', { workflow_id }))
    // The clock stands still: both began at once.
    for (const { handler_runs } of runs.items) handler_runs.sort(byName)
    expect(runs.items).toMatchObject([
      {
        ...{
          id: session_id,
          script_version: '1.0',
          trigger: 'schedule',
          status: 'failed',
          result: 'suspended',
        },
        handler_runs: [
          { handler_name: 'feed', status: 'committed', phase: 'committed' },
          { handler_name: 'send', status: 'paused:reconciliation', phase: 'mutating' },
        ],
      },
    ])
    const run = WholeWorkflowRun.parse(await as(reader, 'get_workflow_run', { session_id, workflow_id }))
    expect(run.handler_runs.sort(byName)).toMatchObject([
      { handler_name: 'feed', mutation: null, events: [{ topic: 'items', message_id: 'a' }] },
      {
        handler_name: 'send',
        mutation: { tool: 'Http.send', status: 'indeterminate', params: { url: 'https://x.test' } },
        events: [{ topic: 'items', message_id: 'a', status: 'reserved', attempt_number: 1 }],
      },
    ])
    for (const answer of [list, scripts, messages, runs, run])
      expect(JSON.stringify(answer)).not.toMatch(/very secret|lease_token/)
  }
  for (const [name, args, answer] of [
    ['get_workflow', { workflow_id }, null],
    ['get_workflow_script', { script_id }, null],
    ['get_workflow_run', { session_id, workflow_id }, null],
    ['list_workflows', {}, { items: [], next_cursor: null }],
    ['list_workflow_scripts', { workflow_id }, 'workflow_not_found'],
    ['list_workflow_messages', { workflow_id }, 'workflow_not_found'],
    ['list_workflow_runs', { workflow_id }, 'workflow_not_found'],
  ] as const) {
    const asked = as(stranger, name, args)
    if (typeof answer === 'string')
      expect(await refusal(asked), name).toMatchObject({ code: 'PT404', message: answer })
    else expect(await asked, name).toEqual(answer)
    // A secret key that names somebody else's finds as little.
    const elsewhere = as(secret, name, { ...args, owner_id: randomUUID() })
    if (typeof answer === 'string') expect((await refusal(elsewhere)).message, name).toBe(answer)
    else expect(await elsewhere, name).toEqual(answer)
    await expect(
      database.as('anon', {}, (sql) => rpc(sql, name, args)),
      name,
    ).rejects.toThrow(/permission denied/)
  }
})

test("rows of every table of automations are their owner's, and operators'", async () => {
  const { owner_id } = await rich()
  const failed = await activeWorkflow(clock.sql, { owner_id })
  await failLogic(clock.sql, failed)
  await claimTask(clock.sql)
  await rpc(clock.sql, 'create_workflow', { owner_id, message: 'Hello' })
  const tables = [
    ...[
      'workflows',
      'workflow_scripts',
      'workflow_chats',
      'workflow_messages',
      'workflow_notifications',
      'script_runs',
    ],
    ...[
      'handler_runs',
      'workflow_topics',
      'workflow_events',
      'workflow_mutations',
      'handler_states',
      'producer_schedules',
    ],
  ]
  for (const columns of [...tables.map((table) => [table, '*']), ['workflow_tasks', 'id, messages']]) {
    const rows = ({ role, claims }: Reader) =>
      database.as(role, claims, (sql) => sql.unsafe(`select ${columns[1]} from public.${columns[0]}`))
    expect((await rows(user(owner_id))).length, columns[0]).toBeGreaterThan(0)
    expect(await rows(user(randomUUID())), columns[0]).toHaveLength(0)
    expect((await rows(operator)).length, columns[0]).toBeGreaterThan(0)
  }
  await rpc(clock.sql, 'activate_workflow', { workflow_id: failed.workflow_id })
  await rpc(clock.sql, 'pause_workflow', { workflow_id: failed.workflow_id })
})

describe('a secret', () => {
  test('is written, named and taken away, and read by no API role', async () => {
    const { workflow_id, owner_id } = await readyWorkflow(clock.sql)
    const set = (name: string | null, value: string | null) =>
      rpc<Json>(clock.sql, 'set_workflow_secret', { workflow_id, name, value, owner_id })
    expect(await set('B', 'two')).toMatchObject({ ok: true, changed: true, secret_names: ['B'] })
    expect(await set('A', 'one')).toMatchObject({ changed: true, secret_names: ['A', 'B'] })
    expect(await set('A', 'one')).toMatchObject({ changed: false, result: 'unchanged' })
    expect(await set('A', 'uno')).toMatchObject({ changed: true })
    expect(await set('B', null)).toMatchObject({ changed: true, secret_names: ['A'] })
    expect(await set('B', null)).toMatchObject({ changed: false, secret_names: ['A'] })
    for (const [name, value] of [
      ['', 'x'],
      ['1A', 'x'],
      ['A-B', 'x'],
      [null, 'x'],
      ['A', ''],
      ['A', 'x'.repeat(8193)],
    ] as const)
      expect(await refusal(set(name, value)), `${name}`).toMatchObject({ code: 'PT422' })
    for (const { role, claims } of [user(owner_id), operator, secret]) {
      for (const columns of ['vault_id', '*', 'name, vault_id'])
        await expect(
          database.as(role, claims, (sql) => sql.unsafe(`select ${columns} from private.workflow_secrets`)),
        ).rejects.toThrow(/permission denied/)
    }
    const names = ({ role, claims }: Reader) =>
      database.as(
        role,
        claims,
        (sql) => sql`select name from private.workflow_secrets where workflow_id = ${workflow_id}`,
      )
    expect(await names(user(owner_id))).toEqual([{ name: 'A' }])
    expect(await names(user(randomUUID()))).toEqual([])
  })

  test('lies in Vault, and goes with its workflow', async () => {
    const owner_id = randomUUID()
    const { workflow_id } = await readyWorkflow(clock.sql, { owner_id })
    const vault = () => clock.sql`
      select decrypted_secret as value from vault.decrypted_secrets where name like ${`rollcall/${workflow_id}/%`} order by name`
    const set = (name: string, value: string | null) =>
      rpc(clock.sql, 'set_workflow_secret', { workflow_id, name, value })
    await set('A', 'one')
    await set('B', 'two')
    await set('A', 'three')
    expect(await vault()).toEqual([{ value: 'three' }, { value: 'two' }])
    await set('B', null)
    expect(await vault()).toEqual([{ value: 'three' }])
    await rpc(clock.sql, 'lifecycle.forget_owner', { owner_id })
    expect(await vault()).toEqual([])
  })

  test('is handed to the holder of the live lease of a session alone', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { workflow_id } = workflow
    await rpc(clock.sql, 'set_workflow_secret', { workflow_id, name: 'A', value: 'one' })
    const other = await readyWorkflow(clock.sql)
    await rpc(clock.sql, 'set_workflow_secret', { workflow_id: other.workflow_id, name: 'B', value: 'two' })
    const { session_id, lease_token } = await rpc<Json>(clock.sql, 'claim_workflow_session', { worker: 'w' })
    const read = (args: Record<string, unknown>) => rpc<Json>(clock.sql, 'read_workflow_secrets', args)
    expect(await read({ session_id, lease_token })).toEqual({ A: 'one' })
    const stale = { code: 'PT409', message: 'stale_lease' }
    for (const args of [
      {},
      { session_id },
      { session_id, lease_token: randomUUID() },
      { session_id: randomUUID(), lease_token },
    ])
      expect(await refusal(read(args))).toMatchObject(stale)
    await clock.advance(60)
    expect(await refusal(read({ session_id, lease_token }))).toMatchObject(stale)
    await rpc(clock.sql, 'renew_session', { session_id, lease_token })
    expect(await read({ session_id, lease_token })).toEqual({ A: 'one' })
    await rpc(clock.sql, 'finish_session', { session_id, lease_token })
    expect(await refusal(read({ session_id, lease_token }))).toMatchObject(stale)
    await rpc(clock.sql, 'pause_workflow', { workflow_id })
  })

  test('is handed to the present attempt to ask after a side effect alone', async () => {
    const workflow = await activeWorkflow(clock.sql)
    const { workflow_id } = workflow
    await rpc(clock.sql, 'set_workflow_secret', { workflow_id, name: 'A', value: 'one' })
    const { mutation_id } = await uncertainRun(clock.sql, workflow, {
      reconcile: { url: 'https://x.test/asked' },
    })
    await rpc(clock.sql, 'resolve_mutation', { mutation_id, how: 'ask_again' })
    const read = (attempt: number | null) =>
      rpc<Json>(clock.sql, 'read_workflow_secrets', { mutation_id, attempt })
    const stale = { code: 'PT409', message: 'stale_lease' }
    for (const attempt of [0, 1, null]) expect(await refusal(read(attempt))).toMatchObject(stale)
    const { attempt } = await rpc<Json>(clock.sql, 'claim_reconcile', { worker: 'w' })
    expect(await read(attempt)).toEqual({ A: 'one' })
    for (const wrong of [0, attempt + 1, null]) expect(await refusal(read(wrong))).toMatchObject(stale)
    await rpc(clock.sql, 'record_reconcile', { mutation_id, attempt, outcome: 'applied', result: {} })
    expect(await refusal(read(attempt))).toMatchObject(stale)
    await rpc(clock.sql, 'pause_workflow', { workflow_id })
  })
})

test('lists go on page by page, each row once, newest first', async () => {
  const owner_id = randomUUID()
  const made: string[] = []
  for (let i = 0; i < 5; i++) {
    await clock.advance(1)
    made.unshift((await readyWorkflow(clock.sql, { owner_id })).workflow_id)
  }
  // Two of one moment.
  made.unshift(
    ...[await readyWorkflow(clock.sql, { owner_id }), await readyWorkflow(clock.sql, { owner_id })].map(
      ({ workflow_id }) => workflow_id,
    ),
  )
  const pages = async (name: string, args: Record<string, unknown>) => {
    const seen: string[] = []
    let cursor: string | null = null
    do {
      const page: Json = await as(secret, name, { ...args, max_rows: 2, cursor })
      expect(page.items.length).toBeLessThanOrEqual(2)
      seen.push(...page.items.map(({ id }: Json) => id))
      cursor = page.next_cursor
    } while (cursor !== null)
    return seen
  }
  const seen = await pages('list_workflows', { owner_id })
  expect(seen.toSorted()).toEqual(made.toSorted())
  expect(seen.slice(3)).toEqual(made.slice(3))
  expect(await pages('list_workflows', { owner_id, state: 'ready' })).toEqual(seen)
  expect(await pages('list_workflows', { owner_id, state: 'active' })).toEqual([])

  const { workflow_id } = await draftWorkflow(clock.sql)
  for (let i = 0; i < 4; i++) {
    await clock.advance(1)
    await rpc(clock.sql, 'add_workflow_message', { workflow_id, content: `${i}` })
  }
  expect(await pages('list_workflow_messages', { workflow_id })).toHaveLength(5)

  const busy = await readyWorkflow(clock.sql)
  for (let i = 0; i < 3; i++) {
    await clock.advance(1)
    await rpc(clock.sql, 'request_run', { workflow_id: busy.workflow_id })
    const { session_id, lease_token } = await rpc<Json>(clock.sql, 'claim_workflow_session', { worker: 'w' })
    await rpc(clock.sql, 'finish_session', { session_id, lease_token })
  }
  expect(new Set(await pages('list_workflow_runs', { workflow_id: busy.workflow_id })).size).toBe(3)
  for (const name of ['list_workflows', 'list_workflow_messages', 'list_workflow_runs']) {
    const place = name === 'list_workflows' ? {} : { workflow_id }
    for (const bad of [{ max_rows: 0 }, { max_rows: 201 }, { max_rows: null }, { cursor: 'x' }])
      expect(await refusal(as(secret, name, { ...place, ...bad })), name).toMatchObject({ code: 'PT422' })
  }
  expect(await refusal(as(secret, 'list_workflows', { state: 'happy' }))).toMatchObject({ code: 'PT422' })
})

test('webhooks about sessions, runs and side effects show their workflow', async () => {
  const owner_id = randomUUID()
  await rpc(clock.sql, 'create_webhook_endpoint', { owner_id, url: 'https://hooks.test/x', events: ['*'] })
  const workflow = await activeWorkflow(clock.sql, { owner_id })
  await uncertainRun(clock.sql, workflow)
  const types = new Set<string>()
  for (let i = 0; i < 40; i++) {
    await clock.advance(1)
    const delivery = await rpc<Json>(clock.sql, 'claim_delivery', { worker: 'w' })
    if (delivery === null) break
    const payload = JSON.parse(delivery.body)
    types.add(payload.type)
    expect(payload.data.workflow, payload.type).toMatchObject({ id: workflow.workflow_id, title: 'Orders' })
    const { delivery_id, lease_token } = delivery
    await rpc(clock.sql, 'record_delivery', { delivery_id, lease_token, http_status: 200 })
  }
  expect([...types].toSorted()).toEqual([
    ...[
      'handler_run.active',
      'handler_run.committed',
      'handler_run.paused:reconciliation',
      'mutation.in_flight',
    ],
    ...[
      'mutation.indeterminate',
      'script_run.failed',
      'script_run.running',
      'workflow.active',
      'workflow.draft',
    ],
  ])
})
