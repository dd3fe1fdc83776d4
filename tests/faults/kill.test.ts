import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, vi } from 'vitest'
import { pushMigrations } from '../../src/local/migrations.ts'
import { installPlatform } from '../../src/local/platform.ts'
import { type Postgres, startPostgres } from '../../src/local/postgres.ts'
import { report, requestBot } from '../support/bots.ts'
import { rpc } from '../support/rpc.ts'
import { config } from '../support/workflow_steps.ts'
import { faultTest, form, sized } from './form.ts'
import type { Json } from './world.ts'

// A cluster of its own: it is killed.
const dir = mkdtempSync(join(tmpdir(), 'rollcall-kill-'))
const PLAYERS = { bots: 4, executions: 3, automations: 3 }
let cluster: Postgres

beforeAll(async () => {
  if (form === 'soak') return
  cluster = await startPostgres({ dir, port: 0 })
  await installPlatform(cluster.url('supabase_admin'))
  await pushMigrations(cluster.url('postgres'))
})
afterAll(async () => {
  await cluster?.stop()
  rmSync(dir, { recursive: true, force: true })
})

faultTest(
  'Postgres killed under load loses nothing that it acknowledged, and nothing illegal appears',
  120,
  async () => {
    const sql = postgres(cluster.url('postgres'), {
      max: 10,
      onnotice: () => {},
      connect_timeout: 2,
      max_lifetime: 60,
      backoff: () => 0.1,
    })
    /** The moves of which somebody was told. */
    const acknowledged = new Set<string>()
    const note = (machine: string, subject_id: string, status: string) =>
      acknowledged.add(`${machine} ${subject_id} ${status}`)
    let is_over = false
    let lost_answers = 0
    const lives = { bots: 0, executions: 0, automations: 0 }

    /** The same request until it is answered; a refusal of the database is an answer, too. */
    async function insist<T>(work: () => Promise<T>): Promise<T> {
      const give_up = Date.now() + 60_000
      for (;;) {
        try {
          return await work()
        } catch (error) {
          if (error instanceof postgres.PostgresError && error.code.startsWith('PT')) throw error
          if (Date.now() > give_up) throw error
          lost_answers++
          await pause(50)
        }
      }
    }
    const call = (name: string, args: Record<string, unknown>) => insist(() => rpc<Json>(sql, name, args))

    async function bot(n: number): Promise<void> {
      const key = randomUUID()
      const made = await insist(() =>
        requestBot(sql, {
          owner_id: randomUUID(),
          native_meeting_id: key,
          idempotency_key: key,
          launch: false,
        }),
      )
      note('bot', made.bot_id, 'pending')
      const last = n % 2 ? 'completed' : 'failed'
      for (const status of ['joining', 'awaiting_admission', 'active', last]) {
        const answer = await insist(() => report(sql, made, status, { event_id: status }))
        expect(answer.ok, `${made.bot_id}: ${status}`).toBe(true)
        note('meeting', made.bot_id, answer.meeting_status)
        note('bot', made.bot_id, answer.bot_status)
      }
      expect(await insist(() => report(sql, made, last, { event_id: last }))).toMatchObject({
        changed: false,
      })
      lives.bots++
    }

    async function execution(): Promise<void> {
      const owner_id = randomUUID()
      // Repeated, a flow is made twice: only the second is used.
      const flow = await call('create_flow', {
        owner_id,
        name: 'Routine',
        prompts: ['One?', 'Two?', 'Three?'],
      })
      const { id } = await call('create_execution', { flow_id: flow.id, idempotency_key: owner_id })
      note('flow_execution', id, 'running')
      lives.executions++
    }

    /** A worker that takes whatever is due; what it loses sight of, another one claims after the lease. */
    async function promptWorker(): Promise<void> {
      const claim = await call('claim_execution', { worker: 'w' })
      if (claim === null) return void (await pause(5))
      for (let index = claim.current_prompt_index; index < claim.total_prompts; index++) {
        const { id, lease_token } = claim
        const prompt_result = { response: `Answer ${index}.` }
        const answer = await call('update_execution_progress', {
          id,
          lease_token,
          prompt_index: index,
          prompt_result,
        })
        if (answer.ok !== true) return
        note('flow_execution', id, answer.status)
        if (answer.current_prompt_index !== index + 1)
          throw new Error(`${id} is at ${answer.current_prompt_index}`)
      }
    }

    async function automation(): Promise<void> {
      const owner_id = randomUUID()
      const made = { owner_id, title: 'Orders', code: 'workflow = {}', config, idempotency_key: owner_id }
      const { workflow_id } = await call('create_workflow', made)
      note('workflow', workflow_id, 'draft')
      note('workflow', workflow_id, (await call('activate_workflow', { workflow_id })).status)
      lives.automations++
    }

    async function scriptWorker(): Promise<void> {
      const session = await call('claim_workflow_session', { worker: 'w' })
      if (session === null) return void (await pause(5))
      const { session_id, lease_token } = session
      note('script_run', session_id, 'running')
      const held = (name: string, args: Record<string, unknown>) => call(name, { ...args, lease_token })
      try {
        for (;;) {
          const { run } = await held('create_handler_run', { session_id })
          if (run === null) break
          const { run_id } = run
          note('handler_run', run_id, 'active')
          if (run.handler_type === 'producer') {
            await held('advance_handler_run', { run_id, phase: 'executing' })
            const publications = [{ topic: 'items', message_id: 'a', payload: {} }]
            const next_run_at = new Date(Date.now() + 3_600_000)
            await held('commit_producer', { run_id, state: {}, publications, next_run_at })
          } else {
            await held('advance_handler_run', { run_id, phase: 'preparing' })
            const { events } = await held('peek_events', { run_id, topic: 'items' })
            const ids = events.map(({ message_id }: Json) => message_id)
            const reservations = ids.length > 0 ? [{ topic: 'items', ids }] : []
            await held('advance_handler_run', {
              run_id,
              phase: 'prepared',
              payload: { result: {}, reservations },
            })
            if (ids.length > 0) {
              await held('advance_handler_run', { run_id, phase: 'mutating' })
              const mutation_id = randomUUID()
              await held('begin_mutation', { run_id, tool: 'Http.send', params: {}, mutation_id })
              note('mutation', mutation_id, 'in_flight')
              await held('apply_mutation', { mutation_id, result: { of: mutation_id } })
              note('mutation', mutation_id, 'applied')
            }
            await held('advance_handler_run', { run_id, phase: 'emitting' })
            await held('commit_consumer', { run_id, state: {}, publications: [] })
          }
          note('handler_run', run_id, 'committed')
        }
        await held('finish_session', { session_id })
        note('script_run', session_id, 'success')
      } catch (error) {
        // The claim was made, its answer lost, and the sweep was there first.
        if ((error as Error).message !== 'stale_lease') throw error
      }
    }

    const forever = async (work: (n: number) => Promise<void>) => {
      for (let n = 0; !is_over; n++) await work(n)
    }
    const players = [
      ...Array.from({ length: PLAYERS.bots }, () => forever(bot)),
      ...Array.from({ length: PLAYERS.executions }, (_, i) => forever(i === 0 ? execution : promptWorker)),
      ...Array.from({ length: PLAYERS.automations }, (_, i) => forever(i === 0 ? automation : scriptWorker)),
    ]
    let failure: unknown
    const playing = Promise.all(players).catch((error) => {
      failure = error
      is_over = true
    })

    const kills = sized(2, 15)
    for (let kill = 0; kill < kills && !is_over; kill++) {
      await pause(sized(1_200, 3_500))
      const { port, pid } = cluster
      process.kill(pid, 'SIGKILL')
      // The children of a killed server hold its port a moment longer.
      cluster = await vi.waitFor(() => startPostgres({ dir, port }), { timeout: 20_000, interval: 100 })
    }
    await pause(500)
    is_over = true
    await playing
    if (failure) throw failure

    const history =
      await sql`select machine || ' ' || subject_id || ' ' || to_status as is from public.status_events`
    const kept = new Set(history.map((row) => row.is))
    expect([...acknowledged].filter((one) => !kept.has(one))).toEqual([])
    // Claims whose answer was lost: their leases end, and the sweep goes by.
    await sql`update public.script_runs set lease_expires_at = lifecycle.now() where status = 'running'`
    await sql`select lifecycle.sweep(1000)`
    expect(await sql`select * from public.invariant_violations`).toEqual([])
    const twice = await sql`
    select e.id from public.workflow_events e join public.handler_runs r on r.workflow_id = e.workflow_id
    join public.workflow_mutations m on m.run_id = r.id and m.status = 'applied' group by e.id having count(*) > 1`
    expect(twice).toEqual([])
    console.log(
      `${kills} kills, ${lives.bots} bots, ${lives.executions} executions, ${lives.automations} automations: ` +
        `${acknowledged.size} acknowledged moves, none lost; ${lost_answers} answers lost and asked for again`,
    )
    expect(lost_answers).toBeGreaterThan(0)
    expect(Math.min(...Object.values(lives))).toBeGreaterThan(5)
    await sql.end({ timeout: 1 })
  },
)
