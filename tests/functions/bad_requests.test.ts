import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type PlayedBot, type Project, type Reply, startProject, type User } from '../support/project.ts'
import { idle_script } from '../support/scripts.ts'

/** Requests for each function; BAD_REQUESTS=10000 is the long form. */
const numRuns = Number(process.env.BAD_REQUESTS ?? 300)

let project: Project
let user: User
let bot: PlayedBot

beforeAll(async () => {
  project = await startProject()
  user = await project.user()
  bot = await project.playTo('active')
})

afterAll(async () => {
  const total = [...counts.values()].reduce((a, b) => a + b, 0)
  const each = [...counts].toSorted().map(([status, n]) => `${n} of ${status}`)
  console.log(`${total} bad requests: ${each.join(', ')}; the slowest took ${Math.round(slowest)} ms.`)
  await project?.close()
})

/** Any JSON, with the texts and numbers that break things. */
const junk = fc.oneof(
  fc.jsonValue({ maxDepth: 4 }),
  fc.constantFrom<unknown>(
    null,
    '',
    ' ',
    '\0',
    'a\0b',
    '\ud800',
    '\udfff\ud800',
    1e308,
    -0,
    2 ** 31,
    2 ** 53,
    -1,
    0.5,
    'x'.repeat(10_000),
    [],
    {},
    [[]],
    { __proto__: null },
    '00000000-0000-0000-0000-000000000000',
    'infinity',
    '9999-12-31T23:59:59Z',
    '0001-01-01T00:00:00Z',
  ),
  fc.string({ unit: 'binary', maxLength: 300 }),
)

/** A body that would do, with one to three of its fields spoilt; or no such body at all. */
function spoilt(good: Record<string, unknown>, fields: string[]): fc.Arbitrary<string | Uint8Array> {
  return fc.oneof(
    {
      weight: 8,
      arbitrary: fc
        .dictionary(fc.constantFrom(...fields), junk, { minKeys: 1, maxKeys: 3 })
        .map((bad) => JSON.stringify({ ...good, ...bad })),
    },
    { weight: 2, arbitrary: junk.map((value) => JSON.stringify(value)) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        '{"a":1e999}',
        '{"a":"\\u0000"}',
        '"\\ud800"',
        '[1,]',
        '{',
        'NaN',
        '['.repeat(50_000),
        `${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`,
        JSON.stringify({ ...good, [fields[0] as string]: 'x'.repeat(2 * 1024 * 1024) }),
      ),
    },
  )
}

/** What came of all requests: how many of each status, and the slowest (ms). */
const counts = new Map<number, number>()
let slowest = 0

async function answers(body: string | Uint8Array, send: () => Promise<Reply>): Promise<void> {
  const started = performance.now()
  const reply = await send()
  const took = performance.now() - started
  counts.set(reply.status, (counts.get(reply.status) ?? 0) + 1)
  slowest = Math.max(slowest, took)
  // What happens to be valid may be done; everything else is the caller's fault, and never ours.
  expect(reply.status, `${String(body).slice(0, 2000)} -> ${JSON.stringify(reply.body)}`).toBeLessThan(500)
  expect(reply.headers.get('access-control-allow-origin')).toBe('*')
  expect(took).toBeLessThan(2_000)
}

/** Bodies of which something is wrong, to these paths. */
async function badBodies(
  requests: fc.Arbitrary<[method: string, path: string]>,
  bodies: fc.Arbitrary<string | Uint8Array>,
): Promise<void> {
  await fc.assert(
    fc.asyncProperty(requests, bodies, ([method, path], body) =>
      answers(body, () => project.call(path, { method, as: user, body })),
    ),
    { numRuns },
  )
}

/** Queries of which something is wrong, to these paths; `words` are worth trying as values. */
async function badQueries(paths: string[], params: string[], words: string[]): Promise<void> {
  const value = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 100 }),
    fc.base64String({ maxLength: 100 }),
    fc.constantFrom('\0', '1', '-1', '1e9', 'MTk3MC0wMS0wMSB4', ...words),
  )
  const queries = fc.dictionary(fc.constantFrom(...params), value)
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...paths), queries, (path, query) => {
      const text = new URLSearchParams(query).toString()
      return answers(text, () => project.call(`${path}?${text}`, { as: user }))
    }),
    { numRuns },
  )
}

const limit = 60_000 + numRuns * 50

test(
  'no body makes join fail on our side',
  async () => {
    const fields = [
      'platform',
      'provider',
      'native_meeting_id',
      'meeting_url',
      'room_url',
      'passcode',
      'bot_name',
      'bot_config',
      'process_insights',
      'webhook_url',
      'metadata',
      'retry_of',
      'launch',
      'owner_id',
    ]
    const good = { platform: 'room', native_meeting_id: 'fuzz', launch: false }
    await fc.assert(
      fc.asyncProperty(spoilt(good, fields), (body) =>
        answers(body, () => project.call('/join', { method: 'POST', as: user, body })),
      ),
      { numRuns },
    )
  },
  limit,
)

test(
  'no body makes callback fail on our side',
  async () => {
    const fields = [
      'bot_id',
      'connection_id',
      'status',
      'event_id',
      'container_id',
      'reason',
      'completion_reason',
      'exit_code',
      'error_code',
      'error_message',
      'error_details',
      'failure_stage',
      'participant_count',
      'transcript',
      'bot_logs',
      'timestamp',
      'utterances',
      'chunk',
    ]
    const headers = { authorization: `Bearer ${bot.token}` }
    const paths = fc.constantFrom(
      '',
      '/status_change',
      '/joining',
      '/started',
      '/heartbeat',
      '/transcript',
      '/%00',
      '/a/b',
    )
    const good = { bot_id: bot.bot_id, status: 'active', utterances: [], chunk: 0 }
    await fc.assert(
      fc.asyncProperty(paths, spoilt(good, fields), (path, body) =>
        answers(body, () => project.call(`/callback${path}`, { method: 'POST', headers, body })),
      ),
      { numRuns },
    )
  },
  limit,
)

