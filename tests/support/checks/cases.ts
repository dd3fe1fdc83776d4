import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { project_dir } from '../../../src/local/project.ts'
import type { Check } from './check.ts'

const ours = join(project_dir, 'tests', 'cases')
const theirs = join(project_dir, '..', 'shared', 'cases')

export const cases: Check = {
  name: 'tests/cases are the cases of the specification, where that lies beside the project',
  async run() {
    if (!existsSync(theirs)) return []
    const names = new Set([...readdirSync(ours), ...readdirSync(theirs)])
    return [...names].flatMap((name) => {
      const [mine, other] = [join(ours, name), join(theirs, name)]
      if (!existsSync(mine)) return [`tests/cases/${name} is missing.`]
      if (!existsSync(other)) return [`tests/cases/${name} is no case of the specification.`]
      return readFileSync(mine).equals(readFileSync(other)) ? [] : [`tests/cases/${name} differs.`]
    })
  },
}
