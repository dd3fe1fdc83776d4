import { documents, drawInto } from '../diagrams.ts'
import type { Check } from './check.ts'
import { readProjectFile } from './project_files.ts'

export const diagrams: Check = {
  name: 'the diagrams of the documents show the machines',
  async run() {
    return Object.entries(documents).flatMap(([path, machines]) => {
      const text = readProjectFile(path)
      const missing = machines.filter((machine) => !text.includes(`<!-- machine ${machine} -->`))
      if (missing.length > 0) return [`${path} has no diagram of ${missing.join(', ')}.`]
      return drawInto(text) === text
        ? []
        : [`${path} differs: node tests/support/diagrams.ts draws them anew.`]
    })
  },
}
