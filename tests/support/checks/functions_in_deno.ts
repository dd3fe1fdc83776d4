import type { Check } from './check.ts'
import { projectFiles } from './project_files.ts'
import { runTool } from './run_tool.ts'

export const functions_in_deno: Check = {
  name: 'the functions and what they import hold in Deno (deno check)',
  run() {
    const entries = projectFiles().filter((file) => /^functions\/[^_][^/]*\/index\.ts$/.test(file))
    // From node_modules, as the local stack serves them: nothing is downloaded.
    const offline = ['--node-modules-dir=manual', '--no-remote', '--no-lock', '--quiet']
    return runTool('deno/bin.cjs', ['check', ...offline, '--config', 'functions/deno.json', ...entries])
  },
}
