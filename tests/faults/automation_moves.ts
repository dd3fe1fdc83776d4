import { randomUUID } from 'node:crypto'
import { config, type Workflow } from '../support/workflow_steps.ts'
import { accepted, type Moves, type Part, type Play } from './play.ts'
import type { Called, Json } from './world.ts'

interface Session {
  session_id: string
  lease_token: string
  run: Json
  /** The side effect of its run, once it was begun. */
  mutation_id: string | null
}

interface Task {
  task_id: string
  lease_token: string
  type: 'planner' | 'maintainer'
}

const ends = [
  ...['paused:transient', 'paused:approval', 'paused:reconciliation'],
  ...['failed:logic', 'failed:internal', 'crashed', 'committed'],
]
const phases = [
  'pending',
  'executing',
  'preparing',
  'prepared',
  'mutating',
  'mutated',
  'emitting',
  'committed',
]
const WORKFLOWS = 3

/** Everything that is done with automations: by people, by workers that run scripts, by the agent's workers. */
export function automationMoves(): Part {
  const workflows: Workflow[] = []
  const sessions: Session[] = []
  const runs: string[] = []
  const mutations: string[] = []
  const asked: { mutation_id: string; attempt: number }[] = []
  const tasks: Task[] = []

  const some = ({ recent, pick, dice }: Play): string =>
    (dice() < 0.98 && workflows.length > 0
      ? (recent(workflows) ?? pick(workflows)).workflow_id
      : undefined) ?? randomUUID()
  const of_workflow =
    (name: string) =>
    (play: Play): Promise<Called> =>
      play.call(name, { workflow_id: some(play) })

  /** A call of a session's worker; what it answers of the run is what the worker knows. */
  async function as(
    play: Play,
    session: Session,
    name: string,
    args: Record<string, unknown>,
  ): Promise<Json> {
    const { lease_token } = session
    const called = await play.call(name, { ...args, lease_token })
    const answer = accepted(called)
    if (answer === null) {
      // A worker that is told that it is too late goes away; one that did something wrong looks anew.
      if (called.refused !== null) session.run = null
      return null
    }
    // A hop is answered with what it has changed.
    if (answer.run !== undefined) session.run = answer.run && { ...session.run, ...answer.run }
    return answer
  }

  function keep(session: Json): void {
    sessions.push({ ...session, mutation_id: null })
    if (session.run !== null) runs.push(session.run.run_id)
  }

  /** What the worker of a session does next. */
  async function step(play: Play, session: Session): Promise<void> {
    const { session_id, run } = session
    if (run === null) {
      const answer = await as(play, session, 'create_handler_run', { session_id })
      if (answer?.run) runs.push(answer.run.run_id)
      else if (play.dice() < 0.9) await as(play, session, 'finish_session', { session_id })
      session.mutation_id = null
      return
    }
    const { run_id } = run
    const advance = (phase: string, payload: Json = {}) =>
      as(play, session, 'advance_handler_run', { run_id, phase, payload })
    const topic = { topic: 'items' }
    const publications = [
      { ...topic, message_id: `${Math.floor(play.dice() * 20)}`, payload: { at: play.dice() } },
    ]
    switch (run.phase) {
      case 'pending':
        return advance(run.handler_type === 'producer' ? 'executing' : 'preparing')
      case 'executing': {
        const next_run_at = new Date(play.world.now().getTime() + 60_000)
        await as(play, session, 'commit_producer', { run_id, state: { n: 1 }, publications, next_run_at })
        session.run = null
        return
      }
      case 'preparing': {
        const answer = await as(play, session, 'peek_events', { run_id, ...topic, max_rows: 2 })
        const ids = (answer?.events ?? []).map(({ message_id }: Json) => message_id)
        const reservations = ids.length > 0 && play.dice() < 0.9 ? [{ ...topic, ids }] : []
        return advance('prepared', { result: { ids }, reservations, wake_at: null })
      }
      case 'prepared':
        return advance(run.events.length > 0 && play.dice() < 0.9 ? 'mutating' : 'emitting')
      case 'mutating': {
        if (session.mutation_id === null) {
          if (play.dice() < 0.1) return advance('mutated')
          const reconcile = play.dice() < 0.5 ? { url: 'https://x.test' } : null
          const begun = { run_id, tool: 'Http.send', params: {}, reconcile }
          session.mutation_id = (await as(play, session, 'begin_mutation', begun))?.mutation_id ?? null
          if (session.mutation_id !== null) mutations.push(session.mutation_id)
          return
        }
        const { mutation_id } = session
        if (play.dice() < 0.8) {
          const is_done = await as(play, session, 'apply_mutation', { mutation_id, result: { number: 1 } })
          if (is_done) session.run = { ...run, phase: 'mutated', mutation_outcome: 'success' }
        } else {
          const is_done = await as(play, session, 'fail_mutation', {
            mutation_id,
            error: '422',
            error_type: 'logic',
          })
          if (is_done) session.run = { ...run, phase: 'mutated', mutation_outcome: 'failure' }
        }
        return
      }
      case 'mutated':
        if (run.mutation_outcome !== 'failure') return advance('emitting')
        await as(play, session, 'update_handler_run_status', { run_id, status: 'failed:logic' })
        session.run = null
        return
      default:
        await as(play, session, 'commit_consumer', { run_id, state: {}, publications: [] })
        session.run = null
    }
  }

  const by_session = (play: Play, work: (session: Session) => Promise<unknown>): Promise<unknown> => {
    const session = play.recent(sessions)
    return session === undefined ? Promise.resolve() : work(session)
  }
  const by_task = (play: Play, work: (task: Task) => Promise<unknown>): Promise<unknown> => {
    const task = play.recent(tasks)
    return task === undefined ? Promise.resolve() : work(task)
  }
  const of_task =
    (name: string, more: (play: Play) => Record<string, unknown> = () => ({})) =>
    (play: Play) =>
      by_task(play, ({ task_id, lease_token }) => play.call(name, { task_id, lease_token, ...more(play) }))
  const script = ({ dice }: Play) => ({ code: `workflow = ${dice()}`, config })

  const moves: Moves = {
    async create_workflow(play) {
      if (workflows.length >= WORKFLOWS) return
      const owner_id = randomUUID()
      const idempotency_key = play.dice() < 0.3 ? 'a' : null
      const made =
        play.dice() < 0.3
          ? await play.call('create_workflow', { owner_id, message: 'Send me the weather.', idempotency_key })
          : await play.call('create_workflow', {
              owner_id,
              title: 'Orders',
              ...script(play),
              idempotency_key,
            })
      workflows.push({ ...made.answer, owner_id })
      await play.call('activate_workflow', { workflow_id: made.answer.workflow_id })
    },
    save_script(play) {
      const workflow = play.recent(workflows)
      return workflow === undefined
        ? Promise.resolve()
        : play.call('save_script', {
            workflow_id: workflow.workflow_id,
            owner_id: workflow.owner_id,
            ...script(play),
          })
    },
    activate_workflow: of_workflow('activate_workflow'),
    pause_workflow: of_workflow('pause_workflow'),
    resume_workflow: of_workflow('resume_workflow'),
    archive_workflow: of_workflow('archive_workflow'),
    unarchive_workflow: of_workflow('unarchive_workflow'),
    retry_workflow: of_workflow('retry_workflow'),
    request_run: (play) =>
      play.call('request_run', {
        workflow_id: some(play),
        idempotency_key: play.dice() < 0.2 ? play.pick(['a', 'b']) : null,
      }),
    async acknowledge_error(play) {
      const workflow_id = some(play)
      const { answer } = await play.call('list_workflow_messages', { workflow_id, max_rows: 50 })
      const event = answer?.items.find(({ type }: Json) => type === 'error')
      if (event) await play.call('acknowledge_error', { workflow_id, event_id: event.id ?? event.message_id })
    },
    async acknowledge_notification(play) {
      const workflow_id = some(play)
      const { answer } = await play.call('get_workflow', { workflow_id })
      const [notification] = answer?.notifications ?? []
      if (notification)
        await play.call('acknowledge_notification', { workflow_id, notification_id: notification.id })
    },
    update_workflow: (play) =>
      play.call('update_workflow', {
        workflow_id: some(play),
        title: play.pick(['Orders', ' ', null]),
        time_zone: play.pick(['Europe/Berlin', 'Nowhere', null]),
      }),
    async add_workflow_message(play) {
      await play.call('add_workflow_message', { workflow_id: some(play), content: 'More of it.' })
    },
    set_workflow_secret: (play) =>
      play.call('set_workflow_secret', {
        workflow_id: some(play),
        name: 'KEY',
        value: play.pick(['one', 'two', null]),
      }),
    resolve_mutation: (play) => {
      const mutation_id = play.recent(mutations)
      const how = play.pick(['failed', 'skipped', 'applied', 'ask_again'])
      return mutation_id === undefined
        ? Promise.resolve()
        : play.call('resolve_mutation', { mutation_id, how })
    },
    async claim_workflow_session({ call }) {
      const { answer } = await call('claim_workflow_session', { worker: 'w' })
      if (answer !== null) keep(answer)
    },
    work: (play) => by_session(play, (session) => step(play, session)),
    // Several steps in a row: at random alone hardly anything comes to its end.
    work_on: (play) =>
      by_session(play, async (session) => {
        for (let i = 0; i < 8; i++) await step(play, session)
      }),
    renew_session: (play) =>
      by_session(play, ({ session_id, lease_token }) =>
        play.call('renew_session', { session_id, lease_token }),
      ),
    yield_session: (play) =>
      by_session(play, ({ session_id, lease_token }) =>
        play.call('yield_session', { session_id, lease_token }),
      ),
    finish_session: (play) =>
      by_session(play, ({ session_id, lease_token }) =>
        play.call('finish_session', { session_id, lease_token }),
      ),
    create_handler_run: (play) =>
      by_session(play, (session) =>
        as(play, session, 'create_handler_run', {
          session_id: session.session_id,
          ...play.pick([
            {},
            { handler_type: 'consumer', handler_name: 'send' },
            { handler_type: 'producer', handler_name: '?' },
          ]),
        }),
      ),
    advance_handler_run: (play) =>
      by_session(play, async (session) => {
        const run_id = play.recent(runs)
        if (run_id === undefined) return
        const phase = play.pick(phases)
        await play.call('advance_handler_run', { run_id, phase, lease_token: session.lease_token })
      }),
    update_handler_run_status: (play) =>
      by_session(play, async (session) => {
        const run_id = session.run?.run_id ?? play.recent(runs)
        if (run_id === undefined) return
        const status = play.pick(ends)
        await as(play, session, 'update_handler_run_status', { run_id, status, error_type: 'network' })
      }),
    commit_producer: (play) =>
      by_session(play, async ({ lease_token }) => {
        const run_id = play.recent(runs)
        if (run_id === undefined) return
        const next_run_at = play.world.now()
        await play.call('commit_producer', {
          run_id,
          state: null,
          publications: [],
          next_run_at,
          lease_token,
        })
      }),
    commit_consumer: (play) =>
      by_session(play, async ({ lease_token }) => {
        const run_id = play.recent(runs)
        const publications = play.pick([[], [{ topic: 'items', message_id: '1', payload: {} }]])
        if (run_id !== undefined)
          await play.call('commit_consumer', { run_id, state: {}, publications, lease_token })
      }),
    begin_mutation: (play) =>
      by_session(play, async ({ lease_token }) => {
        const run_id = play.recent(runs)
        if (run_id !== undefined)
          await play.call('begin_mutation', { run_id, tool: 'Http.send', params: {}, lease_token })
      }),
    apply_mutation: (play) =>
      by_session(play, async ({ lease_token }) => {
        const mutation_id = play.recent(mutations)
        if (mutation_id !== undefined)
          await play.call('apply_mutation', { mutation_id, result: { number: 1 }, lease_token })
      }),
    fail_mutation: (play) =>
      by_session(play, async ({ lease_token }) => {
        const mutation_id = play.recent(mutations)
        if (mutation_id !== undefined)
          await play.call('fail_mutation', { mutation_id, error: '422', lease_token })
      }),
    async create_retry_run(play) {
      const run_id = play.recent(runs)
      if (run_id === undefined) return
      const { answer } = await play.call('create_retry_run', { run_id, worker: 'w' })
      if (answer !== null) keep(answer)
    },
    async claim_reconcile(play) {
      const { answer } = await play.call('claim_reconcile', { worker: 'w' })
      if (answer === null) return
      asked.push(answer)
      if (play.dice() < 0.5) await moves.record_reconcile?.(play)
    },
    async record_reconcile(play) {
      const question = play.recent(asked)
      if (question === undefined) return
      const { mutation_id, attempt } = question
      const outcome = play.pick(['applied', 'failed', 'again', 'again'])
      await play.call('record_reconcile', { mutation_id, attempt, outcome, result: { number: 2 } })
    },
    async claim_task(play) {
      const { answer } = await play.call('claim_task', { worker: 'a', has_agent: play.dice() > 0.05 })
      if (answer !== null) tasks.push(answer)
    },
    renew_task: of_task('renew_task'),
    store_task_step: of_task('store_task_step', () => ({
      messages: [{ role: 'assistant', content: 'Hm.' }],
    })),
    yield_task: of_task('yield_task'),
    wait_task: of_task('wait_task', () => ({ reply: 'What?' })),
    complete_plan: of_task('complete_plan', (play) => ({ ...script(play), title: 'T', summary: 'S' })),
    apply_fix: of_task('apply_fix', (play) => ({ ...script(play), comment: 'Better.' })),
    fail_maintenance: of_task('fail_maintenance', () => ({ code: 'MAINTENANCE_FAILED', error: 'No.' })),
    fail_task: of_task('fail_task', () => ({ error: 'No.', error_code: 'AGENT_TIMEOUT' })),
  }
  const often = ['claim_workflow_session', 'work', 'work_on', 'work_on']
  return {
    moves,
    often: [
      ...often,
      ...often,
      ...often,
      'create_workflow',
      'create_workflow',
      'resolve_mutation',
      'claim_task',
      'retry_workflow',
      'update_handler_run_status',
      'claim_reconcile',
      'activate_workflow',
    ],
  }
}
