import { afterAll, beforeAll, expect, test } from 'vitest'
import { runAutomationDemo } from '../../src/local/automation_demo.ts'
import { type Project, startProject } from '../support/project.ts'

let project: Project
beforeAll(async () => {
  project = await startProject()
})
afterAll(() => project?.close())

test('the demo sends each item of its feed once, also where the receiver cuts the connection', async () => {
  const lines: string[] = []
  await runAutomationDemo(project.stack, (line) => lines.push(line))

  const text = lines.join('\n')
  for (const item of ['item-1: Release 1.0', 'item-2: The office', 'item-3: Release 1.1']) {
    expect(text.split(item), item).toHaveLength(2)
  }
  expect(text).toContain('cuts the connection')
  expect(text).toContain('is asked: item-2 has arrived')
  const moves = lines.flatMap(
    (line) => /^ +\d+\.\d\d {2}(\w+ .*)$/.exec(line)?.[1]?.replace(/ +/g, ' ') ?? [],
  )
  expect(moves.filter((move) => move === 'mutation in_flight')).toHaveLength(3)
  expect(moves.filter((move) => /^mutation .* → applied$/.test(move))).toHaveLength(3)
  expect(moves.filter((move) => /^mutation .* → failed$/.test(move))).toEqual([])
  expect(moves.filter((move) => move.startsWith('workflow '))).toEqual([
    'workflow draft',
    'workflow draft → active',
    'workflow active → disabled',
  ])
  expect(lines.at(-1)).toContain('3 items, each sent once')
}, 150_000)
