import type postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { random } from '../support/random.ts'
import { rpc } from '../support/rpc.ts'
import { activeWorkflow, config, type Json, type Workflow } from '../support/workflow_steps.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

/** Connections of people, of workers of sessions and of workers with an agent. */
const PEOPLE = 3
const WORKERS = 3
const AGENTS = 2
const WORKFLOWS = 4
/** How often each person does something; the others go on until all have. */
const STEPS = 150
let is_over = false

const refusals = new Map<string, number>()
/** Whatever is refused is refused in words: any other error is one of ours. */
async function attempt(sql: postgres.Sql, name: string, args: Record<string, unknown>): Promise<Json> {
  try {
    return await rpc<Json>(sql, name, args)
  } catch (error) {
    const { code, message } = error as postgres.PostgresError
    if (!/^PT4\d\d$/.test(code)) throw error
    refusals.set(message, 1 + (refusals.get(message) ?? 0))
    return null
  }
}

async function person(sql: postgres.Sql, workflows: Workflow[], dice: () => number): Promise<void> {
  const pick = <T>(from: readonly T[]) => from[Math.floor(dice() * from.length)] as T
  for (let step = 0; step < STEPS; step++) {
    const { workflow_id, owner_id } = pick(workflows)
    const verb = pick([
      ...['activate_workflow', 'activate_workflow', 'pause_workflow', 'resume_workflow', 'retry_workflow'],
      ...['archive_workflow', 'unarchive_workflow', 'request_run', 'save_script', 'add_workflow_message'],
      ...['resolve_mutation', 'resolve_mutation', 'resolve_mutation', 'acknowledge_error', 'retry_workflow'],
      ...[
        'activate_workflow',
        'unarchive_workflow',
        'activate_workflow',
        'resume_workflow',
        'retry_workflow',
      ],
    ])
    if (verb === 'save_script') {
      await attempt(sql, verb, { workflow_id, owner_id, code: `workflow = ${dice()}`, config })
    } else if (verb === 'add_workflow_message') {
      await attempt(sql, verb, { workflow_id, content: 'More of it.' })
    } else if (verb === 'resolve_mutation') {
      const [mutation] = await sql`
        select id from public.workflow_mutations
        where workflow_id = ${workflow_id} and status in ('needs_reconcile', 'indeterminate') limit 1`
      if (mutation === undefined) continue
      const how = pick(['failed', 'skipped', 'applied', 'ask_again'])
      await attempt(sql, verb, { mutation_id: mutation.id, how })
    } else if (verb === 'acknowledge_error') {
      const [event] = await sql`
        select id from public.workflow_messages where workflow_id = ${workflow_id} and type = 'error' limit 1`
      if (event !== undefined) await attempt(sql, verb, { workflow_id, event_id: event.id })
    } else {
      await attempt(sql, verb, { workflow_id })
    }
  }
}

async function worker(sql: postgres.Sql, dice: () => number): Promise<void> {
  const pick = <T>(from: readonly T[]) => from[Math.floor(dice() * from.length)] as T
  const bad_ends = [
    'paused:transient',
    'paused:approval',
    'failed:logic',
    'failed:internal',
    'crashed',
    'paused:reconciliation',
  ]
  while (!is_over) {
    const session = await attempt(sql, 'claim_workflow_session', { worker: 'w' })
    if (session === null) {
      await sql`select lifecycle.sweep()`
      continue
    }
    const { session_id, lease_token } = session
    const call = (name: string, args = {}) => attempt(sql, name, { ...args, lease_token })
    let run: Json = session.run
    let has_ended = false
    while (!has_ended) {
      run ??= (await call('create_handler_run', { session_id }))?.run ?? null
      if (run === null) break
      const { run_id } = run
      const fails = async () => {
        if (dice() > 0.1) return false
        if (dice() < 0.2) {
          // Killed: the sweep finds its session.
          await sql`update public.script_runs set lease_expires_at = now() - interval '1 s' where id = ${session_id}`
          has_ended = true
          return true
        }
        has_ended = (await call('update_handler_run_status', { run_id, status: pick(bad_ends) }))?.ok === true
        return has_ended
      }
      if (run.handler_type === 'producer') {
        await call('advance_handler_run', { run_id, phase: 'executing' })
        if (await fails()) break
        const publications = [{ topic: 'items', message_id: `${Math.floor(dice() * 50)}`, payload: {} }]
        await call('commit_producer', { run_id, state: {}, publications, next_run_at: new Date() })
      } else {
        if (run.phase === 'pending') {
          await call('advance_handler_run', { run_id, phase: 'preparing' })
          const { events } = await call('peek_events', { run_id, topic: 'items', max_rows: 2 })
          const ids = events.map(({ message_id }: Json) => message_id)
          const reservations = ids.length > 0 ? [{ topic: 'items', ids }] : []
          await call('advance_handler_run', {
            run_id,
            phase: 'prepared',
            payload: { result: { ids }, reservations, wake_at: null },
          })
          if (await fails()) break
          if (ids.length > 0) {
            await call('advance_handler_run', { run_id, phase: 'mutating' })
            const reconcile = dice() < 0.5 ? { url: 'https://x.test' } : null
            const { mutation_id } = await call('begin_mutation', {
              run_id,
              tool: 'Http.send',
              params: {},
              reconcile,
            })
            if (await fails()) break
            await call('apply_mutation', { mutation_id, result: {} })
          }
          await call('advance_handler_run', { run_id, phase: 'emitting' })
        }
        if (await fails()) break
        await call('commit_consumer', { run_id, state: {}, publications: [] })
      }
      run = null
    }
    if (!has_ended) await call('finish_session', { session_id })
    // Nobody waits for a back-off here.
    await sql`
      with waiting as (
        update public.workflows set backoff_until = null where backoff_until is not null returning id
      )
      select private.refresh_due(id) from waiting`
  }
}

