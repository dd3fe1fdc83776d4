import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { localConfig } from './config.ts'
import { lockOwner } from './lock.ts'
import type { StackFile } from './stack.ts'
import { StartError } from './start_error.ts'

/** `npm run env`: prints how to reach the running stack, as lines for a shell's `eval`. */
function printEnvironment(): void {
  const { dir } = localConfig()
  const stack = readStack(dir)
  const variables: Record<string, string> = {
    SUPABASE_URL: stack.api_url,
    SUPABASE_FUNCTIONS_URL: stack.functions_url,
    SUPABASE_DB_URL: stack.db_url,
    SUPABASE_PUBLISHABLE_KEY: stack.publishable_key,
    SUPABASE_SECRET_KEY: stack.secret_key,
    ROLLCALL_DASHBOARD_URL: stack.dashboard_url,
    ROOM_URL: stack.room_url,
  }
  for (const [name, value] of Object.entries(variables)) console.log(`${name}='${value}'`)
}

function readStack(dir: string): StackFile {
  try {
    if (lockOwner(dir) !== null) return JSON.parse(readFileSync(join(dir, 'stack.json'), 'utf8')) as StackFile
  } catch {
    // It is starting: said below.
  }
  throw new StartError(
    `No stack runs on ${dir}: npm start starts one (ROLLCALL_DIR names another directory).`,
  )
}

try {
  printEnvironment()
} catch (error) {
  if (!(error instanceof StartError)) throw error
  console.error(error.message)
  process.exitCode = 1
}
