/**
 * Sends a bot to a meeting and prints what becomes of it. With a session: the address of the project, its publishable
 * key, an email and a password in the environment.
 *
 *   SUPABASE_URL=... SUPABASE_PUBLISHABLE_KEY=... EMAIL=... PASSWORD=... npx node examples/node.ts <meeting url>
 */
import { createClient } from '@supabase/supabase-js'
// As a package of its own: import { createRollcall, RollcallError } from 'rollcall'
import { createRollcall, RollcallError } from '../src/index.ts'

const { SUPABASE_URL = '', SUPABASE_PUBLISHABLE_KEY = '', EMAIL = '', PASSWORD = '' } = process.env
const supabase = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY)
const { error } = await supabase.auth.signInWithPassword({ email: EMAIL, password: PASSWORD })
if (error) throw error

const rollcall = createRollcall(supabase)
rollcall.onConnection((connection) => console.log(`link      ${connection}`))
try {
  const meeting_url = process.argv[2] ?? ''
  const platform = meeting_url.includes('/room/') ? 'room' : 'google_meet'
  const bot = await rollcall.bots.join({ platform, meeting_url })
  process.once('SIGINT', () => rollcall.bots.stop(bot.bot_id))
  for await (const change of rollcall.bots.watch(bot.bot_id)) {
    console.log(`${change.machine.padEnd(8)}  ${change.from ?? '-'} -> ${change.to}`)
  }
  const { status, error, insights } = await rollcall.bots.get(bot.bot_id)
  console.log(status, error ?? insights)
} catch (reason) {
  if (!(reason instanceof RollcallError)) throw reason
  console.error(`${reason.status} ${reason.code}: ${reason.message}`, reason.hint ?? '', reason.details ?? '')
  process.exitCode = 1
}
// The refresh of the session would keep the process alive.
await supabase.auth.stopAutoRefresh()
