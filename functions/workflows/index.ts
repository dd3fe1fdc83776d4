import type { z } from 'zod'
import {
  ActivateRequest,
  AddMessageRequest,
  CreateWorkflowRequest,
  ResolveMutationRequest,
  SaveScriptRequest,
  SetSecretRequest,
  UpdateWorkflowRequest,
  WorkflowActionRequest,
  WorkflowPageQuery,
  WorkflowQuery,
  WorkflowsQuery,
} from '../../src/contract/workflow_requests.ts'
import { WholeWorkflowRun, WorkflowRunList } from '../../src/contract/workflow_runs.ts'
import {
  AddedMessage,
  SavedScript,
  Script,
  ScriptList,
  SecretNames,
  WorkflowMessageList,
} from '../../src/contract/workflow_texts.ts'
import {
  NewWorkflow,
  RequestedRun,
  WholeWorkflow,
  Workflow,
  WorkflowList,
} from '../../src/contract/workflows.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import { nextRun } from '../../src/worker/script/next_run.ts'
import { validateScript } from '../../src/worker/script/validate_script.ts'
import { type AuthMode, actingFor, actingOn, readingFor } from '../_shared/caller.ts'
import { endpoint, endpoints } from '../_shared/endpoint.ts'
import { invalidRequest, type RefusalCode, refusal } from '../_shared/errors.ts'
import { idempotencyKey } from '../_shared/idempotency.ts'
import { idIn } from '../_shared/path.ts'

const auth: AuthMode[] = ['user', 'secret']

/** /workflows/:id */
const one = /^([^/]+)$/
const messages_path = /^([^/]+)\/messages$/
const runs_path = /^([^/]+)\/runs$/
const run_of_path = /^([^/]+)\/runs\/([^/]+)$/
const scripts_path = /^([^/]+)\/scripts$/
const script_of_path = /^([^/]+)\/scripts\/([^/]+)$/
const script_path = /^([^/]+)\/script$/
const activate_path = /^([^/]+)\/activate$/
const action_path = /^([^/]+)\/(pause|resume|archive|unarchive|retry)$/
const run_path = /^([^/]+)\/run$/
const secrets_path = /^([^/]+)\/secrets$/
const acknowledge_path = /^([^/]+)\/errors\/([^/]+)\/acknowledge$/
const acknowledge_notification_path = /^([^/]+)\/notifications\/([^/]+)\/acknowledge$/
const resolve_path = /^([^/]+)\/mutations\/([^/]+)\/resolve$/

/** Someone says what is to be automated, or brings the script. */
const create = endpoint({ method: 'POST', auth, input: CreateWorkflowRequest }, async (request, context) => {
  const { message = null, title = null, code = null, time_zone = 'UTC' } = request
  const workflow = await context.rpc('create_workflow', {
    ...actingFor(context.caller, request.owner_id),
    message,
    title,
    code,
    config: code === null ? null : await configOf(code),
    time_zone,
    idempotency_key: idempotencyKey(context.request),
  })
  return { status: 201, body: NewWorkflow.parse(workflow) }
})

const list = endpoint({ method: 'GET', auth, input: WorkflowsQuery }, async (query, { caller, db }) => {
  const { limit = 50, cursor = null, state = null } = query
  const owner_id = readingFor(caller, query.owner_id, false)
  const page = await callRpc(db, 'list_workflows', { max_rows: limit, cursor, owner_id, state })
  return { status: 200, body: WorkflowList.parse(page) }
})

const read = endpoint(
  { method: 'GET', auth, input: at(one, WorkflowQuery) },
  async (query, { caller, path, db }) => {
    const workflow_id = workflowIn(path, one)
    const owner_id = readingFor(caller, query.owner_id, true)
    const [workflow, scripts] = await Promise.all([
      callRpc<object | null>(db, 'get_workflow', { workflow_id, owner_id }),
      callRpc<{ items: unknown }>(db, 'list_workflow_scripts', { workflow_id, owner_id }),
    ])
    const whole = { ...found(workflow, 'workflow_not_found'), scripts: scripts.items }
    return { status: 200, body: WholeWorkflow.parse(whole) }
  },
)

