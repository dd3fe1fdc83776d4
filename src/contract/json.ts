import { type Issue, issuePath } from './errors.ts'

/** Deeper than any real document, shallower than what makes Postgres or a serialiser overflow its stack. */
const MAX_DEPTH = 64

const MAX_ISSUES = 20

/** The size of a value as JSON, in bytes. */
export function jsonBytes(value: unknown): number {
  return new TextEncoder().encode(JSON.stringify(value)).length
}

/**
 * What Postgres can not store in any parsed JSON value, wherever it hides: NUL characters and lone surrogates
 * (in keys too), numbers beyond the range of a double, nesting deeper than 64. No more than 20 issues.
 */
export function storageIssues(root: unknown): Issue[] {
  const issues: Issue[] = []
  const open: { value: unknown; path: PropertyKey[] }[] = [{ value: root, path: [] }]
  // A loop with its own stack: a million nested brackets must not overflow ours.
  while (issues.length < MAX_ISSUES) {
    const next = open.pop()
    if (next === undefined) return issues
    const { value, path } = next
    if (typeof value === 'string') {
      const problem = textProblem(value)
      if (problem !== null) issues.push({ path: issuePath(path), message: problem })
    } else if (typeof value === 'number' && !Number.isFinite(value)) {
      issues.push({ path: issuePath(path), message: 'The number is too large.' })
    } else if (typeof value === 'object' && value !== null) {
      if (path.length >= MAX_DEPTH) {
        issues.push({ path: issuePath(path.slice(0, 3)), message: `Nested deeper than ${MAX_DEPTH} levels.` })
        continue
      }
      for (const [key, child] of Object.entries(value)) {
        const problem = textProblem(key)
        if (problem !== null) issues.push({ path: issuePath(path), message: `A key is refused. ${problem}` })
        else open.push({ value: child, path: [...path, key] })
      }
    }
  }
  return issues
}

function textProblem(text: string): string | null {
  if (text.includes('\0')) return 'A NUL character can not be stored.'
  if (!text.isWellFormed()) return 'A lone surrogate is no character: send well-formed Unicode.'
  return null
}
