import { existsSync, mkdirSync, realpathSync } from 'node:fs'
import { dirname, resolve } from 'node:path'

/** Makes a directory and what is missing above it; returns its real path. */
export function makeDataDirectory(path: string): string {
  const dir = resolve(path)
  // One by one: Node's recursive mkdir never returns from file systems like /proc.
  const missing: string[] = []
  for (let at = dir; !existsSync(at) && at !== dirname(at); at = dirname(at)) missing.push(at)
  for (const at of missing.reverse()) mkdirSync(at)
  // Existing may mean a file: this says so.
  if (missing.length === 0) mkdirSync(dir, { recursive: true })
  return realpathSync(dir)
}
