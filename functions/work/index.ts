import { z } from 'zod'
import { WorkQuery } from '../../src/contract/work.ts'
import { deno_sockets } from '../../src/worker/deno_sockets.ts'
import { runLane } from '../../src/worker/lanes.ts'
import { errorFields, log } from '../../src/worker/log.ts'
import { callRpc } from '../../src/worker/rpc.ts'
import { workerSettings } from '../../src/worker/settings.ts'
import { endpoint, endpoints } from '../_shared/endpoint.ts'
import { env, waitUntil } from '../_shared/env.ts'
import { refusal } from '../_shared/errors.ts'

/** The platform counts an isolate's time from its start, and isolates serve many requests. */
const STARTED_AT = Date.now()

const WORKER = `function:${crypto.randomUUID().slice(0, 8)}`

/** A lane has due work: run it after the answer, as long as this isolate's time lasts. */
const wake = endpoint(
  { method: 'POST', auth: ['secret'], input: WorkQuery, from: 'query' },
  async ({ lane }, { admin }) => {
    const until = STARTED_AT + Number(env('WORK_SECONDS') ?? 140) * 1000
    const settings = workerSettings(env)
    const context = {
      db: admin,
      settings,
      sockets: deno_sockets,
      worker: WORKER,
      agent_timeout_s: 90,
      phase: { cpu_ms: 1_000, wall_ms: 100_000 },
      linger_ms: 1_200,
    }
    waitUntil(
      runLane(lane, context, until).catch((error) =>
        log('error', 'lane_broke_off', { lane, ...errorFields(error) }),
      ),
    )
    return { status: 202, body: { lane, accepted: true } }
  },
)

/** Is everything well? For operators and uptime checks. */
const health = endpoint(
  { method: 'GET', auth: ['user', 'secret'], input: z.object({}) },
  async (_query, { caller, admin }) => {
    if (caller.kind === 'user' && !caller.operator) {
      throw refusal('forbidden', { message: 'Only an operator may see the health of the project.' })
    }
    // Its `ok` speaks of the project: false is no refusal.
    return { status: 200, body: await callRpc(admin, 'get_health') }
  },
)

export default endpoints(wake, health)
