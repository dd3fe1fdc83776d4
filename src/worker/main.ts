import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { createClient } from '@supabase/supabase-js'
import type { Lane } from '../contract/work.ts'
import { runLane, WORKING_LANES, type WorkContext } from './lanes.ts'
import { errorFields, log } from './log.ts'
import { node_sockets } from './node_sockets.ts'
import { workerSettings } from './settings.ts'
import { endWhenStuck } from './stuck_thread.ts'

// npm run worker: the lanes of the work function as a process, without its time limits. Any number may run.

/** How long a lane rests when nothing is due, and after an error, in ms. */
const IDLE_MS: Partial<Record<Lane, number>> = { prompts: 400 }
const OTHERWISE_IDLE_MS = 1_000
const AFTER_ERROR_MS = 5_000

/** How many pieces of a lane are worked on at a time. */
const AT_A_TIME: Partial<Record<Lane, number>> = { containers: 4, processing: 2, scripts: 2, agents: 2 }

/** Lanes that compute without a break: each piece at a time has a thread, so that no lease waits for another's script. */
const IN_THREADS: Lane[] = ['scripts']

/** How long a thread may compute without a pause, in ms: three times what a phase of a script may. */
const STUCK_MS = 90_000

interface Project {
  url: string
  secret_key: string
  /** The local stack, found by its data directory. */
  local: boolean
}

/** The project: from the environment, else the local stack that runs on this data directory. */
function project(): Project {
  const { SUPABASE_URL, SUPABASE_SECRET_KEY, ROLLCALL_DIR } = process.env
  if (SUPABASE_URL && SUPABASE_SECRET_KEY) {
    return { url: SUPABASE_URL, secret_key: SUPABASE_SECRET_KEY, local: false }
  }
  const file = join(ROLLCALL_DIR || '.rollcall', 'stack.json')
  try {
    const stack: { api_url: string; secret_key: string } = JSON.parse(readFileSync(file, 'utf8'))
    return { url: stack.api_url, secret_key: stack.secret_key, local: true }
  } catch {
    throw new Error(
      `Set SUPABASE_URL and SUPABASE_SECRET_KEY, or start the local stack (${file} is not there).`,
    )
  }
}

async function work(lane: Lane, context: WorkContext, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    let rest = IDLE_MS[lane] ?? OTHERWISE_IDLE_MS
    try {
      await runLane(lane, context, Number.POSITIVE_INFINITY, signal)
    } catch (error) {
      log('error', 'lane_broke_off', { lane, ...errorFields(error) })
      rest = AFTER_ERROR_MS
    }
    await sleep(rest, undefined, { signal }).catch(() => {})
  }
}

/** What the local stack gives its functions where the developer says nothing else. */
const LOCAL: Record<string, string> = { AGENT_BUILT_IN: '1', SCRIPTS_ALLOW_PRIVATE: '1' }

function contextOf({ url, secret_key, local }: Project, worker: string): WorkContext {
  const read = (name: string) =>
    name === 'SUPABASE_URL' ? url : (process.env[name] ?? (local ? LOCAL[name] : undefined))
  return {
    db: createClient(url, secret_key, { auth: { persistSession: false, autoRefreshToken: false } }),
    settings: workerSettings(read),
    sockets: node_sockets,
    worker,
    agent_timeout_s: 120,
    phase: { cpu_ms: 30_000, wall_ms: 300_000 },
    linger_ms: 0,
  }
}

interface ThreadData {
  lane: Lane
  place: Project
  worker: string
}

/** A lane in a thread of this same file, until the signal; whatever ends the thread before begins another. */
async function workInThread(data: ThreadData, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const thread = new Worker(new URL(import.meta.url), { workerData: data })
    endWhenStuck(thread, STUCK_MS, () => log('error', 'thread_stuck', { lane: data.lane }))
    const stop = () => thread.postMessage('stop')
    signal.addEventListener('abort', stop)
    thread.on('error', (error) =>
      log('error', 'thread_broke_off', { lane: data.lane, ...errorFields(error) }),
    )
    await new Promise((done) => thread.once('exit', done))
    signal.removeEventListener('abort', stop)
    if (!signal.aborted) await sleep(AFTER_ERROR_MS, undefined, { signal }).catch(() => {})
  }
}

async function thread({ lane, place, worker }: ThreadData): Promise<void> {
  const stop = new AbortController()
  parentPort?.once('message', () => stop.abort())
  await work(lane, contextOf(place, worker), stop.signal)
}

async function main(): Promise<void> {
  const place = project()
  const context = contextOf(place, `${hostname()}:${process.pid}`)
  const { settings, worker } = context
  const stop = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      log('info', 'worker_stopping', { signal })
      stop.abort()
    })
  }
  // Without a machines API every claimed launch would be failed: leave them to a worker that has one.
  const lanes = WORKING_LANES.filter((lane) => lane !== 'containers' || !('missing' in settings.machines))
  if ('missing' in settings.machines)
    log('info', 'lane_off', { lane: 'containers', missing: settings.machines.missing })
  log('info', 'worker_started', { lanes, url: place.url })
  await Promise.all(
    lanes.flatMap((lane) =>
      Array.from({ length: AT_A_TIME[lane] ?? 1 }, (_, index) =>
        IN_THREADS.includes(lane)
          ? workInThread({ lane, place, worker: `${worker}:${index}` }, stop.signal)
          : work(lane, context, stop.signal),
      ),
    ),
  )
  log('info', 'worker_stopped')
}

const running = isMainThread ? main() : thread(workerData)
running.catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
