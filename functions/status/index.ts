import { namesOneBot, StatusQuery } from '../../src/contract/status.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import { readingFor } from '../_shared/caller.ts'
import { endpoint } from '../_shared/endpoint.ts'
import { refusal } from '../_shared/errors.ts'

/** How is a bot? Which bots do I have? A read, under the caller's own rights. */
export default endpoint(
  { method: 'GET', auth: ['user', 'secret'], input: StatusQuery },
  async (query, { caller, db }) => {
    const one = namesOneBot(query)
    const owner_id = readingFor(caller, query.owner_id, one && query.platform === undefined)
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
