import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { rpc } from './rpc.ts'

export type ExecutionRow = {
  id: string
  owner_id: string
  flow_id: string
  status: string
  started: boolean
  current_prompt_index: number
  total_prompts: number
  error_code: string | null
  error: string | null
  [column: string]: unknown
}

export type Claimed = {
  id: string
  lease_token: string
  current_prompt_index: number
  prompt_attempts: number
  conversation: { prompt: string; response: string }[]
}

/** Runs a new flow with these prompts; of a new owner unless one is given. */
export async function running(
  sql: postgres.Sql,
  prompts: unknown[],
  { owner_id = randomUUID() }: { owner_id?: string } = {},
): Promise<{ flow: { id: string }; execution: ExecutionRow }> {
  const flow = await rpc<{ id: string }>(sql, 'create_flow', { owner_id, name: 'Routine', prompts })
  const execution = await rpc<ExecutionRow>(sql, 'create_execution', { flow_id: flow.id })
  return { flow, execution }
}

export function claimExecution(sql: postgres.Sql, worker = 'w'): Promise<Claimed | null> {
  return rpc<Claimed | null>(sql, 'claim_execution', { worker })
}

/** Stores a result under a claim's token. */
export function storeResult(
  sql: postgres.Sql,
  claim: { id: string; lease_token: string },
  prompt_index: number,
  prompt_result: Record<string, unknown>,
): Promise<Record<string, unknown>> {
  const { id, lease_token } = claim
  return rpc(sql, 'update_execution_progress', { id, prompt_index, prompt_result, lease_token })
}

/** The execution with its results and its history. */
export async function executionOf(
  sql: postgres.Sql,
  { id }: { id: string },
): Promise<
  ExecutionRow & { prompt_results: { index: number; response: string | null; error: string | null }[] }
> {
  return rpc(sql, 'get_execution', { id, include: ['results', 'events'] })
}
