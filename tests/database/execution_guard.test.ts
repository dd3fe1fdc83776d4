import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { executionOf, running } from '../support/flows.ts'
import { refusal, rpc } from '../support/rpc.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

describe('the guard', () => {
  const machine = JSON.parse(readFileSync(new URL('../cases/machines.json', import.meta.url), 'utf8'))
    .flow_execution as { states: { state: string }[]; transitions: [string, string][] }
  // Companion columns that make each state whole, so that nothing but the guard decides.
  const whole = (state: string) =>
    state === 'failed'
      ? `current_prompt_index = 0, error = 'x', error_code = 'X'`
      : `current_prompt_index = ${state === 'completed' ? 1 : 0}, error = null, error_code = null`

  test('allows direct SQL the moves of the machine and no other', async () => {
    for (const { state: from } of machine.states) {
      for (const { state: to } of machine.states) {
        const { execution } = await running(database.owner, ['a'])
        const where = `where id = '${execution.id}'`
        await database.superuser.begin(async (sql) => {
          await sql`set local session_replication_role = replica`
          const ended = from === 'running' ? 'null' : 'now()'
          await sql.unsafe(
            `update public.flow_executions set status = '${from}', completed_at = ${ended}, ${whole(from)} ${where}`,
          )
        })
        const read = () => database.owner.unsafe(`select * from public.flow_executions ${where}`)
        const before = await read()
        const change = database.owner.unsafe(
          `update public.flow_executions set status = '${to}'${from === to ? '' : `, ${whole(to)}`} ${where}`,
        )
        if (from === to) {
          await change
          expect(await read()).toEqual(before)
        } else if (machine.transitions.some(([a, b]) => a === from && b === to)) {
          await change
          expect(await executionOf(database.owner, execution)).toMatchObject({
            status: to,
            version: 2,
            deadline_at: null,
          })
        } else {
          expect(await refusal(change)).toMatchObject({ code: expect.stringMatching(/^PT409$/) })
          expect(await read()).toEqual(before)
        }
      }
    }
  })

  test('lets an execution begin as running only, and keeps the error and the end for ever', async () => {
    const insert = database.owner`
      insert into public.flow_executions (flow_id, owner_id, status, flow_name, prompts, agent, total_prompts, created_at, completed_at, current_prompt_index)
      values (${randomUUID()}, ${randomUUID()}, 'completed', 'x', '["a"]', '{}', 1, now(), now(), 1)`
    expect(await refusal(insert)).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
    const { execution } = await running(database.owner, ['a'])
    await rpc(database.owner, 'cancel_execution', { id: execution.id })
    for (const change of [
      `error = 'other'`,
      `error_code = 'X'`,
      `error_details = '{}'`,
      `completed_at = now()`,
    ]) {
      const work = database.owner.unsafe(
        `update public.flow_executions set ${change} where id = '${execution.id}'`,
      )
      expect(await refusal(work), change).toMatchObject({ code: 'PT409', message: 'illegal_transition' })
    }
  })

  test('refuses what contradicts itself', async () => {
    const { execution } = await running(database.owner, ['a', 'b'])
    for (const change of [
      `status = 'failed'`,
      `status = 'failed', error = ' ', error_code = 'X'`,
      `status = 'completed'`,
      `status = 'completed', current_prompt_index = 1`,
      `current_prompt_index = 2`,
      `error = 'x'`,
    ]) {
      const work = database.owner.unsafe(
        `update public.flow_executions set ${change} where id = '${execution.id}'`,
      )
      expect(await refusal(work), change).toMatchObject({ code: '23514' })
    }
  })
})