test(
  'no query makes status fail on our side',
  async () => {
    const fields = [
      'bot_id',
      'workflow_thread_id',
      'platform',
      'native_meeting_id',
      'include',
      'status',
      'meeting_status',
      'active',
      'limit',
      'cursor',
      'owner_id',
    ]
    const value = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 100 }),
      fc.base64String({ maxLength: 100 }),
      fc.constantFrom('\0', 'true', '1', 'events', 'room', 'running', 'MTk3MC0wMS0wMSB4', bot.bot_id),
    )
    const queries = fc
      .dictionary(fc.constantFrom(...fields), value, { minKeys: 1, maxKeys: 3 })
      .map((query) => new URLSearchParams(query).toString())
    await fc.assert(
      fc.asyncProperty(queries, (query) =>
        answers(query, () => project.call(`/status?${query}`, { as: user })),
      ),
      { numRuns },
    )
  },
  limit,
)

test(
  'no body makes flows and executions fail on our side',
  async () => {
    const good = { name: 'fuzz', prompts: ['a'], agent: { model: 'm' }, from: 'start', total_prompts: 1 }
    const flow = (await project.call('/flows', { method: 'POST', as: user, body: good })).body
    const run = await project.call(`/flows/${flow.id}/run`, { method: 'POST', as: user })
    const { id } = run.body
    await project.call(`/executions/${id}/cancel`, { method: 'POST', as: user })
    const fields = ['name', 'prompts', 'agent', 'owner_id', 'from', 'total_prompts']
    const requests = fc.constantFrom<[string, string]>(
      ['POST', '/flows'],
      ['PATCH', `/flows/${flow.id}`],
      ['POST', `/flows/${flow.id}/run`],
      ['POST', `/executions/${id}/cancel`],
      ['POST', `/executions/${id}/retry`],
      ['POST', '/flows/%00/run'],
    )
    await badBodies(requests, spoilt(good, fields))
    await badQueries(
      ['/flows', '/executions/recent', '/executions/active', `/executions/${id}`],
      ['limit', 'cursor', 'owner_id', 'include'],
      ['results', id],
    )
  },
  limit * 2,
)

test(
  'no body makes workflows fail on our side',
  async () => {
    const good = {
      title: 'fuzz',
      code: idle_script,
      time_zone: 'UTC',
      content: 'words',
      name: 'TOKEN',
      value: 'x',
      how: 'applied',
      result: {},
    }
    const create = { title: 'fuzz', code: idle_script }
    const workflow = (await project.call('/workflows', { method: 'POST', as: user, body: create })).body
    const own = `/workflows/${workflow.id}`
    const fields = [...Object.keys(good), 'message', 'comment', 'summary', 'script_id', 'owner_id']
    const paths = [
      '/workflows',
      ...[
        'messages',
        'script',
        'activate',
        'pause',
        'resume',
        'archive',
        'unarchive',
        'retry',
        'run',
        'secrets',
      ].map((what) => `${own}/${what}`),
      `${own}/errors/${workflow.id}/acknowledge`,
      `${own}/errors/1/acknowledge`,
      `${own}/mutations/${workflow.id}/resolve`,
      '/workflows/%00/run',
      '/workflows/a/b/c',
    ]
    const requests = fc.constantFrom(...paths).map((path): [string, string] => ['POST', path])
    await badBodies(requests, spoilt(good, fields))
    const reads = [
      '',
      '/messages',
      '/runs',
      '/scripts',
      `/runs/${workflow.id}`,
      `/scripts/${workflow.script_id}`,
    ]
    await badQueries(
      ['/workflows', ...reads.map((what) => `${own}${what}`)],
      ['limit', 'cursor', 'owner_id', 'state'],
      ['active', workflow.id],
    )
  },
  limit * 2,
)

test(
  'no body makes stop, webhooks and work fail on our side',
  async () => {
    const endpoint = { url: 'https://example.com/hook', events: ['bot.*'] }
    const created = (await project.call('/webhooks', { method: 'POST', as: user, body: endpoint })).body
    const good = { ...endpoint, bot_id: crypto.randomUUID(), reason: 'fuzz', enabled: true, lane: 'launch' }
    const requests = fc.constantFrom<[string, string]>(
      ['POST', '/stop'],
      ['DELETE', '/stop/room/fuzz'],
      ['DELETE', '/stop/%00/%00'],
      ['POST', '/webhooks'],
      ['PATCH', `/webhooks/${created.id}`],
      ['POST', `/webhooks/${created.id}/rotate`],
      ['POST', '/webhooks/deliveries/1/resend'],
      ['DELETE', `/webhooks/${crypto.randomUUID()}`],
      ['PATCH', '/webhooks/%00'],
      ['POST', '/work'],
    )
    const fields = [...Object.keys(good), 'owner_id']
    await badBodies(requests, spoilt(good, fields))
    await badQueries(
      ['/webhooks', '/webhooks/deliveries', `/webhooks/${created.id}`, '/work'],
      ['limit', 'cursor', 'owner_id', 'endpoint_id', 'state', 'lane'],
      ['failed', 'launch', created.id],
    )
  },
  limit * 2,
)

test('and after all of it nothing is broken', async () => {
  const [row] = await project.superuser`select count(*)::int as n from public.invariant_violations`
  expect(row?.n).toBe(0)
  expect((await project.call(`/status?bot_id=${bot.bot_id}`, { as: bot.owner })).status).toBe(200)
})
