import { createHash, randomUUID } from 'node:crypto'
import { transcript } from '../support/bots.ts'
import { accepted, type Moves, type Part, type Play } from './play.ts'

const token_hash = createHash('sha256').update('token').digest('hex')
const owners = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002']
const reports = [
  'joining',
  'awaiting_admission',
  'active',
  'completed',
  'failed',
  'exited',
  'heartbeat',
  'transcript',
]

interface Bot {
  bot_id: string
  workflow_thread_id: string
}

/** Everything that is done with bots: by people, by the bots, by workers that start, look after and evaluate them. */
export function botMoves(): Part {
  const bots: Bot[] = []
  const launches: { bot_id: string; launch_token: string }[] = []
  const probes: { bot_id: string; probe_token: string }[] = []
  const results: { workflow_thread_id: string; processing_token: string }[] = []

  /** A bot, or one that nobody knows. */
  const some = ({ recent, dice }: Play): Bot =>
    (dice() < 0.98 ? recent(bots) : undefined) ?? { bot_id: randomUUID(), workflow_thread_id: 'nobody' }
  const held = <T>({ recent }: Play, from: T[], work: (one: T) => Promise<unknown>): Promise<unknown> => {
    const one = recent(from)
    return one === undefined ? Promise.resolve() : work(one)
  }

  const moves: Moves = {
    async request_bot(play) {
      const { pick, dice, recent, call } = play
      const launch = dice() < 0.6
      const answer = accepted(
        await call('request_bot', {
          owner_id: pick(owners),
          token_hash,
          platform: 'room',
          native_meeting_id: `room-${pick([1, 2, 3, 4])}`,
          meeting_url: 'http://127.0.0.1/room/x',
          launch,
          process_insights: dice() < 0.8,
          max_open: 3,
          idempotency_key: dice() < 0.2 ? pick(['a', 'b']) : null,
          retry_of: dice() < 0.1 ? (recent(bots)?.bot_id ?? null) : null,
          bot_config: dice() < 0.2 ? { max_duration_s: 60 } : {},
        }),
      )
      if (answer === null || answer.result === 'replayed') return
      bots.push(answer)
      if (answer.launch_token !== null) launches.push(answer)
    },
    report_bot(play) {
      const { pick, dice, call } = play
      const status = pick(reports)
      return call('report_bot', {
        bot_id: some(play).bot_id,
        token_hash: dice() < 0.98 ? token_hash : createHash('sha256').update('wrong').digest('hex'),
        status,
        event_id: dice() < 0.3 ? pick(['1', '2', '3', '4']) : null,
        container_id: dice() < 0.2 ? pick(['m1', 'm2']) : null,
        exit_code: status === 'exited' ? pick([0, 1]) : null,
        completion_reason:
          status === 'completed' ? pick([null, 'left_alone', 'kicked by the cat', 'stopped']) : null,
        transcript: dice() < 0.2 ? transcript : null,
        chunk: status === 'transcript' ? pick([0, 1, 2]) : null,
        utterances: status === 'transcript' ? transcript : null,
        error_code: status === 'failed' ? pick([null, 'KICKED']) : null,
      })
    },
    // A whole life: at random alone hardly a bot gets into the room and out again.
    async live(play) {
      const { call, dice, pick } = play
      const { bot_id } = some(play)
      for (const status of ['joining', 'active', pick(['completed', 'completed', 'failed'])]) {
        if (dice() < 0.1) return
        await call('report_bot', { bot_id, token_hash, status, transcript: dice() < 0.7 ? transcript : null })
      }
    },
    update_bot_status(play) {
      const status = play.pick(['starting', 'running', 'completed', 'failed', 'asleep'])
      const error = { error_stage: 'joining', error_code: 'NO_LUCK', error_message: 'It had no luck.' }
      const { workflow_thread_id } = some(play)
      return play.call('update_bot_status', {
        workflow_thread_id,
        status,
        ...(status === 'failed' && play.dice() < 0.9 ? error : {}),
      })
    },
    save_workflow_thread_data(play) {
      const data = play.pick([{ metadata: { a: 1 } }, { bot_config: { b: 2 } }, { bot_status: 'completed' }])
      return play.call('save_workflow_thread_data', {
        workflow_thread_id: some(play).workflow_thread_id,
        data,
      })
    },
    stop_bot(play) {
      const { pick, dice, call } = play
      if (dice() < 0.7) return call('stop_bot', { bot_id: some(play).bot_id, delay_s: pick([1, 30]) })
      return call('stop_bot', {
        owner_id: pick(owners),
        platform: 'room',
        native_meeting_id: `room-${pick([1, 2, 3, 4])}`,
      })
    },
    async claim_launch({ call }) {
      const { answer } = await call('claim_launch', { worker: 'w' })
      if (answer !== null) launches.push(answer)
    },
    replace_callback_token: (play) =>
      held(play, launches, ({ bot_id, launch_token }) =>
        play.call('replace_callback_token', { bot_id, launch_token, token_hash }),
      ),
    record_container: (play) =>
      held(play, launches, ({ bot_id, launch_token }) =>
        play.call('record_container', {
          bot_id,
          launch_token,
          container_id: play.pick(['m1', 'm2']),
          status_text: play.pick(['created', 'starting', 'started', 'started', 'stopped', 'failed', '?']),
        }),
      ),
    fail_launch: (play) =>
      held(play, launches, ({ bot_id, launch_token }) =>
        play.call('fail_launch', {
          bot_id,
          launch_token,
          error_code: 'MACHINE_CREATE_FAILED',
          error_message: 'No machine.',
        }),
      ),
    async claim_probe({ call }) {
      const { answer } = await call('claim_probe', { worker: 'w' })
      if (answer !== null) probes.push(answer)
    },
    record_probe: (play) =>
      held(play, probes, ({ bot_id, probe_token }) =>
        play.call('record_probe', {
          bot_id,
          probe_token,
          outcome: play.pick(['alive', 'ended', 'destroyed', 'not_found', 'not_found', 'error']),
          evidence: play.pick([{}, { exit_code: 0 }, { exit_code: 137 }, { signal: 'SIGKILL' }]),
        }),
      ),
    claim_orphan_scan: ({ call }) => call('claim_orphan_scan'),
    async claim_processing({ call }) {
      const { answer } = await call('claim_processing', { worker: 'w' })
      if (answer !== null) results.push(answer)
    },
    renew_processing: (play) =>
      held(play, results, ({ workflow_thread_id, processing_token }) =>
        play.call('renew_processing', { workflow_thread_id, processing_token }),
      ),
    complete_processing: (play) =>
      held(play, results, ({ workflow_thread_id, processing_token }) =>
        play.call('complete_processing', {
          workflow_thread_id,
          processing_token,
          qa_pairs: [],
          insights: play.dice() < 0.95 ? {} : [],
        }),
      ),
    fail_processing: (play) =>
      held(play, results, ({ workflow_thread_id, processing_token }) =>
        play.call('fail_processing', { workflow_thread_id, processing_token, error_message: 'No sense.' }),
      ),
  }
  return {
    moves,
    often: [
      'request_bot',
      'request_bot',
      'live',
      'live',
      'report_bot',
      'record_container',
      'claim_processing',
      'claim_processing',
      'complete_processing',
    ],
  }
}
