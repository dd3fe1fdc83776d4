import { callbackRequest } from '../../src/contract/callback.ts'
import { endpoint } from '../_shared/endpoint.ts'
import { refusal } from '../_shared/errors.ts'

/** A bot says what it does. The database compares its token, judges the move and tells it what to do next. */
export default endpoint(
  { method: 'POST', auth: ['bot'], input: callbackRequest },
  async (report, { caller, rpc }) => {
    if (caller.kind !== 'bot') throw refusal('unauthorized')
    const {
      ok: _ok,
      changed: _changed,
      ...answer
    } = await rpc('report_bot', {
      bot_id: report.bot_id,
      token_hash: caller.token_hash,
      event_id: report.event_id ?? null,
      status: report.status,
      container_id: report.container_id ?? null,
      reason: report.reason ?? null,
      completion_reason: report.completion_reason ?? null,
      exit_code: report.exit_code ?? null,
      error_code: report.error_code ?? null,
      error_message: report.error_message ?? null,
      error_details: report.error_details ?? null,
      failure_stage: report.failure_stage ?? null,
      participant_count: report.participant_count ?? null,
      transcript: report.transcript ?? null,
      bot_logs: report.bot_logs ?? null,
      occurred_at: report.occurred_at ?? null,
      utterances: report.utterances ?? null,
      chunk: report.chunk ?? null,
    })
    return { status: 200, body: answer }
  },
)
