import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { reconcile } from '../../src/worker/reconcile.ts'
import { workerSettings } from '../../src/worker/settings.ts'
import { type FaultMachines, startFaultMachines } from '../support/fault_machines.ts'
import { type Project, startProject } from '../support/project.ts'
import { admin } from '../support/stack.ts'

let project: Project
let api: FaultMachines
beforeAll(async () => {
  project = await startProject()
  api = await startFaultMachines()
  // This test is the only worker.
  await project.wakes(null)
})
afterAll(async () => {
  await project?.close()
  await api?.close()
})

test('F19 a round of reconciliation says what it checked, ended, left, destroyed and could not learn', async () => {
  const settings = workerSettings(
    (name) =>
      ({
        SUPABASE_URL: project.stack.api_url,
        FLY_API_HOSTNAME: api.url,
        FLY_API_TOKEN: 't',
        FLY_APP_NAME: 'a',
        BOT_IMAGE: 'i',
      })[name],
  )
  const db = admin(project.stack)
  const round = () => reconcile({ db, settings }, 'test')
  const nothing = { checked: 0, finalized: 0, still_running: 0, destroyed: 0, errors: 0 }
  expect(await round()).toEqual(nothing)

  const bots = []
  for (const state of ['started', 'stopped']) {
    const bot = await project.playTo('active')
    const id = `machine-${state}`
    const config = { metadata: { rollcall: 'bot', rollcall_bot_id: bot.bot_id } }
    api.machines.push({ id, name: id, state, config })
    await project.superuser.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`
        update public.workflow_threads
        set launched = true, container_id = ${id}, container_status = 'Up', probe_due_at = now() - interval '1 s',
          last_heartbeat_at = now() - interval '1 h', meeting_status_updated_at = now() - interval '1 h'
        where bot_id = ${bot.bot_id}`
    })
    bots.push(bot)
  }
  const config = { metadata: { rollcall: 'bot', rollcall_bot_id: randomUUID() } }
  api.machines.push({ id: 'orphan', name: 'orphan', state: 'started', config })
  await project.sql`update lifecycle.watermarks set machines_listed_at = null`

  expect(await round()).toEqual({ checked: 2, finalized: 1, still_running: 1, destroyed: 1, errors: 0 })
  expect(await round()).toEqual(nothing)

  const [alive] = bots
  await project.sql`update public.workflow_threads set probe_due_at = now() where bot_id = ${alive?.bot_id ?? null}`
  api.always = { status: 500 }
  expect(await round()).toEqual({ ...nothing, checked: 1, errors: 1 })
})
