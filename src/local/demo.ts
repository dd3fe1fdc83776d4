import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { styleText } from 'node:util'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import type { Bot, Insights } from '../contract/bots.ts'
import type { JoinResponse } from '../contract/join.ts'
import { createRollcall, type Rollcall } from '../index.ts'
import { localConfig } from './config.ts'
import { demo_user } from './demo_user.ts'
import { runFlowDemo } from './flow_demo.ts'
import { lockOwner } from './lock.ts'
import { type Visitor, visit } from './room/visitor.ts'
import type { StackFile } from './stack.ts'
import { StartError } from './start_error.ts'

/** What the demo needs to know of a stack. */
export type DemoStack = Pick<StackFile, 'api_url' | 'publishable_key' | 'room_url'>

const bot_name = 'Scribe'

const talk: ['Ada' | 'Grace', string][] = [
  ['Ada', 'Good morning, Grace. Scribe takes the notes today.'],
  ['Grace', 'Good. What is left before the release?'],
  ['Ada', 'The migration of the old bot sessions. It is tested on a copy of production.'],
  ['Grace', 'How long does the migration take?'],
  ['Ada', 'Four minutes for two million rows, without a pause in writing.'],
  ['Grace', 'Perfect. Then who tells the customers?'],
  ['Ada', 'I will write to them this afternoon.'],
  ['Grace', 'Thanks. And if the release goes wrong, can we go back?'],
  ['Ada', 'Yes. Until the cutover the old columns stay in place.'],
  ['Grace', "Great, that is decided: let's do the release on Thursday at nine."],
  ['Ada', 'Action item: Grace must watch the dashboard during the migration.'],
]
const LINE_EVERY_MS = 350
const DEADLINE_MS = 60_000

/**
 * Sends the reference bot to a fresh room where two scripted people talk, and prints each transition as it
 * arrives over Realtime, then the questions, answers and insights; then a flow of three prompts, as it is answered.
 * @throws when the bot or the flow does not end completed.
 */
export async function runDemo(stack: DemoStack, print: (line: string) => void): Promise<void> {
  const deadline = AbortSignal.timeout(DEADLINE_MS)
  const over = new AbortController()
  const room_id = `demo-${randomBytes(3).toString('hex')}`
  const room_url = `${stack.room_url}/${room_id}`
  const client = createClient(stack.api_url, stack.publishable_key, { auth: { persistSession: false } })
  try {
    await signIn(client)
    print(styleText('bold', `Demo: ${bot_name} takes notes of a meeting`))
    print(styleText('dim', `  ${demo_user.email} asks for the bot; come along at ${room_url}`))
    print('')

    const ada = await visit(room_url, 'Ada')
    const rollcall = createRollcall(client)
    const bot = await rollcall.bots.join({
      platform: 'room',
      native_meeting_id: room_id,
      bot_name,
      bot_config: { alone_after_s: 30 },
    })
    const signal = AbortSignal.any([deadline, over.signal])
    const watched = watch(rollcall, bot, print, signal)
    const meeting = holdMeeting(ada, room_url, print, signal)
    const ended = await Promise.race([watched, meeting.then(() => watched)])
    if (ended.status !== 'completed') {
      const { error } = ended
      throw new Error(
        error ? `The bot failed at ${error.stage}: ${error.code}. ${error.message}` : 'The bot failed.',
      )
    }
    printResults(ended, print)
    await runFlowDemo({ client, print, deadline })
  } catch (error) {
    if (deadline.aborted) throw new Error(`The demo was not over within ${DEADLINE_MS / 1000} s.`)
    throw error
  } finally {
    over.abort()
    await client.auth.stopAutoRefresh()
  }
}

/** Signs the demo user in, and up the first time. */
export async function signIn(client: SupabaseClient): Promise<void> {
  const known = await client.auth.signInWithPassword(demo_user)
  const { data, error } = known.error ? await client.auth.signUp(demo_user) : known
  if (!data.session) throw new Error(`The demo user can not sign in: ${(error ?? known.error)?.message}`)
}

/** Prints every transition once, in order. Resolves with the bot once it has ended. */
async function watch(
  { bots }: Rollcall,
  { bot_id, created_at }: JoinResponse,
  print: (line: string) => void,
  signal: AbortSignal,
): Promise<Bot> {
  const started_at = Date.parse(created_at)
  for await (const { machine, from, to, at, implied } of bots.watch(bot_id, { signal })) {
    const seconds = Math.max(0, (Date.parse(at) - started_at) / 1000).toFixed(2)
    const move = from === null ? to : `${from} → ${to}`
    const note = implied ? styleText('dim', ' (implied)') : ''
    print(`${styleText('dim', seconds.padStart(7))}  ${machine.padEnd(8)} ${coloured(to, move)}${note}`)
  }
  return bots.get(bot_id, { signal })
}

/** Ada lets Grace and the bot in, they talk, and Ada ends the meeting; the signal ends it early. */
async function holdMeeting(
  ada: Visitor,
  room_url: string,
  print: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const grace = await visit(room_url, 'Grace')
  const knocking = async (name: string) => {
    for (;;) {
      const guest = (await ada.waiting()).find((waiting) => waiting.name === name)
      if (guest) return guest.guest_id
      await pause(100, undefined, { signal })
    }
  }
  await ada.admit(await knocking(grace.name))
  const scribe = await knocking(bot_name)
  // Long enough in the lobby to be seen there.
  await pause(2 * LINE_EVERY_MS, undefined, { signal })
  await ada.admit(scribe)
  const people = { Ada: ada, Grace: grace }
  for (const [name, text] of talk) {
    await pause(LINE_EVERY_MS, undefined, { signal })
    await people[name].say(text)
    print(`         ${styleText('cyan', name.padEnd(8))} ${text}`)
  }
  await pause(LINE_EVERY_MS, undefined, { signal })
  await ada.end()
}

function coloured(status: string, text: string): string {
  if (status === 'failed') return styleText('red', text)
  return status === 'completed' || status === 'active' ? styleText('green', text) : text
}

function printResults(bot: Bot, print: (line: string) => void): void {
  const heading = (text: string) => {
    print('')
    print(styleText('bold', text))
  }
  heading('Questions')
  for (const { question, answer, asked_by, answered_by } of bot.qa_pairs ?? []) {
    print(`  ${asked_by ?? 'Somebody'}: ${question}`)
    print(`    ${answer === null ? 'No answer.' : `${answered_by ?? 'Somebody'}: ${answer}`}`)
  }
  const insights = bot.insights as Insights | null
  if (insights === null) return
  heading('Insights')
  print(`  ${insights.summary}`)
  if (insights.topics.length > 0) print(`  Topics: ${insights.topics.join(', ')}`)
  if (insights.action_items.length > 0) heading('Action items')
  for (const item of insights.action_items) print(`  - ${item}`)
}

/** @throws StartError when no stack runs. */
export function runningStack(): DemoStack {
  const { dir } = localConfig()
  const file = join(dir, 'stack.json')
  if (!existsSync(file) || lockOwner(dir) === null) {
    throw new StartError(
      `No stack runs on ${dir}: npm start starts one (ROLLCALL_DIR names another directory).`,
    )
  }
  return JSON.parse(readFileSync(file, 'utf8')) as StackFile
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await runDemo(runningStack(), console.log)
    process.exit(0)
  } catch (error) {
    console.error((error as Error).message)
    process.exit(1)
  }
}
