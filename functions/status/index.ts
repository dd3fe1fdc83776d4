import { namesOneBot, StatusQuery } from '../../src/contract/status.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import type { Caller } from '../_shared/caller.ts'
import { endpoint } from '../_shared/endpoint.ts'
import { refusal } from '../_shared/errors.ts'

/** How is a bot? Which bots do I have? A read, under the caller's own rights. */
export default endpoint(
  { method: 'GET', auth: ['user', 'secret'], input: StatusQuery },
  async (query, { caller, db }) => {
    const one = namesOneBot(query)
    const owner_id = ownerFilter(caller, query.owner_id, one && query.platform === undefined)
    if (!one) {
      const list = await callRpc(db, 'list_bots', {
        status: query.status ?? null,
        meeting_status: query.meeting_status ?? null,
        active: query.active ?? null,
        max_rows: query.limit ?? 50,
        cursor: query.cursor ?? null,
        owner_id,
      })
      return { status: 200, body: list }
    }
    const bot = await callRpc(db, 'get_bot', {
      bot_id: query.bot_id ?? null,
      workflow_thread_id: query.workflow_thread_id ?? null,
      platform: query.platform ?? null,
      native_meeting_id: query.native_meeting_id ?? null,
      include: query.include ?? [],
      owner_id,
    })
    if (bot === null) throw refusal('bot_not_found')
    return { status: 200, body: bot }
  },
)

/**
 * Whose bots are meant: a user's own. An operator reads any bot by its id, and another owner's list or meeting by
 * naming the owner; a secret key reads everything until it names one.
 */
function ownerFilter(caller: Caller, owner_id: string | undefined, by_id: boolean): string | null {
  if (caller.kind !== 'user') return owner_id ?? null
  if (caller.operator) return owner_id ?? (by_id ? null : caller.user_id)
  if (owner_id !== undefined && owner_id.toLowerCase() !== caller.user_id.toLowerCase()) {
    throw refusal('forbidden', { message: 'Only an operator may read what another owner has.' })
  }
  return caller.user_id
}
