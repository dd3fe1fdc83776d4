import { createHash, randomUUID } from 'node:crypto'
import { transcript } from '../support/bots.ts'
import { config } from '../support/workflow_steps.ts'
import type { Called, Caller, Json, World } from './world.ts'

/** One of the ways in which a subject may go; `ends`: it is the end, and happens once. */
export interface Way {
  name: string
  args: Record<string, unknown>
  ends: boolean
}

/** A subject that may go in several ways at this moment. */
export interface Contest {
  /** Whose history shows the end; null where the machine has none. */
  subject: { machine: string; id: string } | null
  /** The row by whose lock everybody has to pass. */
  row: { table: string; key: string; id: string }
  ways: Way[]
}

type Begin = (play: Setting) => Promise<Contest>

/** What a race is set up with. Calls must be accepted. */
export interface Setting {
  world: World
  call(name: string, args?: Record<string, unknown>): Promise<Json>
}

export function setting(world: World): Setting {
  const { call } = world.callers[0] as Caller
  return {
    world,
    async call(name, args) {
      const { answer, refused }: Called = await call(name, args)
      if (refused !== null || answer?.ok === false) throw new Error(`${name}: ${refused ?? answer.code}`)
      return answer
    },
  }
}

const end = (name: string, args: Record<string, unknown>): Way => ({ name, args, ends: true })
const step = (name: string, args: Record<string, unknown>): Way => ({ name, args, ends: false })
const sweep: Way = { name: 'lifecycle.sweep', args: {}, ends: true }

const token_hash = createHash('sha256').update('token').digest('hex')
const thread = (id: string) => ({ table: 'workflow_threads', key: 'bot_id', id })
const workflow = (id: string) => ({ table: 'workflows', key: 'id', id })

/** A bot of its own, with the reports that it made. */
async function bot({ call }: Setting, reports: string[], more: Record<string, unknown> = {}): Promise<Json> {
  const made = await call('request_bot', {
    owner_id: randomUUID(),
    token_hash,
    platform: 'room',
    native_meeting_id: randomUUID(),
    meeting_url: 'http://127.0.0.1/room/x',
    launch: false,
    ...more,
  })
  for (const status of reports) {
    await call('report_bot', { bot_id: made.bot_id, token_hash, status, transcript })
  }
  return made
}
const reported = ({ bot_id }: Json, status: string, more = {}) =>
  end('report_bot', { bot_id, token_hash, status, ...more })

/** A bot whose machine is up, and who was silent for long enough to be asked after. */
async function probed(play: Setting): Promise<Json> {
  const made = await bot(play, [], { launch: true, process_insights: false })
  const { bot_id, launch_token } = made
  await play.call('record_container', { bot_id, launch_token, container_id: 'm1', status_text: 'started' })
  await play.call('report_bot', { bot_id, token_hash, status: 'active' })
  play.world.advance(61)
  const { probe_token } = await play.call('claim_probe', { worker: 'w' })
  return { ...made, probe_token }
}

/** A transcript that is being worked on for the last time. */
async function lastAttempt({ call, world }: Setting): Promise<Json> {
  for (const wait_s of [6, 21]) {
    const { workflow_thread_id, processing_token } = await call('claim_processing', { worker: 'w' })
    await call('fail_processing', { workflow_thread_id, processing_token, error_message: 'No sense.' })
    world.advance(wait_s)
  }
  return call('claim_processing', { worker: 'w' })
}

/** An execution at its last prompt, which a worker has. */
async function lastPrompt({ call }: Setting): Promise<{ id: string; lease_token: string }> {
  const flow = await call('create_flow', { owner_id: randomUUID(), name: 'Routine', prompts: ['Now?'] })
  await call('create_execution', { flow_id: flow.id })
  return call('claim_execution', { worker: 'w' })
}
const ofExecution = (id: string) => ({
  subject: { machine: 'flow_execution', id },
  row: { table: 'flow_executions', key: 'id', id },
})
const result = ({ id, lease_token }: { id: string; lease_token: string }) =>
  end('update_execution_progress', { id, lease_token, prompt_index: 0, prompt_result: { response: 'Yes.' } })

