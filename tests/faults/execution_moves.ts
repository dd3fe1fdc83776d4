import { randomUUID } from 'node:crypto'
import { accepted, type Moves, type Part, type Play } from './play.ts'

interface Claim {
  id: string
  lease_token: string
  current_prompt_index: number
}

const owners = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002']

/** Everything that is done with executions of prompt flows: by people and by workers. */
export function executionMoves(): Part {
  const flows: string[] = []
  const executions: string[] = []
  const claims: Claim[] = []

  const some = ({ recent, dice }: Play): string =>
    (dice() < 0.98 ? recent(executions) : undefined) ?? randomUUID()
  const held = ({ recent }: Play, work: (claim: Claim) => Promise<unknown>): Promise<unknown> => {
    const claim = recent(claims)
    return claim === undefined ? Promise.resolve() : work(claim)
  }

  const moves: Moves = {
    async create_flow({ call, pick }) {
      const prompts = Array.from({ length: pick([1, 2, 3]) }, (_, i) => `Prompt ${i}?`)
      flows.push((await call('create_flow', { owner_id: pick(owners), name: 'Routine', prompts })).answer.id)
    },
    async create_execution(play) {
      const { call, dice, pick, recent } = play
      const flow_id = recent(flows)
      if (flow_id === undefined) return moves.create_flow?.(play)
      const idempotency_key = dice() < 0.2 ? pick(['a', 'b']) : null
      const answer = accepted(await call('create_execution', { flow_id, idempotency_key }))
      if (answer !== null) executions.push(answer.id)
    },
    async claim_execution({ call }) {
      const { answer } = await call('claim_execution', { worker: 'w' })
      if (answer !== null) claims.push(answer)
    },
    renew_execution_lease: (play) =>
      held(play, ({ id, lease_token }) => play.call('renew_execution_lease', { id, lease_token })),
    yield_execution: (play) =>
      held(play, ({ id, lease_token }) =>
        play.call('yield_execution', {
          id,
          lease_token,
          failed: play.dice() < 0.7,
          retry_after_s: play.pick([null, 2, 1000]),
        }),
      ),
    update_execution_progress: (play) =>
      held(play, async (claim) => {
        const { id, lease_token } = claim
        const prompt_index = play.dice() < 0.9 ? claim.current_prompt_index : play.pick([0, 1, 2, 3, -1])
        const answer = accepted(
          await play.call('update_execution_progress', {
            id,
            lease_token,
            prompt_index,
            prompt_result: play.dice() < 0.85 ? { response: `Answer ${prompt_index}.` } : { error: 'No.' },
          }),
        )
        if (answer !== null) claim.current_prompt_index = answer.current_prompt_index
      }),
    complete_execution: (play) =>
      held(play, ({ id, lease_token }) =>
        play.call('complete_execution', {
          id,
          lease_token,
          status: play.pick(['completed', 'failed']),
          error: 'No.',
          error_code: 'AGENT_TIMEOUT',
        }),
      ),
    cancel_execution: (play) => play.call('cancel_execution', { id: some(play) }),
    async retry_execution(play) {
      const { call, dice, pick } = play
      const idempotency_key = dice() < 0.2 ? pick(['a', 'b']) : null
      const retry_from = pick(['start', 'failed_prompt', 'failed_prompt', 'nowhere'])
      const answer = accepted(await call('retry_execution', { id: some(play), retry_from, idempotency_key }))
      if (answer !== null) executions.push(answer.id)
    },
  }
  const often = ['create_execution', 'claim_execution', 'update_execution_progress']
  return { moves, often: [...often, ...often, 'update_execution_progress'] }
}