async function agent(sql: postgres.Sql, dice: () => number): Promise<void> {
  while (!is_over) {
    const task = await attempt(sql, 'claim_task', { worker: 'a', has_agent: dice() > 0.05 })
    if (task === null) continue
    const call = (name: string, args = {}) =>
      attempt(sql, name, { task_id: task.task_id, lease_token: task.lease_token, ...args })
    await call('store_task_step', { messages: [...task.messages, { role: 'assistant', content: 'Hm.' }] })
    const die = dice()
    const script = { code: `workflow = ${dice()}`, config }
    if (die < 0.1) await call('fail_task', { error: 'No.', error_code: 'AGENT_TIMEOUT' })
    else if (die < 0.2) await call('yield_task')
    else if (task.type === 'maintainer' && die < 0.4)
      await call('fail_maintenance', { code: 'MAINTENANCE_FAILED', error: 'No.' })
    else if (task.type === 'maintainer') await call('apply_fix', { ...script, comment: 'Better.' })
    else if (die < 0.5) await call('wait_task', { reply: 'What?' })
    else await call('complete_plan', { ...script, title: 'T', summary: 'S' })
  }
}

test('people, workers and agents at once, at random: refused in words or done whole, and every invariant holds', async () => {
  const workflows: Workflow[] = []
  for (let i = 0; i < WORKFLOWS; i++) workflows.push(await activeWorkflow(database.owner))
  const open = () => database.connect('postgres', { max: 1 })
  const each = (n: number, role: (sql: postgres.Sql, dice: () => number) => Promise<void>, name: string) =>
    Array.from({ length: n }, (_, i) => role(open(), random(`${name} ${i}`)))
  const people = Promise.all(each(PEOPLE, (sql, dice) => person(sql, workflows, dice), 'person')).finally(
    () => {
      is_over = true
    },
  )
  await Promise.all([people, ...each(WORKERS, worker, 'worker'), ...each(AGENTS, agent, 'agent')])
  // Sessions of killed workers that nobody swept yet.
  await database.owner`select lifecycle.sweep()`

  expect(await database.superuser`select * from public.invariant_violations`).toEqual([])
  const [seen] = await database.superuser`
    select (select count(*)::int from public.handler_runs) as runs, (select count(*)::int from public.workflow_tasks) as tasks,
      (select count(*)::int from public.workflow_mutations) as mutations`
  // It has come around: else the dice prove nothing.
  expect(seen?.runs).toBeGreaterThan(20)
  expect(seen?.tasks).toBeGreaterThan(5)
  expect(seen?.mutations).toBeGreaterThan(5)
  expect(refusals.has('illegal_transition')).toBe(true)
  // A run that was repaired was repaired once.
  const twice = await database.superuser`
    select handler_run_id from public.workflow_tasks where handler_run_id is not null group by 1 having count(*) > 1`
  expect(twice).toEqual([])
  // And no event has two side effects of which nobody said that the one before did not happen.
  const doubled = await database.superuser`
    select m.workflow_id, i.id from public.workflow_mutations m
    join public.handler_runs r on r.id = m.run_id, jsonb_array_elements_text(r.prepare_result -> 'ids') i (id)
    where m.status <> 'failed' group by 1, 2 having count(*) > 1`
  expect(doubled).toEqual([])
})
