import { ExecutionResponse } from '../../src/contract/executions.ts'
import {
  CreateFlowRequest,
  DeletedFlow,
  Flow,
  FlowList,
  FlowQuery,
  FlowsQuery,
  RunFlowRequest,
  UpdateFlowRequest,
} from '../../src/contract/flows.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import { type AuthMode, actingFor, actingOn, readingFor } from '../_shared/caller.ts'
import { endpoint, endpoints } from '../_shared/endpoint.ts'
import { refusal } from '../_shared/errors.ts'
import { idempotencyKey } from '../_shared/idempotency.ts'
import { idIn } from '../_shared/path.ts'

const auth: AuthMode[] = ['user', 'secret']

/** /flows/:id */
const one = /^([^/]+)$/

/** /flows/:id/run */
const run_path = /^([^/]+)\/run$/

/** A user keeps a new flow. */
const create = endpoint({ method: 'POST', auth, input: CreateFlowRequest }, async (flow, { caller, rpc }) => {
  const { owner_id } = actingFor(caller, flow.owner_id)
  const { name, prompts, agent = {} } = flow
  return { status: 201, body: Flow.parse(await rpc('create_flow', { owner_id, name, prompts, agent })) }
})

const list = endpoint({ method: 'GET', auth, input: FlowsQuery }, async (query, { caller, db }) => {
  const owner_id = readingFor(caller, query.owner_id, false)
  const { limit, cursor = null } = query
  const answer = await callRpc(db, 'list_flows', { max_rows: limit ?? 50, cursor, owner_id })
  return { status: 200, body: FlowList.parse(answer) }
})

const read = endpoint(
  { method: 'GET', auth, input: (path) => (one.test(path) ? FlowQuery : null) },
  async (query, { caller, path, db }) => {
    const flow_id = idIn(path, one, 'flow_not_found')
    const flow = await callRpc(db, 'get_flow', {
      flow_id,
      owner_id: readingFor(caller, query.owner_id, true),
    })
    if (flow === null) throw refusal('flow_not_found')
    return { status: 200, body: Flow.parse(flow) }
  },
)

/** Executions that run keep the prompts with which they began. */
const update = endpoint(
  { method: 'PATCH', auth, input: (path) => (one.test(path) ? UpdateFlowRequest : null) },
  async ({ name = null, prompts = null, agent = null, ...request }, { caller, path, rpc }) => {
    const flow_id = idIn(path, one, 'flow_not_found')
    const { owner_id } = actingOn(caller, request.owner_id)
    const flow = await rpc('update_flow', { flow_id, owner_id, name, prompts, agent })
    return { status: 200, body: Flow.parse(flow) }
  },
)

const remove = endpoint(
  { method: 'DELETE', auth, input: (path) => (one.test(path) ? FlowQuery : null) },
  async (query, { caller, path, rpc }) => {
    const flow_id = idIn(path, one, 'flow_not_found')
    const { owner_id } = actingOn(caller, query.owner_id)
    return { status: 200, body: DeletedFlow.parse(await rpc('delete_flow', { flow_id, owner_id })) }
  },
)

/** The flow runs: a worker takes it within a second. */
const run = endpoint(
  { method: 'POST', auth, input: (path) => (run_path.test(path) ? RunFlowRequest : null) },
  async (request, { request: http, caller, path, rpc }) => {
    const flow_id = idIn(path, run_path, 'flow_not_found')
    const { owner_id, actor } = actingOn(caller, request.owner_id)
    const execution = await rpc('create_execution', {
      flow_id,
      total_prompts: request.total_prompts ?? null,
      owner_id,
      actor,
      idempotency_key: idempotencyKey(http),
    })
    return { status: 202, body: ExecutionResponse.parse(execution) }
  },
)

export default endpoints(create, list, read, update, remove, run)
