import postgres from 'postgres'
import type { TestDatabase } from '../support/database.ts'
import { rpc } from '../support/rpc.ts'

// biome-ignore lint/suspicious/noExplicitAny: answers have every form
export type Json = any

/** A call that was made, with what came of it. */
export interface Called {
  name: string
  args: Record<string, unknown>
  /** Null where it was refused by an exception. */
  answer: Json
  /** The message of the exception. */
  refused: string | null
  /** Its transaction; null where that wrote nothing. */
  xid: string | null
}

/** Calls on one connection, at the pretended time. */
export interface Caller {
  call(name: string, args?: Record<string, unknown>): Promise<Called>
}

/** A database in which calls are made from several connections, and are remembered with what they promised. */
export interface World {
  callers: Caller[]
  /** Everything that was called since the last reset. */
  called: Called[]
  now(): Date
  /** Moves the pretended time on; seconds. */
  advance(seconds: number): void
  /** Empties every table, for another run. */
  reset(): Promise<void>
  /** Sweeps, and says what is wrong: nothing, it should be. */
  problems(): Promise<string[]>
}

/** The tables in which a refusal leaves its trace. */
const OF_REFUSALS = ['public.status_rejections', 'private.callback_rates']

/** What moves rows without saying which: their answer is what was claimed, or a count. */
const MOVES_OTHERS = /^(claim_|lifecycle\.sweep)/

export async function openWorld(database: TestDatabase, connections: number): Promise<World> {
  const start = Date.parse('2026-03-01T12:00:00Z')
  let now = start
  let called: Called[] = []
  const warnings: string[] = []
  const open = () =>
    database.connect('postgres', {
      max: 1,
      onnotice: ({ severity, message }) => {
        // What the sweep and the claims swallow they say.
        if (severity === 'WARNING') warnings.push(message as string)
      },
    })
  const [judge, ...pools] = Array.from({ length: connections + 1 }, open) as [postgres.Sql, ...postgres.Sql[]]
  const tables = await database.superuser<{ name: string }[]>`
    select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and (
      n.nspname = 'public' and c.relname <> 'error_codes'
      or n.nspname = 'private' and c.relname <> 'history_horizon'
      or c.oid = 'realtime.messages'::regclass)`

  const caller = (sql: postgres.Sql): Caller => ({
    async call(name, args = {}) {
      const one: Called = { name, args, answer: null, refused: null, xid: null }
      try {
        await sql.begin(async (tx) => {
          // What a transaction wrote is counted together with what was not reported before: nothing is to be left.
          await tx`
            select set_config('rollcall.now', ${new Date(now).toISOString()}, true), pg_stat_force_next_flush()`
          one.answer = await rpc(tx, name, args)
          await keepsItsWord(tx, one)
          const [row] = await tx`select pg_current_xact_id_if_assigned()::text as xid`
          one.xid = row?.xid ?? null
        })
      } catch (error) {
        if (!(error instanceof postgres.PostgresError) || !/^PT4\d\d$/.test(error.code)) {
          throw new Error(`${name}(${JSON.stringify(args)}): ${(error as Error).message}`, { cause: error })
        }
        one.answer = null
        one.xid = null
        one.refused = error.message
      }
      called.push(one)
      return one
    },
  })

  return {
    callers: pools.map(caller),
    get called() {
      return called
    },
    now: () => new Date(now),
    advance(seconds) {
      now += seconds * 1000
    },
    async reset() {
      called = []
      warnings.length = 0
      now = start
      await database.superuser.begin(async (tx) => {
        await tx`set local session_replication_role = replica`
        // Of a few rows: truncating so many tables takes longer.
        await tx.unsafe(tables.map(({ name }) => `delete from ${name}`).join(';'))
        await tx`update lifecycle.watermarks set swept_at = null, silence_counts_from = null, machines_listed_at = null`
      })
    },
    async problems() {
      const { call } = caller(judge)
      // What waits for nobody but the ticker.
      const { answer } = await call('lifecycle.sweep', { max_rows: 1000 })
      await call('claim_task', { worker: 'judge', has_agent: true })
      const found = [...warnings, ...(answer.errors > 0 ? [`the sweep had ${answer.errors} errors`] : [])]
      await judge`select set_config('rollcall.now', ${new Date(now).toISOString()}, false)`
      for (const row of await judge`select * from public.invariant_violations`) {
        found.push(JSON.stringify(row))
      }
      return [...found, ...(await historyProblems(judge, called))]
    },
  }
}