/** A session of a new workflow, and its first run: the producer's, executing. */
async function producing({ call }: Setting): Promise<Json> {
  const made = await call('create_workflow', {
    owner_id: randomUUID(),
    title: 'Orders',
    code: 'workflow = {}',
    config,
  })
  const { workflow_id } = made
  await call('activate_workflow', { workflow_id })
  const { session_id, lease_token } = await call('claim_workflow_session', { worker: 'w' })
  const { run } = await call('create_handler_run', { session_id, lease_token })
  await call('advance_handler_run', { run_id: run.run_id, phase: 'executing', lease_token })
  return { workflow_id, session_id, lease_token, run_id: run.run_id }
}
const producer_commit = ({ run_id, lease_token }: Json) => ({
  run_id,
  lease_token,
  state: {},
  publications: [{ topic: 'items', message_id: 'a', payload: {} }],
  next_run_at: '2026-03-02T12:00:00Z',
})

/** A run of the consumer of a new workflow, with an event, in the phase mutating. */
async function mutating(play: Setting): Promise<Json> {
  const { call } = play
  const { run_id: producer, ...held } = await producing(play)
  const { session_id, lease_token } = held
  await call('commit_producer', producer_commit({ run_id: producer, lease_token }))
  const { run } = await call('create_handler_run', { session_id, lease_token })
  const { run_id } = run
  const reservations = [{ topic: 'items', ids: ['a'] }]
  await call('advance_handler_run', { run_id, lease_token, phase: 'preparing' })
  await call('advance_handler_run', {
    run_id,
    lease_token,
    phase: 'prepared',
    payload: { result: {}, reservations },
  })
  await call('advance_handler_run', { run_id, lease_token, phase: 'mutating' })
  return { ...held, run_id }
}

/** A side effect that is under way; `reconcile`: its service can be asked. */
export async function sending(play: Setting, reconcile: Json = null): Promise<Json> {
  const held = await mutating(play)
  const { run_id, lease_token } = held
  const { mutation_id } = await play.call('begin_mutation', {
    ...{ run_id, lease_token, tool: 'Http.send', params: {}, reconcile },
  })
  return { ...held, mutation_id }
}

/** A side effect of which nobody knows what became of it. */
export async function uncertain(play: Setting, reconcile: Json = null): Promise<Json> {
  const held = await sending(play, reconcile)
  const { run_id, lease_token } = held
  await play.call('update_handler_run_status', { run_id, lease_token, status: 'paused:reconciliation' })
  return held
}
const ofMutation = ({ mutation_id, workflow_id }: Json) => ({
  subject: { machine: 'mutation', id: mutation_id },
  row: workflow(workflow_id),
})

/** A consumer's run that is about to commit. */
export async function emitting(play: Setting): Promise<Json> {
  const held = await sending(play)
  const { run_id, lease_token, mutation_id } = held
  await play.call('apply_mutation', { mutation_id, result: {}, lease_token })
  await play.call('advance_handler_run', { run_id, lease_token, phase: 'emitting' })
  return held
}
const ofRun = ({ run_id, workflow_id }: Json) => ({
  subject: { machine: 'handler_run', id: run_id },
  row: workflow(workflow_id),
})
const runEnds = ({ run_id, lease_token }: Json, status: string) =>
  end('update_handler_run_status', { run_id, lease_token, status })

const reconcile = { url: 'https://x.test' }

