import type { Check } from './check.ts'
import { runTool } from './run_tool.ts'

export const typescript: Check = {
  name: 'the types of src, functions and tests hold (tsc)',
  run: () => runTool('typescript/bin/tsc', ['--noEmit', '-p', '.']),
}
