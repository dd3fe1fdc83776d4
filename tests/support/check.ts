import { access } from './checks/access.ts'
import { biome } from './checks/biome.ts'
import { cases } from './checks/cases.ts'
import { database_types } from './checks/database_types.ts'
import { deno_versions } from './checks/deno_versions.ts'
import { diagrams } from './checks/diagrams.ts'
import { environment } from './checks/environment.ts'
import { functions_in_deno } from './checks/functions_in_deno.ts'
import { typescript } from './checks/typescript.ts'
import { words } from './checks/words.ts'

// npm run check: everything that must hold and needs no test. One line a check; exit 1 when one fails.

const checks = [
  typescript,
  biome,
  functions_in_deno,
  deno_versions,
  cases,
  environment,
  diagrams,
  access,
  database_types,
  words,
]

let failed = 0
for (const check of checks) {
  const problems = await check.run().catch((error: Error) => error.message.split('\n'))
  console.log(`${problems.length === 0 ? 'ok    ' : 'FAILED'} ${check.name}`)
  for (const problem of problems) console.log(`       ${problem}`)
  if (problems.length > 0) failed++
}
console.log(`\nChecks: ${checks.length - failed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
