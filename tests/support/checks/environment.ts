import type { Check } from './check.ts'
import { projectFiles, readProjectFile } from './project_files.ts'

/** The forms in which code reads a variable. */
const reads = [
  /process\.env\.([A-Z][A-Z0-9_]*)/g,
  /\b(?:env|read|portFrom)\('([A-Z][A-Z0-9_]*)'/g,
  /\bcount\(read, '([A-Z][A-Z0-9_]*)'/g,
  /\bconst names = \[([^\]]+)\] as const/g,
  /\bconst \{([^}]+)\} = process\.env/g,
  /^ {2}((?:ROLLCALL|FLY)_[A-Z_]+): z\b/gm,
]

export const environment: Check = {
  name: '.env.example lists every variable that code reads, and no other',
  async run() {
    const sources = projectFiles().filter((file) => /^(src|functions)\/.*\.ts$/.test(file))
    const text = sources.map(readProjectFile).join('\n')
    const found = reads.flatMap((form) =>
      [...text.matchAll(form)].flatMap(([, names]) => names?.match(/\w+/g) ?? []),
    )
    const read = new Set(found)
    const example = readProjectFile('.env.example')
    const listed = new Set(
      [...example.matchAll(/^(?:# )?([A-Z][A-Z0-9_]*)=/gm)].map(([, name]) => name as string),
    )
    return [
      ...[...read].filter((name) => !listed.has(name)).map((name) => `${name} is read and not listed.`),
      ...[...listed]
        .filter((name) => !new RegExp(`\\b${name}\\b`).test(text))
        .map((name) => `${name} is listed and nowhere in the code.`),
    ]
  },
}