/** Holds an answer against the rows, within the transaction of its call: their locks are still held. */
async function keepsItsWord(tx: postgres.TransactionSql, { name, args, answer }: Called): Promise<void> {
  const broken = (what: string) =>
    new Error(`${name}(${JSON.stringify(args)}) answered ${JSON.stringify(answer)}, but ${what}`)
  if (answer?.ok === false) {
    const written = await tx<{ name: string }[]>`
      select schemaname || '.' || relname as name from pg_stat_xact_user_tables
      where n_tup_ins + n_tup_upd + n_tup_del > 0`
    const wrong = written.filter((table) => !OF_REFUSALS.includes(table.name))
    if (wrong.length > 0) throw broken(`it wrote into ${wrong.map((table) => table.name).join(', ')}`)
    return
  }
  // A replay answers what was true then.
  if (answer?.ok !== true || answer.result === 'replayed') return
  for (const { said, table, key, id } of statements(answer)) {
    const names = Object.keys(said)
    const [row] = await tx.unsafe(`select ${names.join(', ')} from public.${table} where ${key} = $1`, [id])
    for (const column of names) {
      if (row?.[column] !== said[column]) throw broken(`${table}.${column} is ${row?.[column]}`)
    }
  }
}

interface Statement {
  said: Record<string, string>
  table: string
  key: string
  id: string
}

/** What an answer says of rows. */
function statements(answer: Json): Statement[] {
  const { bot_id, bot_status, meeting_status } = answer
  if (answer.bots !== undefined) return answer.bots.flatMap(statements)
  if (bot_status !== undefined) {
    return [{ said: { bot_status, meeting_status }, table: 'workflow_threads', key: 'bot_id', id: bot_id }]
  }
  const { status } = answer
  if (answer.run?.run_id !== undefined) {
    const { run_id, phase, status } = answer.run
    return [{ said: { status, phase }, table: 'handler_runs', key: 'id', id: run_id }]
  }
  const of = (table: string, id: string) => [{ said: { status }, table, key: 'id', id }]
  if (status === undefined) return []
  if (answer.state !== undefined && answer.workflow_id !== undefined)
    return of('workflows', answer.workflow_id)
  if (answer.mutation_id !== undefined) return of('workflow_mutations', answer.mutation_id)
  if (answer.run_id !== undefined) return of('handler_runs', answer.run_id)
  if (answer.current_prompt_index !== undefined) return of('flow_executions', answer.id)
  return []
}

interface Event {
  machine: string
  subject_id: string
  seq: number
  from_status: string | null
  to_status: string
  xid: string
}

/** The tables of the machines with history, and the columns with their statuses. */
const SUBJECTS: Record<string, [table: string, key: string, column: string]> = {
  bot: ['workflow_threads', 'bot_id', 'bot_status'],
  meeting: ['workflow_threads', 'bot_id', 'meeting_status'],
  flow_execution: ['flow_executions', 'id', 'status'],
  workflow: ['workflows', 'id', 'status'],
  script_run: ['script_runs', 'id', 'status'],
  handler_run: ['handler_runs', 'id', 'status'],
  mutation: ['workflow_mutations', 'id', 'status'],
}

/** Folds the history over the rows of lifecycle.transitions, and holds it against the rows and what was answered. */
async function historyProblems(sql: postgres.Sql, called: Called[]): Promise<string[]> {
  const found: string[] = []
  const legal = new Set(
    (await sql`select machine, from_state, to_state from lifecycle.transitions`).map((row) =>
      [row.machine, row.from_state, row.to_state].join(' '),
    ),
  )
  const initial = new Set(
    (await sql`select machine, state from lifecycle.states where kind = 'initial'`).map((row) =>
      [row.machine, row.state].join(' '),
    ),
  )
  const events = await sql<Event[]>`
    select machine, subject_id, seq, from_status, to_status, xid::text as xid from public.status_events
    order by machine, subject_id, seq`
  const folded = new Map<string, Event>()
  const xids = new Map(called.flatMap((one) => (one.xid === null ? [] : [[one.xid, one] as const])))
  for (const event of events) {
    const { machine, subject_id, seq, from_status, to_status, xid } = event
    const subject = `${machine} ${subject_id}`
    const before = folded.get(subject)
    if (seq !== (before?.seq ?? 0) + 1) found.push(`${subject}: ${seq} follows ${before?.seq ?? 0}`)
    if (from_status !== (before?.to_status ?? null))
      found.push(`${subject}: ${seq} starts from ${from_status}`)
    const is_legal = before
      ? legal.has(`${machine} ${from_status} ${to_status}`)
      : initial.has(`${machine} ${to_status}`)
    if (!is_legal) found.push(`${subject}: ${from_status} to ${to_status} is no move`)
    folded.set(subject, event)
    const by = xids.get(xid)
    const may =
      by !== undefined &&
      (MOVES_OTHERS.test(by.name) || by.answer?.changed === true || by.answer?.run !== undefined)
    if (!may)
      found.push(
        `${subject}: ${from_status} to ${to_status} by ${JSON.stringify(by)}, which says that nothing changed`,
      )
  }
  for (const [machine, [table, key, column]] of Object.entries(SUBJECTS)) {
    for (const { id, status } of await sql.unsafe(
      `select ${key} as id, ${column} as status from public.${table}`,
    )) {
      const last = folded.get(`${machine} ${id}`)?.to_status
      if (last !== status) found.push(`${machine} ${id}: the history says ${last}, the row ${status}`)
      folded.delete(`${machine} ${id}`)
    }
  }
  for (const subject of folded.keys()) found.push(`${subject} has a history and no row`)
  return found
}
