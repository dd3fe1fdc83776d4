import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import type { WorkContext } from '../../src/worker/lanes.ts'
import { node_sockets } from '../../src/worker/node_sockets.ts'
import { workerSettings } from '../../src/worker/settings.ts'
import type { Project } from './project.ts'

/** A worker within the test: what `runLane` works with. */
export function workerOf(
  { stack }: Project,
  env: Record<string, string>,
  name: string,
  agent_timeout_s = 5,
): WorkContext {
  const read: Record<string, string> = { SUPABASE_URL: stack.api_url, ...env }
  return {
    db: createClient(stack.api_url, stack.secret_key, {
      auth: { persistSession: false, autoRefreshToken: false },
    }),
    settings: workerSettings((variable) => read[variable]),
    sockets: node_sockets,
    worker: name,
    agent_timeout_s,
    phase: { cpu_ms: 2_000, wall_ms: 20_000 },
    linger_ms: 0,
  }
}

/** `npm run worker` as a process. Whoever starts it ends it. */
export function spawnWorker(env: Record<string, string>): ChildProcess {
  return run('../../src/worker/main.ts', env)
}

/** A process that works on nothing but sessions of workflows. Whoever starts it ends it. */
export function spawnSessions(env: Record<string, string>): ChildProcess {
  return run('session_process.ts', env)
}

function run(file: string, env: Record<string, string>): ChildProcess {
  return spawn(process.execPath, [join(import.meta.dirname, file)], {
    env: { PATH: process.env.PATH ?? '', ...env },
    stdio: 'ignore',
  })
}
