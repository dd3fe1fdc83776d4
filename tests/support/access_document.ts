import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { project_dir } from '../../src/local/project.ts'
import { callable, readable, seen_by } from './access.ts'

/** The document that shows who may do what. */
export const access_document = 'docs/security.md'

const place = /<!-- access -->\n[\s\S]*?<!-- end -->/

/** The document with its tables drawn anew. */
export function drawAccess(text: string): string {
  return text.replace(place, () => `<!-- access -->\n\n${tables()}\n\n${functions()}\n\n<!-- end -->`)
}

const rows_seen = {
  everyone: ['all rows', 'all rows', 'all rows', 'all rows'],
  'the signed-in': ['', 'all rows', 'all rows', 'all rows'],
  owners: ['', 'their own', 'all rows', 'all rows'],
  operators: ['', '', 'all rows', 'all rows'],
} as const

function tables(): string {
  const names = [...new Set(Object.values(readable).flat())].sort()
  return markdown(
    ['table or view, read only', 'anon', 'owner', 'operator', 'service_role'],
    names.map((name) => [`\`${name}\``, ...rows_seen[seen_by[name] ?? 'operators']]),
  )
}

function functions(): string {
  const names = [...new Set(Object.values(callable).flat())].sort()
  const may = (role: string, name: string) => (callable[role]?.includes(name) ? 'yes' : '')
  return markdown(
    ['function', 'anon', 'signed in', 'service_role'],
    names.map((name) => [
      `\`${name}\``,
      may('anon', name),
      may('authenticated', name),
      may('service_role', name),
    ]),
  )
}

function markdown(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

if (import.meta.main) {
  const file = join(project_dir, access_document)
  const text = readFileSync(file, 'utf8')
  const drawn = drawAccess(text)
  if (drawn !== text) writeFileSync(file, drawn)
  console.log(`${access_document} ${drawn === text ? 'shows who may do what already' : 'was drawn anew'}.`)
}
