import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from '@supabase/supabase-js'
import { node_sockets } from '../../src/worker/node_sockets.ts'
import { runSession } from '../../src/worker/sessions.ts'
import { workerSettings } from '../../src/worker/settings.ts'

// A worker of nothing but sessions, as a process of its own that a test kills: npm run worker takes longer to begin.
const { SUPABASE_URL = '', SUPABASE_SECRET_KEY = '' } = process.env
const context = {
  db: createClient(SUPABASE_URL, SUPABASE_SECRET_KEY, {
    auth: { persistSession: false, autoRefreshToken: false },
  }),
  settings: workerSettings((name) => process.env[name]),
  sockets: node_sockets,
  worker: `process:${process.pid}`,
  agent_timeout_s: 5,
  phase: { cpu_ms: 2_000, wall_ms: 20_000 },
  linger_ms: 0,
}
for (;;) {
  if (!(await runSession(context, () => true))) await pause(100)
}