/** Whoever is first ends it; nobody ends it again. */
export const ends: Record<string, Begin> = {
  async 'a bot reports completed and failed'(play) {
    const made = await bot(play, ['active'], { process_insights: false })
    return {
      subject: { machine: 'meeting', id: made.bot_id },
      row: thread(made.bot_id),
      ways: [reported(made, 'completed'), reported(made, 'failed')],
    }
  },
  async 'a bot is stopped on its way and reports failed'(play) {
    const made = await bot(play, ['joining'])
    return {
      subject: { machine: 'meeting', id: made.bot_id },
      row: thread(made.bot_id),
      ways: [end('stop_bot', { bot_id: made.bot_id }), reported(made, 'failed')],
    }
  },
  async 'a bot is stopped in the room and reports completed'(play) {
    const made = await bot(play, ['active'], { process_insights: false })
    return {
      subject: { machine: 'meeting', id: made.bot_id },
      row: thread(made.bot_id),
      ways: [step('stop_bot', { bot_id: made.bot_id }), reported(made, 'completed')],
    }
  },
  async 'a silent bot is swept and reports completed'(play) {
    const made = await bot(play, ['active'], { process_insights: false })
    play.world.advance(400)
    return {
      subject: { machine: 'meeting', id: made.bot_id },
      row: thread(made.bot_id),
      ways: [sweep, reported(made, 'completed')],
    }
  },
  async 'a launch fails and its bot reports failed'(play) {
    const made = await bot(play, [], { launch: true })
    const { bot_id, launch_token } = made
    return {
      subject: { machine: 'meeting', id: bot_id },
      row: thread(bot_id),
      ways: [
        end('fail_launch', {
          bot_id,
          launch_token,
          error_code: 'MACHINE_CREATE_FAILED',
          error_message: 'None.',
        }),
        reported(made, 'failed'),
      ],
    }
  },
  async 'a machine is found ended and its bot reports completed'(play) {
    const made = await probed(play)
    const { bot_id, probe_token } = made
    return {
      subject: { machine: 'meeting', id: bot_id },
      row: thread(bot_id),
      ways: [
        end('record_probe', { bot_id, probe_token, outcome: 'ended', evidence: { exit_code: 0 } }),
        reported(made, 'completed'),
      ],
    }
  },
  async 'the last attempt at a result succeeds and fails'(play) {
    const { bot_id } = await bot(play, ['active', 'completed'])
    const { workflow_thread_id, processing_token } = await lastAttempt(play)
    const held = { workflow_thread_id, processing_token }
    return {
      subject: { machine: 'bot', id: bot_id },
      row: thread(bot_id),
      ways: [
        end('complete_processing', { ...held, qa_pairs: [], insights: {} }),
        end('fail_processing', { ...held, error_message: 'No sense.' }),
      ],
    }
  },
  async 'a result is there and is too late'(play) {
    const { bot_id } = await bot(play, ['active', 'completed'])
    const { workflow_thread_id, processing_token } = await play.call('claim_processing', { worker: 'w' })
    play.world.advance(700)
    return {
      subject: { machine: 'bot', id: bot_id },
      row: thread(bot_id),
      ways: [
        sweep,
        end('complete_processing', { workflow_thread_id, processing_token, qa_pairs: [], insights: {} }),
      ],
    }
  },
  async 'an execution is cancelled and gets its last result'(play) {
    const claim = await lastPrompt(play)
    return { ...ofExecution(claim.id), ways: [end('cancel_execution', { id: claim.id }), result(claim)] }
  },
  async 'an execution gets its last result and fails'(play) {
    const claim = await lastPrompt(play)
    const { id, lease_token } = claim
    return {
      ...ofExecution(id),
      ways: [result(claim), end('complete_execution', { id, lease_token, status: 'failed' })],
    }
  },
  async 'an execution is swept and gets its last result'(play) {
    const claim = await lastPrompt(play)
    play.world.advance(1_000)
    return { ...ofExecution(claim.id), ways: [sweep, result(claim)] }
  },
  async 'an execution is swept and cancelled'(play) {
    const { id } = await lastPrompt(play)
    play.world.advance(1_000)
    return { ...ofExecution(id), ways: [sweep, end('cancel_execution', { id })] }
  },
  async "a producer's run commits and is swept"(play) {
    const held = await producing(play)
    play.world.advance(61)
    return { ...ofRun(held), ways: [end('commit_producer', producer_commit(held)), sweep] }
  },
  async "a consumer's run commits and is swept"(play) {
    const held = await emitting(play)
    const { run_id, lease_token } = held
    play.world.advance(61)
    return {
      ...ofRun(held),
      ways: [end('commit_consumer', { run_id, lease_token, state: {}, publications: [] }), sweep],
    }
  },
  async 'a run commits and fails in two ways'(play) {
    const held = await emitting(play)
    const { run_id, lease_token } = held
    return {
      ...ofRun(held),
      ways: [
        end('commit_consumer', { run_id, lease_token, state: {}, publications: [] }),
        runEnds(held, 'failed:logic'),
        runEnds(held, 'crashed'),
      ],
    }
  },
  async 'a side effect is applied and fails'(play) {
    const held = await sending(play)
    const { mutation_id, lease_token } = held
    return {
      ...ofMutation(held),
      ways: [
        end('apply_mutation', { mutation_id, lease_token, result: {} }),
        end('fail_mutation', { mutation_id, lease_token, error: '422' }),
      ],
    }
  },
  async 'the other side says applied and failed'(play) {
    const held = await uncertain(play, reconcile)
    play.world.advance(100)
    const { mutation_id, attempt } = await play.call('claim_reconcile', { worker: 'w' })
    return {
      ...ofMutation(held),
      ways: [
        end('record_reconcile', { mutation_id, attempt, outcome: 'applied', result: {} }),
        end('record_reconcile', { mutation_id, attempt, outcome: 'failed' }),
        end('resolve_mutation', { mutation_id, how: 'failed' }),
      ],
    }
  },
  async 'a person says applied, skipped and failed'(play) {
    const held = await uncertain(play)
    const { mutation_id } = held
    return {
      ...ofMutation(held),
      ways: ['applied', 'skipped', 'failed'].map((how) => end('resolve_mutation', { mutation_id, how })),
    }
  },
  async 'a session is finished and swept'(play) {
    const held = await producing(play)
    const { session_id, lease_token } = held
    await play.call('commit_producer', producer_commit(held))
    play.world.advance(61)
    return {
      subject: { machine: 'script_run', id: session_id },
      row: workflow(held.workflow_id),
      ways: [end('finish_session', { session_id, lease_token }), sweep],
    }
  },
  async 'a script is repaired and given up'(play) {
    const held = await producing(play)
    const { run_id, lease_token: of_session } = held
    await play.call('update_handler_run_status', { run_id, lease_token: of_session, status: 'failed:logic' })
    const { task_id, lease_token } = await play.call('claim_task', { worker: 'a', has_agent: true })
    return {
      subject: null,
      row: workflow(held.workflow_id),
      ways: [
        end('apply_fix', { task_id, lease_token, code: 'workflow = {}', config, comment: 'Better.' }),
        end('fail_maintenance', { task_id, lease_token, error: 'No.' }),
      ],
    }
  },
  async 'a plan is complete and asks back'(play) {
    const { workflow_id } = await play.call('create_workflow', {
      owner_id: randomUUID(),
      message: 'The weather.',
    })
    const { task_id, lease_token } = await play.call('claim_task', { worker: 'a', has_agent: true })
    return {
      subject: null,
      row: workflow(workflow_id),
      ways: [
        end('complete_plan', { task_id, lease_token, code: 'workflow = {}', config }),
        end('wait_task', { task_id, lease_token, reply: 'Where?' }),
      ],
    }
  },
}

