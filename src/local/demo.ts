import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { styleText } from 'node:util'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import type { Bot, BotEvent, Insights } from '../contract/bots.ts'
import { localConfig } from './config.ts'
import { runFlowDemo } from './flow_demo.ts'
import { lockOwner } from './lock.ts'
import { type Visitor, visit } from './room/visitor.ts'
import type { StackFile } from './stack.ts'
import { StartError } from './start_error.ts'

/** What the demo needs to know of a stack. */
export type DemoStack = Pick<StackFile, 'api_url' | 'functions_url' | 'publishable_key' | 'room_url'>

const demo_user = { email: 'demo@rollcall.local', password: 'rollcall-demo' }
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
    const access_token = await signIn(client)
    print(styleText('bold', `Demo: ${bot_name} takes notes of a meeting`))
    print(styleText('dim', `  ${demo_user.email} asks for the bot; come along at ${room_url}`))
    print('')

    const ada = await visit(room_url, 'Ada')
    const call = functionsCaller(stack, access_token)
    const bot = await call<Bot>('join', {
      platform: 'room',
      native_meeting_id: room_id,
      bot_name,
      bot_config: { alone_after_s: 30 },
    })
    const watched = watch(
      client,
      () => call<Bot>(`status?bot_id=${bot.bot_id}&include=events`),
      bot,
      print,
      deadline,
    )
    const meeting = holdMeeting(ada, room_url, print, AbortSignal.any([deadline, over.signal]))
    const ended = await Promise.race([watched, meeting.then(() => watched)])
    if (ended.status !== 'completed') {
      const { error } = ended
      throw new Error(
        error ? `The bot failed at ${error.stage}: ${error.code}. ${error.message}` : 'The bot failed.',
      )
    }
    printResults(ended, print)
    await runFlowDemo({ client, call, print, deadline })
  } catch (error) {
    if (deadline.aborted) throw new Error(`The demo was not over within ${DEADLINE_MS / 1000} s.`)
    throw error
  } finally {
    over.abort()
    await client.removeAllChannels()
    await client.realtime.disconnect()
  }
}

/** Signs the demo user in, and up the first time. Answers the access token. */
async function signIn(client: SupabaseClient): Promise<string> {
  const known = await client.auth.signInWithPassword(demo_user)
  const { data, error } = known.error ? await client.auth.signUp(demo_user) : known
  if (!data.session) throw new Error(`The demo user can not sign in: ${(error ?? known.error)?.message}`)
  return data.session.access_token
}

type Call = <T>(path: string, body?: object) => Promise<T>

function functionsCaller(stack: DemoStack, access_token: string): Call {
  return async <T>(path: string, body?: object) => {
    const response = await fetch(`${stack.functions_url}/${path}`, {
      method: body ? 'POST' : 'GET',
      headers: {
        apikey: stack.publishable_key,
        authorization: `Bearer ${access_token}`,
        'content-type': 'application/json',
      },
      body: body ? JSON.stringify(body) : null,
    })
    const answer = (await response.json()) as T & { code?: string; message?: string }
    if (response.ok) return answer
    const [name] = path.split('?')
    throw new Error(`${name} answers ${response.status} ${answer.code ?? ''}: ${answer.message ?? ''}`)
  }
}

type Transition = Pick<BotEvent, 'id' | 'machine' | 'seq' | 'from_status' | 'to_status' | 'implied'>

/**
 * Prints every transition once, in order: as it is pushed, or from the history where a push is missing.
 * Resolves with the bot once it has ended.
 */
async function watch(
  client: SupabaseClient,
  read: () => Promise<Bot>,
  bot: Bot,
  print: (line: string) => void,
  deadline: AbortSignal,
): Promise<Bot> {
  const started_at = Date.parse(bot.created_at)
  const last_seq: Record<string, number> = {}
  const show = ({ machine, seq, from_status, to_status, implied }: Transition, at: string) => {
    if (seq <= (last_seq[machine] ?? 0)) return
    last_seq[machine] = seq
    const seconds = Math.max(0, (Date.parse(at) - started_at) / 1000).toFixed(2)
    const move = from_status === null ? to_status : `${from_status} → ${to_status}`
    const note = implied ? styleText('dim', ' (implied)') : ''
    print(
      `${styleText('dim', seconds.padStart(7))}  ${machine.padEnd(8)} ${coloured(to_status, move)}${note}`,
    )
  }
  const catchUp = async () => {
    const now = await read()
    for (const event of now.events ?? []) show(event, event.created_at)
    return now
  }

  let pushed = Promise.withResolvers<void>()
  await client.realtime.setAuth()
  client
    .channel(bot.topic, { config: { private: true } })
    .on('broadcast', { event: 'status_changed' }, ({ payload }) => {
      const hint = payload as {
        machine: string
        seq: number
        from: string | null
        to: string
        at: string
        event_id: number
      }
      if (hint.seq === (last_seq[hint.machine] ?? 0) + 1) {
        const move = { id: hint.event_id, from_status: hint.from, to_status: hint.to, implied: false }
        show({ ...move, machine: hint.machine, seq: hint.seq }, hint.at)
      }
      pushed.resolve()
    })
    .subscribe(() => pushed.resolve())
  for (;;) {
    deadline.throwIfAborted()
    const now = await catchUp()
    if (now.status === 'completed' || now.status === 'failed') return now
    await Promise.race([pushed.promise, pause(2_000)])
    pushed = Promise.withResolvers()
  }
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
function runningStack(): DemoStack {
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
