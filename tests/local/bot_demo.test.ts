import { expect, test } from 'vitest'
import { runDemo } from '../../src/local/demo.ts'
import { sharedStack } from '../support/stack.ts'

test('the demo shows each transition once and in order, what the bot made of the talk, and a flow', async () => {
  const lines: string[] = []
  const started_at = Date.now()
  await runDemo(await sharedStack(), (line) => lines.push(line))
  expect(Date.now() - started_at).toBeLessThan(30_000)

  const transitions = lines.flatMap(
    (line) => /^ +\d+\.\d\d +((?:bot|meeting) .*)$/.exec(line)?.[1]?.replace(/ +/g, ' ') ?? [],
  )
  const of = (machine: string) => transitions.filter((transition) => transition.startsWith(`${machine} `))
  expect(of('meeting')).toEqual([
    'meeting requested',
    'meeting requested → joining',
    'meeting joining → awaiting_admission',
    'meeting awaiting_admission → active',
    'meeting active → completed',
  ])
  expect(of('bot')).toEqual([
    'bot pending',
    'bot pending → starting',
    'bot starting → running',
    'bot running → completed',
  ])

  const text = lines.join('\n')
  expect(text).toContain('Grace: How long does the migration take?\n    Ada: Four minutes')
  expect(text).toContain('- Ada: I will write to them this afternoon.')

  const flow = text.slice(text.indexOf('Demo: the flow "Release notes"'))
  expect([...flow.matchAll(/^ +(\d\/3) {2}/gm)].map(([, step]) => step)).toEqual(['1/3', '2/3', '3/3'])
  expect(flow).toContain('[Built-in agent: no model')
}, 90_000)