/** One of many gets it, or makes it. */
export const claims: Record<
  string,
  (play: Setting) => Promise<{ name: string; args: Record<string, unknown> }>
> = {
  async 'a launch'(play) {
    await bot(play, [], { launch: true })
    play.world.advance(151)
    return { name: 'claim_launch', args: { worker: 'w' } }
  },
  async 'a silent machine'(play) {
    await probed(play)
    play.world.advance(61)
    return { name: 'claim_probe', args: { worker: 'w' } }
  },
  async 'a transcript'(play) {
    await bot(play, ['active', 'completed'])
    return { name: 'claim_processing', args: { worker: 'w' } }
  },
  async 'an execution'(play) {
    await lastPrompt(play)
    play.world.advance(61)
    return { name: 'claim_execution', args: { worker: 'w' } }
  },
  async 'a due workflow'(play) {
    const { workflow_id } = await play.call('create_workflow', {
      ...{ owner_id: randomUUID(), title: 'Orders', code: 'workflow = {}', config },
    })
    await play.call('activate_workflow', { workflow_id })
    return { name: 'claim_workflow_session', args: { worker: 'w' } }
  },
  async 'a session that was given back'(play) {
    const { session_id, lease_token } = await producing(play)
    await play.call('yield_session', { session_id, lease_token })
    return { name: 'claim_workflow_session', args: { worker: 'w' } }
  },
  async 'a retry'(play) {
    const { run_id, lease_token } = await emitting(play)
    await play.call('update_handler_run_status', { run_id, lease_token, status: 'paused:approval' })
    return { name: 'create_retry_run', args: { run_id } }
  },
  async 'a side effect to ask after'(play) {
    await uncertain(play, reconcile)
    play.world.advance(100)
    return { name: 'claim_reconcile', args: { worker: 'w' } }
  },
  async "an agent's task"(play) {
    await play.call('create_workflow', { owner_id: randomUUID(), message: 'The weather.' })
    return { name: 'claim_task', args: { worker: 'a', has_agent: true } }
  },
  async 'a scan for machines of nobody'() {
    return { name: 'claim_orphan_scan', args: {} }
  },
}