/** A cron means another moment in another time zone: the library that knows them says which is next. */
const update = endpoint(
  { method: 'PATCH', auth, input: at(one, UpdateWorkflowRequest) },
  async ({ title = null, time_zone = null, ...request }, { caller, path, db, rpc }) => {
    const workflow_id = workflowIn(path, one)
    const acting = actingOn(caller, request.owner_id)
    let next_runs: Record<string, string> | null = null
    if (time_zone !== null) {
      const read = await callRpc<object | null>(db, 'get_workflow', {
        workflow_id,
        owner_id: acting.owner_id,
      })
      const { schedules } = Workflow.parse(found(read, 'workflow_not_found'))
      const crons = schedules.flatMap(({ cron }) => cron ?? [])
      const now = new Date()
      next_runs = Object.fromEntries(
        crons.map((cron) => [cron, nextRun({ cron }, time_zone, now).toISOString()]),
      )
    }
    const workflow = await rpc('update_workflow', { workflow_id, title, time_zone, next_runs, ...acting })
    return { status: 200, body: Workflow.parse(workflow) }
  },
)

/** What is said goes to the agent: to the task that waits for it, or to a new one. */
const addMessage = endpoint(
  { method: 'POST', auth, input: at(messages_path, AddMessageRequest) },
  async ({ content, ...request }, { caller, path, rpc }) => {
    const workflow_id = workflowIn(path, messages_path)
    const args = { workflow_id, content, ...actingOn(caller, request.owner_id) }
    return { status: 201, body: AddedMessage.parse(await rpc('add_workflow_message', args)) }
  },
)

const listMessages = endpoint(
  { method: 'GET', auth, input: at(messages_path, WorkflowPageQuery) },
  async ({ limit = 50, cursor = null, ...query }, { caller, path, db }) => {
    const workflow_id = workflowIn(path, messages_path)
    const owner_id = readingFor(caller, query.owner_id, true)
    const page = await callRpc(db, 'list_workflow_messages', {
      workflow_id,
      max_rows: limit,
      cursor,
      owner_id,
    })
    return { status: 200, body: WorkflowMessageList.parse(found(page, 'workflow_not_found')) }
  },
)

/** Saving activates nothing. */
const saveScript = endpoint(
  { method: 'POST', auth, input: at(script_path, SaveScriptRequest) },
  async ({ code, comment = null, summary = null, ...request }, { caller, path, rpc }) => {
    const workflow_id = workflowIn(path, script_path)
    const acting = actingOn(caller, request.owner_id)
    const config = await configOf(code)
    const saved = await rpc('save_script', { workflow_id, ...acting, code, config, comment, summary })
    return { status: 201, body: SavedScript.parse(saved) }
  },
)

const listScripts = endpoint(
  { method: 'GET', auth, input: at(scripts_path, WorkflowQuery) },
  async (query, { caller, path, db }) => {
    const workflow_id = workflowIn(path, scripts_path)
    const owner_id = readingFor(caller, query.owner_id, true)
    const scripts = await callRpc(db, 'list_workflow_scripts', { workflow_id, owner_id })
    return { status: 200, body: ScriptList.parse(found(scripts, 'workflow_not_found')) }
  },
)

const readScript = endpoint(
  { method: 'GET', auth, input: at(script_of_path, WorkflowQuery) },
  async (query, { caller, path, db }) => {
    const workflow_id = workflowIn(path, script_of_path)
    const script_id = secondIn(path, script_of_path, 'script_not_found')
    const owner_id = readingFor(caller, query.owner_id, true)
    const answer = await callRpc(db, 'get_workflow_script', { script_id, owner_id })
    const script = Script.parse(found(answer, 'script_not_found'))
    if (script.workflow_id !== workflow_id.toLowerCase()) throw refusal('script_not_found')
    return { status: 200, body: script }
  },
)

const activate = endpoint(
  { method: 'POST', auth, input: at(activate_path, ActivateRequest) },
  async ({ script_id = null, ...request }, { caller, path, rpc }) => {
    const workflow_id = workflowIn(path, activate_path)
    const workflow = await rpc('activate_workflow', {
      workflow_id,
      script_id,
      ...actingOn(caller, request.owner_id),
    })
    return { status: 200, body: Workflow.parse(workflow) }
  },
)

/** What takes nothing but the workflow: pause_workflow and its like. */
const act = endpoint(
  { method: 'POST', auth, input: at(action_path, WorkflowActionRequest) },
  async (request, { caller, path, rpc }) => {
    const workflow_id = workflowIn(path, action_path)
    const verb = action_path.exec(path)?.[2]
    const workflow = await rpc(`${verb}_workflow`, { workflow_id, ...actingOn(caller, request.owner_id) })
    return { status: 200, body: Workflow.parse(workflow) }
  },
)

/** Once, now; what it does to the world is real. */
const run = endpoint(
  { method: 'POST', auth, input: at(run_path, WorkflowActionRequest) },
  async (request, { request: http, caller, path, rpc }) => {
    const workflow_id = workflowIn(path, run_path)
    const workflow = await rpc('request_run', {
      workflow_id,
      ...actingOn(caller, request.owner_id),
      idempotency_key: idempotencyKey(http),
    })
    return { status: 202, body: RequestedRun.parse(workflow) }
  },
)

