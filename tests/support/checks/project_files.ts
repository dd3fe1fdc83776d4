import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { project_dir } from '../../../src/local/project.ts'

/** The project's own files, as paths from its root: what git tracks or would track. */
export function projectFiles(): string[] {
  // A clone that belongs to somebody else is read all the same.
  const list = ['-c', 'safe.directory=*', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
  const files = execFileSync('git', list, { cwd: project_dir, encoding: 'utf8' }).split('\0')
  // A file that was removed and not yet committed is still listed.
  return files.filter((file) => file !== '' && existsSync(join(project_dir, file)))
}

/** The text of one of them. */
export function readProjectFile(path: string): string {
  return readFileSync(join(project_dir, path), 'utf8')
}
