import type postgres from 'postgres'
import { afterAll, beforeAll, expect, vi } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { rpc } from '../support/rpc.ts'
import { config } from '../support/workflow_steps.ts'
import { faultTest, sized } from './form.ts'
import { emitting, sending, setting, uncertain } from './races.ts'
import { type Json, openWorld, type World } from './world.ts'

let database: TestDatabase
let world: World
let connections: postgres.Sql[]
beforeAll(async () => {
  database = await createTestDatabase()
  world = await openWorld(database, 1)
  connections = [0, 1, 2].map(() => database.connect('postgres', { max: 1 }))
})
afterAll(() => database?.drop())

/** The order in which every writer locks, with the rows of a workflow at each place. */
const LEVELS = ['workflows', 'script_runs', 'handler_runs', 'workflow_mutations', 'workflow_events'] as const
const key = (table: string) => (table === 'workflows' ? 'id' : 'workflow_id')

const situations = {
  'a side effect is under way': (world: World) => sending(setting(world)),
  'a person has to say': async (world: World) => {
    const held = await uncertain(setting(world), { url: 'https://x.test' })
    await database.owner`update public.workflow_mutations set status = 'indeterminate' where id = ${held.mutation_id}`
    return held
  },
  'nobody knows of a side effect': (world: World) => uncertain(setting(world), { url: 'https://x.test' }),
  'a run is about to commit': (world: World) => emitting(setting(world)),
}

function calls({ workflow_id, session_id, lease_token, run_id, mutation_id }: Json): [string, Json][] {
  const run = { run_id, lease_token }
  const mutation = { mutation_id, lease_token }
  return [
    ['renew_session', { session_id, lease_token }],
    ['yield_session', { session_id, lease_token }],
    ['finish_session', { session_id, lease_token }],
    ['create_handler_run', { session_id, lease_token }],
    ['peek_events', { ...run, topic: 'items' }],
    ['advance_handler_run', { ...run, phase: 'mutated' }],
    ['begin_mutation', { ...run, tool: 'Http.send', params: {} }],
    ['apply_mutation', { ...mutation, result: {} }],
    ['fail_mutation', { ...mutation, error: '422' }],
    ['update_handler_run_status', { ...run, status: 'crashed' }],
    [
      'commit_consumer',
      { ...run, state: {}, publications: [{ topic: 'items', message_id: 'a', payload: {} }] },
    ],
    ['create_retry_run', { run_id }],
    ['record_reconcile', { mutation_id, attempt: 0, outcome: 'failed' }],
    ...['applied', 'skipped', 'failed', 'ask_again'].map((how): [string, Json] => [
      'resolve_mutation',
      { mutation_id, how },
    ]),
    ...['activate', 'pause', 'resume', 'archive', 'unarchive', 'retry'].map((verb): [string, Json] => [
      `${verb}_workflow`,
      { workflow_id },
    ]),
    ['request_run', { workflow_id }],
    ['save_script', { workflow_id, owner_id: null, code: 'workflow = {}', config }],
    ['add_workflow_message', { workflow_id, content: 'More.' }],
    ['claim_workflow_session', { worker: 'w' }],
    ['claim_reconcile', { worker: 'w' }],
    ['claim_task', { worker: 'a', has_agent: true }],
    ['lifecycle.sweep', {}],
  ]
}

faultTest(
  'whoever waits for a lock has none behind it in the order workflow, session, run, mutation, events',
  60,
  async () => {
    const [holder, caller, prober] = connections as [postgres.Sql, postgres.Sql, postgres.Sql]
    const [me] = await caller`select pg_backend_pid() as pid`
    let waits = 0
    const wrong: string[] = []
    for (const [situation, bring] of Object.entries(situations).slice(0, sized(2, 4))) {
      await world.reset()
      const held = await bring(world)
      world.advance(3_600)
      for (const [name, args] of calls(held)) {
        for (const [place, table] of LEVELS.entries()) {
          const rows = `from public.${table} where ${key(table)} = '${held.workflow_id}' for no key update`
          let done = false
          let calling: Promise<unknown> | undefined
          await holder.begin(async (tx) => {
            await tx.unsafe(`select ${rows}`)
            calling = caller
              .begin(async (call) => {
                await call`select set_config('rollcall.now', ${world.now().toISOString()}, true)`
                await rpc(call, name, args)
                throw new Error('undone')
              })
              // Refused or not, all of it is undone for the next one.
              .catch((error: Error) => error.message)
              .finally(() => {
                done = true
              })
            const is_waiting = await vi.waitUntil(
              async () => {
                const [row] = await prober`select cardinality(pg_blocking_pids(${me?.pid})) > 0 as waits`
                return row?.waits ? 'waits' : done && 'done'
              },
              { interval: 1, timeout: 5_000 },
            )
            if (is_waiting === 'done') return
            waits++
            for (const behind of LEVELS.slice(place + 1)) {
              await prober
                .unsafe(
                  `select from public.${behind} where ${key(behind)} = '${held.workflow_id}' for no key update nowait`,
                )
                .catch((error: Error) =>
                  wrong.push(`${situation}: ${name} waits for ${table} and has ${behind}: ${error.message}`),
                )
            }
          })
          expect(await calling, name).not.toMatch(/deadlock|does not exist|syntax/)
        }
      }
    }
    expect(wrong).toEqual([])
    console.log(`lock order: ${waits} real waits`)
    expect(waits).toBeGreaterThan(100)
  },
)
