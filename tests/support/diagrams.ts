import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { project_dir } from '../../src/local/project.ts'

type Machine = {
  description: string
  states: { state: string; kind: 'initial' | 'open' | 'terminal' }[]
  transitions: [string, string][]
}

/** A test holds these equal to the rows of lifecycle.machines, states and transitions. */
const machines: Record<string, Machine> = JSON.parse(
  readFileSync(join(project_dir, 'tests', 'cases', 'machines.json'), 'utf8'),
)

/** The documents that show machines, and which. */
export const documents: Record<string, string[]> = {
  'README.md': ['bot', 'meeting'],
  'ARCHITECTURE.md': Object.keys(machines),
}

const place = /<!-- machine (\w+) -->\n[\s\S]*?<!-- end -->/g

/** A document with each of its diagrams drawn anew. Throws for a machine that does not exist. */
export function drawInto(text: string): string {
  return text.replaceAll(place, (_, name: string) => {
    const machine = machines[name]
    if (machine === undefined) throw new Error(`There is no machine ${name}.`)
    return `<!-- machine ${name} -->\n\`\`\`mermaid\n${draw(machine)}\n\`\`\`\n<!-- end -->`
  })
}

/** A machine as a Mermaid state diagram. */
function draw(machine: Machine): string {
  // A colon ends a state's id in Mermaid.
  const id = (state: string) => state.replaceAll(':', '_')
  const renamed = machine.states.filter(({ state }) => id(state) !== state)
  const of_kind = (kind: string) => machine.states.filter((state) => state.kind === kind)
  // In the order of the states, so that the picture reads from the start to the end.
  const rank = (state: string) => machine.states.findIndex((other) => other.state === state)
  const moves = machine.transitions.toSorted((a, b) => rank(a[0]) - rank(b[0]) || rank(a[1]) - rank(b[1]))
  const lines = [
    ...renamed.map(({ state }) => `state "${state}" as ${id(state)}`),
    ...of_kind('initial').map(({ state }) => `[*] --> ${id(state)}`),
    ...moves.map(([from, to]) => `${id(from)} --> ${id(to)}`),
    ...of_kind('terminal').map(({ state }) => `${id(state)} --> [*]`),
  ]
  return ['stateDiagram-v2', ...lines.map((line) => `  ${line}`)].join('\n')
}

if (import.meta.main) {
  for (const path of Object.keys(documents)) {
    const file = join(project_dir, path)
    const text = readFileSync(file, 'utf8')
    const drawn = drawInto(text)
    if (drawn !== text) writeFileSync(file, drawn)
    console.log(`${path} ${drawn === text ? 'shows the machines already' : 'was drawn anew'}.`)
  }
}
