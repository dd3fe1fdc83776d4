import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type FaultAgent, startFaultAgent } from '../support/fault_agent.ts'
import {
  type FunctionsHost,
  type PlayedBot,
  type Project,
  startProject,
  transcript,
} from '../support/project.ts'

let project: Project
let agent: FaultAgent
let host: FunctionsHost

const result = {
  qa_pairs: [
    {
      question: 'Who?',
      answer: 'Grace.',
      asked_by: 'Ada',
      answered_by: 'Grace',
      at: '2030-01-01T09:00:00.000Z',
    },
  ],
  insights: {
    summary: 'Notes.',
    topics: ['notes'],
    action_items: ['Grace takes the notes'],
    sentiment: 'neutral',
  },
}

beforeAll(async () => {
  project = await startProject()
  agent = await startFaultAgent()
  host = await project.host({
    AGENT_API_URL: agent.url,
    AGENT_API_KEY: 'agent-key',
    AGENT_MODEL: 'reader-1',
    WORK_SECONDS: '100000',
  })
  // The three attempts of a test need not take half a minute.
  await project.sql`update lifecycle.settings set processing_backoff = interval '50 ms'`
})

beforeEach(async () => {
  agent.answers = []
  agent.requests = []
  await project.wakes(host.url)
})

afterAll(async () => {
  await project?.close()
  await agent?.close()
})

/** A bot that has left a meeting in which somebody spoke. */
async function left(): Promise<PlayedBot> {
  const bot = await project.playTo('active')
  const reply = await project.report(bot, '', { status: 'completed', reason: 'meeting_ended', transcript })
  expect(reply.body).toMatchObject({ meeting_status: 'completed', bot_status: 'running' })
  return bot
}

const becomes = (bot: PlayedBot, wanted: Record<string, unknown>) =>
  expect.poll(() => project.row(bot), { timeout: 20_000 }).toMatchObject(wanted)

describe('an agent', () => {
  test('P10 reads the transcript, and its answer completes the bot', async () => {
    agent.answers = [`\`\`\`json\n${JSON.stringify(result)}\n\`\`\``]
    const bot = await left()
    await becomes(bot, { bot_status: 'completed', ...result, transcript, error_code: null })
    expect((await project.row(bot)).bot_completed_at).not.toBeNull()
    const [request] = agent.requests
    expect(request?.authorization).toBe('Bearer agent-key')
    expect(request?.body.model).toBe('reader-1')
    expect(request?.body.messages.at(-1)?.content).toContain('Ada: Who takes the notes?')
  })

  test('P11 that fails three times fails the bot; the transcript is kept', async () => {
    agent.answers = [500, 'not JSON', JSON.stringify({ qa_pairs: 'none', insights: {} })]
    const bot = await left()
    await becomes(bot, {
      meeting_status: 'completed',
      bot_status: 'failed',
      error_stage: 'processing',
      error_code: 'TRANSCRIPT_PROCESSING_FAILED',
      transcript,
      processing_attempts: 3,
    })
    const row = await project.row(bot)
    expect(row.error_message).toContain('qa_pairs')
    expect(row.error_details).toMatchObject({ cause: 'agent' })
    const read = await project.call(`/status?bot_id=${bot.bot_id}`, { as: bot.owner })
    expect(read.body).toMatchObject({ status: 'failed', error: { attribution: 'system', retryable: true } })
  })

  test('that fails once is asked again', async () => {
    agent.answers = [503, JSON.stringify(result)]
    const bot = await left()
    await becomes(bot, { bot_status: 'completed', processing_attempts: 2, ...result })
    expect(agent.requests).toHaveLength(2)
  })
})

describe('without one', () => {
  test('nothing is processed where there is nothing, or where it is not wanted', async () => {
    const silent = await project.playTo('active')
    expect((await project.report(silent, '/exited', { exit_code: 0 })).body).toMatchObject({
      bot_status: 'completed',
      qa_pairs: [],
    })
    const unwanted = await project.playTo('active', { process_insights: false })
    expect((await project.report(unwanted, '/exited', { exit_code: 0, transcript })).body).toMatchObject({
      bot_status: 'completed',
      qa_pairs: [],
    })
    expect((await project.row(unwanted)).transcript).toEqual(transcript)
  })

  test('an isolate whose time is over claims nothing', async () => {
    await project.wakes(null)
    const over = await project.host({ WORK_SECONDS: '1' })
    const bot = await left()
    const post = (url: string) => project.call('/work?lane=processing', { method: 'POST', as: 'secret', url })
    // Loads the function; the second is gone once a step would not fit any more.
    expect((await post(over.url)).status).toBe(202)
    expect(await project.row(bot)).toMatchObject({ bot_status: 'running', processing_attempts: 0 })
    const fresh = await project.host({})
    expect((await post(fresh.url)).status).toBe(202)
    await becomes(bot, { bot_status: 'completed', processing_attempts: 1 })
    await Promise.all([over.close(), fresh.close()])
  })
})

describe('npm run worker', () => {
  const workers: ChildProcess[] = []
  afterAll(() => {
    for (const worker of workers) worker.kill('SIGKILL')
  })

  function startWorker(env: Record<string, string>): { child: ChildProcess; output: () => string } {
    let text = ''
    const child = spawn(process.execPath, [join(import.meta.dirname, '../../src/worker/main.ts')], {
      env: { PATH: process.env.PATH ?? '', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    workers.push(child)
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data) => (text += data))
    return { child, output: () => text }
  }

  test('does the same work as a process, and ends in peace when told to', async () => {
    await project.wakes(null)
    const bot = await left()
    const { child, output } = startWorker({ ROLLCALL_DIR: project.stack.dir })
    await becomes(bot, { bot_status: 'completed' })
    const exited = once(child, 'exit')
    child.kill('SIGTERM')
    expect(await exited).toEqual([0, null])
    expect(output()).toContain('worker_stopped')
    expect(output()).not.toContain(project.stack.secret_key)
  })

  test('says what it needs where there is no project', async () => {
    const { child, output } = startWorker({ ROLLCALL_DIR: '/nonexistent' })
    expect((await once(child, 'exit'))[0]).toBe(1)
    expect(output()).toContain('Set SUPABASE_URL and SUPABASE_SECRET_KEY')
  })
})
