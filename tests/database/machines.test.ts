import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { historyOf, requestBot, rowOf } from '../support/bots.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { refusal, rpc } from '../support/rpc.ts'

type Machine = {
  description: string
  history: boolean
  states: { state: string; kind: string }[]
  transitions: [string, string][]
}
const cases: Record<string, Machine> = JSON.parse(
  readFileSync(new URL('../cases/machines.json', import.meta.url), 'utf8'),
)

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

test('the rows are exactly the machines of the cases', async () => {
  const machines = await database.owner`
    select m.name, m.description, m.history,
      (select jsonb_agg(jsonb_build_object('state', s.state, 'kind', s.kind) order by s.position)
       from lifecycle.states s where s.machine = m.name) as states,
      (select jsonb_agg(jsonb_build_array(t.from_state, t.to_state) order by t.from_state collate "C", t.to_state collate "C")
       from lifecycle.transitions t where t.machine = m.name) as transitions
    from lifecycle.machines m`
  const rows = Object.fromEntries(machines.map(({ name, ...machine }) => [name, machine]))
  expect(rows).toEqual(cases)
})

test('every pair of every machine is allowed by its row and by nothing else', async () => {
  for (const [name, machine] of Object.entries(cases)) {
    const states = machine.states.map((state) => state.state)
    for (const from of states) {
      for (const to of states) {
        const [row] =
          await database.owner`select lifecycle.transition_allowed(${name}, ${from}, ${to}) as allowed`
        expect(row?.allowed, `${name}: ${from} to ${to}`).toBe(
          machine.transitions.some(([a, b]) => a === from && b === to),
        )
      }
    }
  }
})

test('the sets of states agree with the rows', async () => {
  for (const [machine, type] of [
    ['bot', 'bot_status'],
    ['meeting', 'meeting_status'],
  ] as const) {
    const rows = await database.owner.unsafe(
      `select state, kind, lifecycle.is_open(state::public.${type}) as is_open from lifecycle.states where machine = '${machine}'`,
    )
    for (const row of rows) expect(row.is_open, `${machine} ${row.state}`).toBe(row.kind !== 'terminal')
    const [labels] = await database.owner.unsafe(`select enum_range(null::public.${type})::text[] as labels`)
    expect(labels?.labels).toEqual(cases[machine]?.states.map((state) => state.state))
  }
  const attending = await database.owner`
    select state from lifecycle.states
    where machine = 'meeting' and lifecycle.is_attending(state::public.meeting_status) order by position`
  expect(attending.map((row) => row.state)).toEqual(['requested', 'joining', 'awaiting_admission', 'active'])
})

test('machine_catalog shows every machine and every error code to everyone', async () => {
  const catalog = await database.as('anon', {}, (sql) =>
    rpc<{ machines: { name: string }[]; error_codes: { code: string }[] }>(sql as never, 'machine_catalog'),
  )
  expect(catalog.machines.map((machine) => machine.name).sort()).toEqual(Object.keys(cases).sort())
  expect(catalog.error_codes.map((code) => code.code)).toContain('JOIN_ROOM_AUTH_FAILED')
})

describe('C02 direct SQL by the owner of the table', () => {
  // Companion columns that make each target state whole, so that nothing but the guard decides.
  const whole: Record<string, (state: string) => string> = {
    bot: (state) =>
      state === 'failed'
        ? `error_stage = 'running', error_code = 'X', error_message = 'x'`
        : `error_stage = null, error_code = null, error_message = null`,
    meeting: (state) =>
      state === 'completed'
        ? `completion_reason = 'other', failure_stage = null`
        : state === 'failed'
          ? `completion_reason = null, failure_stage = 'active'`
          : `completion_reason = null, failure_stage = null, stop_requested_at = now(), stop_reason = 'stopped'`,
  }
  // The other machine stands where it binds nothing: ended for bot pairs, running for meeting pairs.
  const place: Record<string, (state: string) => string> = {
    bot: (state) => `bot_status = '${state}', ${whole.bot?.(state)}, bot_started_at = now(),
      bot_completed_at = ${state === 'completed' || state === 'failed' ? 'now()' : 'null'},
      meeting_status = 'completed', completion_reason = 'other', left_at = now()`,
    meeting: (state) => `meeting_status = '${state}', ${whole.meeting?.(state)},
      left_at = ${state === 'completed' || state === 'failed' ? 'now()' : 'null'},
      bot_status = 'running', bot_started_at = now(), joined_at = now()`,
  }

  for (const machine of ['bot', 'meeting'] as const) {
    const { states, transitions } = cases[machine] as Machine
    for (const { state: from } of states) {
      for (const { state: to } of states) {
        const legal = transitions.some(([a, b]) => a === from && b === to)
        const verb = from === to ? 'is no transition' : legal ? 'is accepted' : 'is refused'
        test(`${machine}: ${from} to ${to} ${verb}`, async () => {
          const bot = await requestBot(database.owner)
          await database.superuser.begin(async (sql) => {
            await sql`set local session_replication_role = replica`
            await sql.unsafe(
              `update public.workflow_threads set ${place[machine]?.(from)} where bot_id = '${bot.bot_id}'`,
            )
          })
          const before = await rowOf(database.owner, bot)
          const events = (await historyOf(database.owner, bot, machine)).length
          const change = database.owner.unsafe(
            `update public.workflow_threads set ${machine}_status = '${to}'${from === to ? '' : `, ${whole[machine]?.(to)}`} where bot_id = '${bot.bot_id}'`,
          )
          if (from === to) {
            await change
            expect(await rowOf(database.owner, bot)).toEqual(before)
            expect(await historyOf(database.owner, bot, machine)).toHaveLength(events)
          } else if (legal) {
            await change
            const history = await historyOf(database.owner, bot, machine)
            expect(history.at(-1)).toMatchObject({ from_status: from, to_status: to, source: 'system' })
          } else {
            const error = await refusal(change)
            expect(error).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
            expect(JSON.parse(error.detail ?? '')).toMatchObject({ machine, from, to })
            expect(error.hint).toBeTruthy()
            expect(await rowOf(database.owner, bot)).toEqual(before)
            expect(await historyOf(database.owner, bot, machine)).toHaveLength(events)
          }
        })
      }
    }
  }
})