/** The same request twenty times at once, and the table in which it leaves one row. */
export const repeated: Record<
  string,
  (play: Setting) => Promise<{ name: string; args: Record<string, unknown>; table: string; rows: number }>
> = {
  async 'a callback'(play) {
    const { bot_id } = await bot(play, ['joining'])
    return {
      name: 'report_bot',
      args: { bot_id, token_hash, status: 'awaiting_admission', event_id: 'one' },
      table: "public.status_events where machine = 'meeting' and to_status = 'awaiting_admission'",
      rows: 1,
    }
  },
  async 'a request for a bot'() {
    const args = {
      ...{ owner_id: randomUUID(), token_hash, platform: 'room', native_meeting_id: 'one', launch: true },
      idempotency_key: 'one',
    }
    return { name: 'request_bot', args, table: 'public.workflow_threads', rows: 1 }
  },
  async 'a request for an execution'({ call }) {
    const { id } = await call('create_flow', { owner_id: randomUUID(), name: 'Routine', prompts: ['Now?'] })
    return {
      name: 'create_execution',
      args: { flow_id: id, idempotency_key: 'one' },
      table: 'public.flow_executions',
      rows: 1,
    }
  },
  async 'a retry of an execution'(play) {
    const { id } = await lastPrompt(play)
    await play.call('cancel_execution', { id })
    return {
      name: 'retry_execution',
      args: { id, idempotency_key: 'one' },
      table: 'public.flow_executions',
      rows: 2,
    }
  },
  async 'a stored result'(play) {
    const { args } = result(await lastPrompt(play))
    return { name: 'update_execution_progress', args, table: 'public.flow_prompt_results', rows: 1 }
  },
  async 'a request for a workflow'() {
    const args = { owner_id: randomUUID(), message: 'The weather.', idempotency_key: 'one' }
    return { name: 'create_workflow', args, table: 'public.workflow_messages', rows: 1 }
  },
  async 'the beginning of a run'(play) {
    const { session_id, lease_token, run_id } = await producing(play)
    await play.call('commit_producer', producer_commit({ run_id, lease_token }))
    return {
      name: 'create_handler_run',
      args: { session_id, lease_token },
      table: 'public.handler_runs',
      rows: 2,
    }
  },
  async 'the beginning of a side effect'(play) {
    const { run_id, lease_token } = await mutating(play)
    const args = { run_id, lease_token, tool: 'Http.send', params: {}, mutation_id: randomUUID() }
    return { name: 'begin_mutation', args, table: 'public.workflow_mutations', rows: 1 }
  },
  async 'a commit'(play) {
    const args = producer_commit(await producing(play))
    return { name: 'commit_producer', args, table: 'public.workflow_events', rows: 1 }
  },
  async 'a fix'(play) {
    const { run_id, lease_token: of_session } = await producing(play)
    await play.call('update_handler_run_status', { run_id, lease_token: of_session, status: 'failed:logic' })
    const { task_id, lease_token } = await play.call('claim_task', { worker: 'a', has_agent: true })
    const args = { task_id, lease_token, code: 'workflow = {}', config, comment: 'Better.' }
    return { name: 'apply_fix', args, table: 'public.workflow_scripts', rows: 2 }
  },
}
