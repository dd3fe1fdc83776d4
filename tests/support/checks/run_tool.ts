import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { project_dir } from '../../../src/local/project.ts'

const { resolve } = createRequire(import.meta.url)

/** Runs a command line tool of node_modules in the project's root; answers what it said if it failed. */
export async function runTool(script: string, args: string[]): Promise<string[]> {
  const child = spawn(process.execPath, [resolve(script), ...args], {
    cwd: project_dir,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1' },
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
  }
  const code = await new Promise<number | null>((done, fail) => {
    child.once('error', fail)
    child.once('close', done)
  })
  return code === 0 ? [] : said.trim().split('\n')
}
