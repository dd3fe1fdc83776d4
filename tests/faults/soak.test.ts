import type { ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { expect, test, vi } from 'vitest'
import { type BotChange, createRollcall } from '../../src/index.ts'
import { demo_user } from '../../src/local/demo_user.ts'
import { type Postgres, startPostgres } from '../../src/local/postgres.ts'
import { validateScript } from '../../src/worker/script/validate_script.ts'
import { orderScript } from '../support/automations.ts'
import { startFaultAgent } from '../support/fault_agent.ts'
import { startLedger } from '../support/ledger.ts'
import { random } from '../support/random.ts'
import { signUp } from '../support/stack.ts'
import { cleanUp, dataDirectory, running, runStart } from '../support/stack_process.ts'
import { startWebhookReceiver } from '../support/webhook_receiver.ts'
import { spawnWorker } from '../support/worker.ts'
import { form, seed } from './form.ts'
import type { Json } from './world.ts'

/** How long everything is under load, in minutes. */
const MINUTES = Number(process.env.FAULTS_MINUTES ?? 10)
const WORKERS = 2
const chaos = `seed=${seed},drop=0.2,duplicate=0.1,reorder=0.1,delay=0.2,delay_ms=300,close=0.01,close_channel=0.01,crash=0.005`

/** What the agent makes of a transcript. */
const read = { qa_pairs: [], insights: { summary: 'They talked.', topics: [], action_items: [] } }

/** The resident memory of a process, in MB; of Postgres that of all its processes, shared memory counted often. */
function memory_mb(pid: number): number {
  try {
    const [, kb] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
    return Math.round(Number(kb ?? 0) / 1024)
  } catch {
    return 0
  }
}

/** The processes that a file names, the newest last: Deno is started anew when a function changes. */
const pidsIn = (file: string): number[] =>
  existsSync(file) ? readFileSync(file, 'utf8').split('\n').map(Number) : []
/** Postgres names itself first. */
const pidIn = (file: string): number => pidsIn(file)[0] ?? 0

test.skipIf(form !== 'soak')(
  'under load for a long time, with workers and Postgres killed, nothing is lost, doubled, missed or stuck',
  { timeout: (MINUTES + 15) * 60_000 },
  async () => {
    const roll = random(`soak ${seed}`)
    const dir = dataDirectory()
    const agent = await startFaultAgent()
    const ledger = await startLedger()
    const receiver = await startWebhookReceiver()
    agent.otherwise = async ({ body }) => {
      await pause(20 + roll() * 100)
      const fault = roll()
      if (fault < 0.03) return 503
      if (fault < 0.05) return 'cut'
      const reads_transcript =
        body.messages[0]?.role === 'system' && body.messages[0].content.includes('transcript')
      return reads_transcript ? JSON.stringify(read) : `To ${body.messages.at(-1)?.content}: yes.`
    }
    ledger.always = () => {
      const fault = roll()
      if (fault < 0.05) return 'do_and_cut'
      return fault < 0.1 ? 'cut' : 'do'
    }
    const env = {
      AGENT_API_URL: agent.url,
      SCRIPTS_ALLOW_PRIVATE: '1',
      WEBHOOKS_ALLOW_PRIVATE: '1',
    }
    const survive = `--import=${new URL('survive.ts', import.meta.url)}`
    const start = runStart({ dir, env: { ...env, ROLLCALL_REALTIME_CHAOS: chaos, NODE_OPTIONS: survive } })
    let database: Postgres | undefined
    const workers: ChildProcess[] = []
    let is_over = false
    try {
      const place = await running(start, dir)
      const spawnOne = () =>
        spawnWorker({ ...env, SUPABASE_URL: place.api_url, SUPABASE_SECRET_KEY: place.secret_key })
      const sql = postgres(place.db_url, { max: 4, onnotice: () => {}, connect_timeout: 2 })
      const owner = await signUp(place)
      // A request that Postgres took with it is never answered by the local API: it is asked again.
      const secret = createClient(place.api_url, place.secret_key, {
        auth: { persistSession: false, autoRefreshToken: false },
        global: { fetch: (input, init) => fetch(input, { ...init, signal: AbortSignal.timeout(20_000) }) },
      })
      const rollcall = createRollcall(owner.client)

      const acknowledged = new Set<string>()
      const note = (machine: string, id: string, status: string) =>
        acknowledged.add(`${machine} ${id} ${status}`)
      let lost_answers = 0
      /** The same request until it is answered; how it is refused is an answer. */
      async function insist<T>(work: () => Promise<T>): Promise<T> {
        const give_up = Date.now() + 120_000
        for (;;) {
          try {
            return await work()
          } catch (error) {
            if (Date.now() > give_up) throw error
            lost_answers++
            await pause(300)
          }
        }
      }
      /** A call of a function over HTTP; whatever the server could not answer is thrown, to be asked again. */
      async function call(path: string, body: Json, headers: Record<string, string> = {}): Promise<Json> {
        const response = await fetch(`${place.api_url}/functions/v1${path}`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', ...headers },
          body: JSON.stringify(body),
          signal: AbortSignal.timeout(20_000),
        })
        const answer = (await response.json()) as Json
        if (!response.ok) throw new Error(`${path} answered ${response.status}: ${answer.code}`)
        return answer
      }
      const as_owner = {
        apikey: place.publishable_key,
        authorization: `Bearer ${owner.access_token}`,
      }
      const rpc = async (name: string, args: Json): Promise<Json> => {
        const { data, error } = await secret.rpc(name, args)
        if (error) throw new Error(`${name}: ${error.message}`)
        return data
      }

      const endpoint = await insist(() =>
        rpc('create_webhook_endpoint', {
          owner_id: owner.user_id,
          url: `${receiver.url}/hook`,
          events: ['bot.completed', 'bot.failed', 'flow_execution.completed', 'flow_execution.failed'],
        }),
      )
      expect(endpoint.ok).toBe(true)

      const seen = new Map<string, BotChange[]>()
      const watches: Promise<void>[] = []
      async function watch(bot_id: string): Promise<void> {
        const changes: BotChange[] = []
        seen.set(bot_id, changes)
        for await (const change of rollcall.bots.watch(bot_id)) changes.push(change)
      }
      const made = { bots: 0, executions: 0, automations: 0, items: 0 }

      async function bot(): Promise<void> {
        const key = randomUUID()
        const join_body = { platform: 'room', native_meeting_id: key, launch: false }
        const joined = await insist(() => call('/join', join_body, { ...as_owner, 'idempotency-key': key }))
        const { bot_id } = joined
        note('bot', bot_id, 'pending')
        // A replayed answer has no token: a machine would be given a new one; nobody can play this bot.
        if (joined.callback_token === undefined) {
          await insist(() => call('/stop', { bot_id }, as_owner))
          return
        }
        watches.push(watch(bot_id))
        const token = { authorization: `Bearer ${joined.callback_token}` }
        for (const status of [
          'joining',
          'awaiting_admission',
          'active',
          roll() < 0.8 ? 'completed' : 'failed',
        ]) {
          await pause(roll() * 400)
          const transcript =
            status === 'active' && roll() < 0.3
              ? [{ speaker: 'Ada', text: 'Who takes the notes?' }]
              : undefined
          const answer = await insist(() =>
            call('/callback', { bot_id, status, event_id: status, transcript }, token),
          )
          note('meeting', bot_id, answer.meeting_status)
          note('bot', bot_id, answer.bot_status)
        }
        made.bots++
      }

      const prompts = ['What?', 'And then?', 'Why?']
      const flow = await insist(() =>
        rpc('create_flow', { owner_id: owner.user_id, name: 'Routine', prompts }),
      )
      async function execution(): Promise<void> {
        const idempotency_key = randomUUID()
        const { id } = await insist(() => rpc('create_execution', { flow_id: flow.id, idempotency_key }))
        note('flow_execution', id, 'running')
        made.executions++
        await pause(1_000 + roll() * 1_000)
      }

      const items: string[] = []
      async function automation(): Promise<void> {
        const feed = randomUUID()
        const own = [randomUUID(), randomUUID()]
        ledger.feeds[feed] = own
        items.push(...own)
        const code = orderScript({ url: ledger.url, feed, reconcile: true })
        const { config } = await validateScript(code)
        const body = { owner_id: owner.user_id, title: 'Orders', code, config, idempotency_key: feed }
        const { workflow_id } = await insist(() => rpc('create_workflow', body))
        note('workflow', workflow_id, 'draft')
        note('workflow', workflow_id, (await insist(() => rpc('activate_workflow', { workflow_id }))).status)
        made.automations++
        await pause(3_000)
      }

      for (let i = 0; i < WORKERS; i++) workers.push(spawnOne())
      const pids = () => ({
        stack: start.child.pid as number,
        functions: pidsIn(join(dir, 'functions.pid')).at(-1) ?? 0,
        postgres: database?.pid ?? pidIn(join(dir, 'db', 'postmaster.pid')),
        ...Object.fromEntries(workers.map(({ pid }, i) => [`worker ${i + 1}`, pid as number])),
        client: process.pid,
      })
      const measured = () =>
        Object.fromEntries(Object.entries(pids()).map(([name, pid]) => [name, memory_mb(pid)]))

      let failure: unknown
      const forever = async (work: () => Promise<void>) => {
        while (!is_over) {
          await work().catch((error) => {
            failure ??= error
            is_over = true
          })
        }
      }
      const loads = [bot, bot, bot, execution, execution, automation].map(forever)
      await pause(10_000)
      const memory_before = measured()

      const until = Date.now() + MINUTES * 60_000
      const kills = { workers: 0, postgres: 0 }
      for (let second = 0; Date.now() < until && !is_over; second++) {
        if (start.child.exitCode !== null) throw new Error(`The stack ended:\n${start.output().slice(-2000)}`)
        await pause(1_000)
        if (second % 20 === 10) {
          const at = kills.workers++ % WORKERS
          const [killed] = workers.splice(at, 1, spawnOne())
          killed?.kill('SIGKILL')
        }
        if (second % 45 === 30) {
          const pid = database?.pid ?? pidIn(join(dir, 'db', 'postmaster.pid'))
          const port = Number(new URL(place.db_url).port)
          process.kill(pid, 'SIGKILL')
          kills.postgres++
          database = await vi.waitFor(() => startPostgres({ dir, port }), { timeout: 30_000, interval: 200 })
        }
      }
      is_over = true
      await Promise.all(loads)

      // What is under way comes to its end: leases run out, the other side is asked, webhooks are tried again.
      const open = async () => {
        const [row] = await sql`
          select (select count(*)::int from public.workflow_threads where bot_status in ('pending', 'starting', 'running')) as bots,
            (select count(*)::int from public.flow_executions where status = 'running') as executions,
            (select count(*)::int from public.script_runs where status = 'running') as sessions,
            (select count(*)::int from public.workflow_events where status in ('pending', 'reserved')) as events,
            (select count(*)::int from public.workflow_mutations where status not in ('applied', 'failed')) as mutations,
            (select count(*)::int from public.webhook_deliveries where state = 'pending') as webhooks`
        return row as Record<string, number>
      }
      const none = { bots: 0, executions: 0, sessions: 0, events: 0, mutations: 0, webhooks: 0 }
      let left = await insist(open)
      for (const end = Date.now() + 8 * 60_000; Date.now() < end; left = await insist(open)) {
        if (Object.values(left).every((n) => n === 0)) break
        await pause(2_000)
      }
      await Promise.race([Promise.all(watches), pause(60_000)])
      const memory_after = measured()

      const history = await sql<Json[]>`
        select id, machine, subject_id, to_status from public.status_events
        where owner_id not in (select id from auth.users where email = ${demo_user.email}) order by id`
      const kept = new Set(history.map((event) => `${event.machine} ${event.subject_id} ${event.to_status}`))
      const lost = [...acknowledged].filter((one) => !kept.has(one))
      const missed = history.filter(
        ({ id, machine, subject_id }) =>
          (machine === 'bot' || machine === 'meeting') &&
          seen.has(subject_id) &&
          !seen.get(subject_id)?.some((change) => change.id === Number(id)),
      )
      const illegal = await sql`select * from public.invariant_violations`
      const stuck = await sql`select * from public.stuck_runs`
      const doubled = [...ledger.done].filter(([, keys]) => keys.length > 1)
      const ended = history.filter(
        ({ machine, to_status }) =>
          (machine === 'bot' || machine === 'flow_execution') && ['completed', 'failed'].includes(to_status),
      )
      const hooked = new Set(
        receiver.received.map(({ body }) => body.data?.event?.event_id ?? body.data?.event?.id),
      )
      const unordered = items.filter((item) => !ledger.done.has(item))
      const figures = {
        seed,
        minutes: MINUTES,
        made: { ...made, items: items.length },
        kills,
        'answers lost and asked for again': lost_answers,
        'transitions in the history': history.length,
        'transitions acknowledged': acknowledged.size,
        lost: lost.length,
        illegal: illegal.length,
        'missed by watchers': missed.length,
        'doubled side effects': doubled.length,
        'items without their side effect': unordered.length,
        'webhooks received': receiver.received.length,
        'ends without a webhook': ended.filter(({ id }) => !hooked.has(Number(id)) && !hooked.has(String(id)))
          .length,
        'stuck runs': stuck.length,
        left,
        'memory at the start (MB)': memory_before,
        'memory at the end (MB)': memory_after,
      }
      console.log(JSON.stringify(figures, null, 2))
      for (const [what, rows] of Object.entries({ lost, illegal, missed, doubled, stuck, unordered })) {
        if (rows.length > 0) console.log(what, JSON.stringify(rows.slice(0, 10)))
      }
      if (failure) throw failure
      expect({ lost, illegal, missed, doubled, stuck, unordered }).toEqual({
        ...{ lost: [], illegal: [], missed: [], doubled: [], stuck: [], unordered: [] },
      })
      expect(left).toEqual(none)
      await sql.end({ timeout: 1 })
    } finally {
      is_over = true
      for (const worker of workers) {
        worker.kill('SIGKILL')
        if (worker.exitCode === null && worker.signalCode === null) await once(worker, 'exit')
      }
      // The stack gives up its own Postgres, which is dead, and leaves the one that came after to us.
      start.child.kill('SIGTERM')
      await start.ended
      await database?.stop()
      await Promise.all([agent.close(), ledger.close(), receiver.close()])
      await cleanUp([start], [dir])
    }
  },
)
