import type { Check } from './check.ts'
import { runTool } from './run_tool.ts'

export const biome: Check = {
  name: 'format, lint rules and import boundaries hold (biome)',
  run: () => runTool('@biomejs/biome/bin/biome', ['check', '--error-on-warnings', '--colors=off']),
}
