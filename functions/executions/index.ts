import {
  ActiveExecutions,
  ActiveQuery,
  CancelRequest,
  Execution,
  ExecutionList,
  ExecutionQuery,
  ExecutionResponse,
  RecentQuery,
  RetryRequest,
} from '../../src/contract/executions.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import { type AuthMode, actingOn, readingFor } from '../_shared/caller.ts'
import { endpoint, endpoints } from '../_shared/endpoint.ts'
import { refusal } from '../_shared/errors.ts'
import { idempotencyKey } from '../_shared/idempotency.ts'
import { idIn } from '../_shared/path.ts'

const auth: AuthMode[] = ['user', 'secret']

/** /executions/:id */
const one = /^(?!active$|recent$)([^/]+)$/
const cancel_path = /^([^/]+)\/cancel$/
const retry_path = /^([^/]+)\/retry$/

const active = endpoint(
  { method: 'GET', auth, input: (path) => (path === 'active' ? ActiveQuery : null) },
  async (query, { caller, db }) => {
    const owner_id = readingFor(caller, query.owner_id, false)
    const executions = await callRpc(db, 'list_active_executions', { owner_id })
    return { status: 200, body: ActiveExecutions.parse(executions) }
  },
)

const recent = endpoint(
  { method: 'GET', auth, input: (path) => (path === 'recent' ? RecentQuery : null) },
  async ({ limit = 20, cursor = null, ...query }, { caller, db }) => {
    const owner_id = readingFor(caller, query.owner_id, false)
    const page = await callRpc(db, 'list_recent_executions', { max_rows: limit, cursor, owner_id })
    return { status: 200, body: ExecutionList.parse(page) }
  },
)

const read = endpoint(
  { method: 'GET', auth, input: (path) => (one.test(path) ? ExecutionQuery : null) },
  async ({ include = ['results'], ...query }, { caller, path, db }) => {
    const id = idIn(path, one, 'execution_not_found')
    const owner_id = readingFor(caller, query.owner_id, true)
    const execution = await callRpc(db, 'get_execution', { id, include, owner_id })
    if (execution === null) throw refusal('execution_not_found')
    return { status: 200, body: Execution.parse(execution) }
  },
)

/** It ends at once; an answer that comes later is dropped. */
const cancel = endpoint(
  { method: 'POST', auth, input: (path) => (cancel_path.test(path) ? CancelRequest : null) },
  async (request, { caller, path, rpc }) => {
    const id = idIn(path, cancel_path, 'execution_not_found')
    const execution = await rpc('cancel_execution', { id, ...actingOn(caller, request.owner_id) })
    return { status: 202, body: ExecutionResponse.parse(execution) }
  },
)

/** A failed execution once more, as a new one. */
const retry = endpoint(
  { method: 'POST', auth, input: (path) => (retry_path.test(path) ? RetryRequest : null) },
  async ({ from, ...request }, { request: http, caller, path, rpc }) => {
    const execution = await rpc('retry_execution', {
      id: idIn(path, retry_path, 'execution_not_found'),
      retry_from: from,
      ...actingOn(caller, request.owner_id),
      idempotency_key: idempotencyKey(http),
    })
    return { status: 202, body: ExecutionResponse.parse(execution) }
  },
)

export default endpoints(active, recent, read, cancel, retry)