/** Nobody reads a secret again: the answer has the names. */
const setSecret = endpoint(
  { method: 'POST', auth, input: at(secrets_path, SetSecretRequest) },
  async ({ name, value, ...request }, { caller, path, rpc }) => {
    const workflow_id = workflowIn(path, secrets_path)
    const args = { workflow_id, name, value, ...actingOn(caller, request.owner_id) }
    return { status: 200, body: SecretNames.parse(await rpc('set_workflow_secret', args)) }
  },
)

const acknowledge = endpoint(
  { method: 'POST', auth, input: at(acknowledge_path, WorkflowActionRequest) },
  async (request, { caller, path, rpc }) => {
    const workflow = await rpc('acknowledge_error', {
      workflow_id: workflowIn(path, acknowledge_path),
      event_id: secondIn(path, acknowledge_path, 'error_not_found'),
      ...actingOn(caller, request.owner_id),
    })
    return { status: 200, body: Workflow.parse(workflow) }
  },
)

const acknowledgeNotification = endpoint(
  { method: 'POST', auth, input: at(acknowledge_notification_path, WorkflowActionRequest) },
  async (request, { caller, path, rpc }) => {
    const workflow = await rpc('acknowledge_notification', {
      workflow_id: workflowIn(path, acknowledge_notification_path),
      notification_id: secondIn(path, acknowledge_notification_path, 'notification_not_found'),
      ...actingOn(caller, request.owner_id),
    })
    return { status: 200, body: Workflow.parse(workflow) }
  },
)

/** A person knows what became of a side effect of which the system does not. */
const resolve = endpoint(
  { method: 'POST', auth, input: at(resolve_path, ResolveMutationRequest) },
  async ({ how, result = null, ...request }, { caller, path, rpc }) => {
    const workflow = await rpc('resolve_mutation', {
      workflow_id: workflowIn(path, resolve_path),
      mutation_id: secondIn(path, resolve_path, 'mutation_not_found'),
      how,
      result,
      ...actingOn(caller, request.owner_id),
    })
    return { status: 200, body: Workflow.parse(workflow) }
  },
)

const listRuns = endpoint(
  { method: 'GET', auth, input: at(runs_path, WorkflowPageQuery) },
  async ({ limit = 20, cursor = null, ...query }, { caller, path, db }) => {
    const workflow_id = workflowIn(path, runs_path)
    const owner_id = readingFor(caller, query.owner_id, true)
    const page = await callRpc(db, 'list_workflow_runs', { workflow_id, max_rows: limit, cursor, owner_id })
    return { status: 200, body: WorkflowRunList.parse(found(page, 'workflow_not_found')) }
  },
)

const readRun = endpoint(
  { method: 'GET', auth, input: at(run_of_path, WorkflowQuery) },
  async (query, { caller, path, db }) => {
    const workflow_id = workflowIn(path, run_of_path)
    const session_id = secondIn(path, run_of_path, 'workflow_run_not_found')
    const owner_id = readingFor(caller, query.owner_id, true)
    const session = await callRpc(db, 'get_workflow_run', { session_id, workflow_id, owner_id })
    return { status: 200, body: WholeWorkflowRun.parse(found(session, 'workflow_run_not_found')) }
  },
)

export default endpoints(
  create,
  list,
  read,
  update,
  addMessage,
  listMessages,
  saveScript,
  listScripts,
  readScript,
  activate,
  act,
  run,
  setSecret,
  acknowledge,
  acknowledgeNotification,
  resolve,
  listRuns,
  readRun,
)

/** The input of the paths of one form. */
function at<S extends z.ZodType>(form: RegExp, schema: S): (path: string) => S | null {
  return (path) => (form.test(path) ? schema : null)
}

function workflowIn(path: string, form: RegExp): string {
  return idIn(path, form, 'workflow_not_found')
}

/** The second id of a path. */
function secondIn(path: string, form: RegExp, not_found: RefusalCode): string {
  return idIn(form.exec(path)?.[2] ?? '', one, not_found)
}

/** What a read found. Refuses where it found nothing. */
function found<T>(answer: T | null, not_found: RefusalCode): T {
  if (answer === null) throw refusal(not_found)
  return answer
}

/** What a script declares. Refuses with the issues of a script that can not be run. */
async function configOf(code: string): Promise<unknown> {
  const { config, issues } = await validateScript(code)
  if (issues.length > 0) {
    throw invalidRequest(
      issues.map(({ path, message }) => ({ path: path === 'code' ? path : `code.${path}`, message })),
    )
  }
  return config
}
