import { expect, test } from 'vitest'
import { nextRun } from '../../src/worker/script/next_run.ts'
import { validateScript } from '../../src/worker/script/validate_script.ts'

const good = `workflow = {
  topics: ['items'],
  producers: { poll: { schedule: { interval: '5m' }, publishes: ['items'], async handler(state) {} } },
  consumers: { send: { subscribe: ['items'], async prepare(state) {}, async mutate(prepared) {} } },
}`

/** Each: what is wrong, the script, and where it is found. */
const wrong: [string, string, string[]][] = [
  ['nothing defined', 'const a = 1', ['code']],
  ['no JavaScript', 'workflow = {', ['code']],
  ['an endless top level', 'for (;;) {}', ['code']],
  ['a call at the top level', `${good}; Http.get('x').catch(() => {}); throw new Error('no')`, ['code']],
  ['no object', 'workflow = []', ['workflow']],
  ['no handler', 'workflow = { topics: [] }', ['producers']],
  ['an unknown setting', good.replace('topics:', 'extra: 1, topics:'), ['workflow.extra']],
  [
    'an undeclared topic',
    good.replaceAll(`['items']`, `['others']`).replace(`topics: ['others']`, `topics: []`),
    ['producers.poll.publishes', 'consumers.send.subscribe'],
  ],
  ['a topic that nobody reads', good.replace(`topics: ['items']`, `topics: ['items', 'more']`), ['topics']],
  [
    'a topic that two read',
    good.replace('consumers: {', `consumers: { other: { subscribe: ['items'], prepare() {} },`),
    ['topics'],
  ],
  [
    'a handler that is no function',
    good.replace('async handler(state) {}', 'handler: 1'),
    ['producers.poll.handler'],
  ],
  ['no prepare', good.replace('async prepare(state) {},', ''), ['consumers.send.prepare']],
  [
    'a mutate that is no function',
    good.replace('async mutate(prepared) {}', 'mutate: {}'),
    ['consumers.send.mutate'],
  ],
  [
    'no schedule',
    good.replace(`schedule: { interval: '5m' }, `, ''),
    ['producers.poll.schedule', 'producers.poll.schedule'],
  ],
  ['two schedules', good.replace(`'5m' }`, `'5m', cron: '0 9 * * *' }`), ['producers.poll.schedule']],
  ['an interval that is none', good.replace('5m', '5 minutes'), ['producers.poll.schedule.interval']],
  ['an interval of nothing', good.replace('5m', '0m'), ['producers.poll.schedule.interval']],
  [
    'a cron that is none',
    good.replace(`interval: '5m'`, `cron: 'every day'`),
    ['producers.poll.schedule.cron'],
  ],
  [
    'a cron that never comes',
    good.replace(`interval: '5m'`, `cron: '0 0 30 2 *'`),
    ['producers.poll.schedule.cron'],
  ],
  [
    'a cron that ends',
    good.replace(`interval: '5m'`, `cron: '2099-01-01T00:00:00'`),
    ['producers.poll.schedule.cron'],
  ],
  [
    'a cron with a year',
    good.replace(`interval: '5m'`, `cron: '0 0 0 1 1 * 2099'`),
    ['producers.poll.schedule.cron'],
  ],
  ['a tool without a handler', `${good}; Http.get('x').catch(() => {})`, ['code']],
  ['a name of the language', good.replace('poll:', `['__proto__']:`), ['producers']],
  ['a list that is forged', `workflow = { topics: [1] }; Array.prototype.map = () => 5`, ['topics']],
  ['a shape that is forged', 'workflow = {}; Object.prototype.toJSON = () => null', ['producers']],
  ['a list without an end', `workflow = { topics: new Array(1e9) }`, ['code']],
  ['a getter without an end', `workflow = { get topics() { for (;;) {} } }`, ['code']],
  ['a name that is none', good.replace('poll:', `'a b':`), ['producers']],
  ['300 KB', good + ' '.repeat(300_000), ['code']],
]

test('a script that will do is read without calling its handlers', async () => {
  const { config, issues } = await validateScript(good)
  expect(issues).toEqual([])
  expect(config).toEqual({
    topics: ['items'],
    producers: { poll: { schedule: { interval: '5m' }, publishes: ['items'] } },
    consumers: { send: { subscribe: ['items'], publishes: [], has_mutate: true, has_next: false } },
  })
})

test.each(wrong)('%s is an issue with its place', async (_what, code, paths) => {
  const { issues } = await validateScript(code)
  expect(issues.map(({ path }) => path)).toEqual(paths)
})

test.each(['', 'const ', 'let ', 'var ', 'globalThis.', `'use strict'; `])(
  'it may begin with %j',
  async (how) => {
    expect((await validateScript(how + good)).issues).toEqual([])
  },
)

test('of very many issues the first 50 are told', async () => {
  const code = `workflow = { producers: {} }; for (let i = 0; i < 999; i++) workflow.producers['a ' + i] = {}`
  expect((await validateScript(code)).issues).toHaveLength(50)
})

test('several issues are told at once', async () => {
  const code = good.replace('5m', 'soon').replace('async handler(state) {}', 'handler: 1')
  expect((await validateScript(code)).issues).toHaveLength(2)
})

test('an interval counts from now, and a cron in its own time zone, also where the clocks change', () => {
  const after = new Date('2026-03-28T12:00:00Z')
  expect(nextRun({ interval: '90s' }, 'UTC', after).toISOString()).toBe('2026-03-28T12:01:30.000Z')
  expect(nextRun({ interval: '2d' }, 'UTC', after).toISOString()).toBe('2026-03-30T12:00:00.000Z')
  const at_nine = (time_zone: string, from = after) =>
    nextRun({ cron: '0 9 * * *' }, time_zone, from).toISOString()
  expect(at_nine('UTC')).toBe('2026-03-29T09:00:00.000Z')
  expect(at_nine('America/New_York')).toBe('2026-03-28T13:00:00.000Z')
  // Summer time began in the night.
  expect(at_nine('Europe/Berlin')).toBe('2026-03-29T07:00:00.000Z')
  expect(at_nine('Europe/Berlin', new Date('2026-03-27T12:00:00Z'))).toBe('2026-03-28T08:00:00.000Z')
})
