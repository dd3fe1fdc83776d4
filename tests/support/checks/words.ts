import type { Check } from './check.ts'
import { projectFiles, readProjectFile } from './project_files.ts'

/** What no file of the project says, and why. */
const forbidden: [RegExp, string][] = [
  [/\b(?:TODO|FIXME|XXX|HACK)\b/, 'unfinished work is done or dropped'],
  [/\b(?:test|it|describe|suite)\.(?:only|skip|todo|fails)\b/, 'every test runs'],
  [/\b(?:blazing|seamless|effortless|cutting[- ]edge|game[- ]chang|world[- ]class)/i, 'plain words do'],
  [/(?:^|[\s"'`=(])(?:\/home|\/Users)\/\w/, 'a path of one machine'],
  [/"resolved": "/, 'the lockfile names versions, and leaves the registry to npm'],
]

/** This file names them, licences and cases are quoted, and pictures hold no words. */
const quoted = /^(?:LICENSE|tests\/cases\/.*|tests\/support\/checks\/words\.ts|.*\.png)$/

export const words: Check = {
  name: 'no file holds a forbidden word',
  async run() {
    const files = projectFiles().filter((file) => !quoted.test(file))
    return files.flatMap((file) => {
      const lines = readProjectFile(file).split('\n')
      return lines.flatMap((line, index) =>
        forbidden.filter(([word]) => word.test(line)).map(([, why]) => `${file}:${index + 1}: ${why}`),
      )
    })
  },
}
