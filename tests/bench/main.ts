/**
 * Figures, never a test: every one is a ratio against a neighbour that ran in the same rounds.
 * Run: npm run bench [-- lives handler-runs guard growth queues http latency]; all of them write docs/benchmarks.md.
 */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { join } from 'node:path'
import { project_dir } from '../../src/local/project.ts'
import { type BenchCluster, startBenchCluster } from './database.ts'
import { growth } from './growth.ts'
import { guard } from './guard.ts'
import { handlerRuns } from './handler_runs.ts'
import { callbacks } from './http.ts'
import { latency } from './latency.ts'
import { lives } from './lives.ts'
import { ROUNDS, type Row } from './measure.ts'
import { queues } from './queues.ts'

const groups: Record<string, { title: string; run(cluster: BenchCluster): Promise<Row[]> }> = {
  lives: { title: 'Whole lives, of the raw tables', run: lives },
  'handler-runs': { title: 'A handler run, of the same rows written by hand', run: handlerRuns },
  guard: { title: 'The guard and the heartbeat, of the same update without', run: guard },
  growth: { title: 'What grows with the tables', run: growth },
  queues: { title: 'Lifecycles a second next to job queues', run: queues },
  http: { title: 'Over HTTP', run: callbacks },
  latency: { title: 'From COMMIT to the client', run: latency },
}

const asked = process.argv.slice(2)
const unknown = asked.find((name) => groups[name] === undefined)
if (unknown !== undefined) {
  console.error(`There is no benchmark ${unknown}: ${Object.keys(groups).join(', ')}.`)
  process.exit(2)
}
const chosen = asked.length > 0 ? asked : Object.keys(groups)
const cluster = await startBenchCluster()
const parts: string[] = []
try {
  for (const name of chosen) {
    const { title, run } = groups[name] as (typeof groups)[string]
    const table = tableOf(await run(cluster))
    console.log(`\n${title}\n\n${table}`)
    parts.push(`## ${title}\n\n${table}\n`)
  }
  if (asked.length === 0) {
    writeFileSync(join(project_dir, 'docs', 'benchmarks.md'), `${header()}\n${parts.join('\n')}`)
    console.log('\nWritten to docs/benchmarks.md.')
  }
} finally {
  await cluster.stop()
}
process.exit(0)

function tableOf(rows: Row[]): string {
  const lines = rows.map(({ what, must, goal, measured, reached }) => {
    const verdict = reached === null ? '' : reached ? 'yes' : '**no**'
    return `| ${what} | ${must} | ${goal} | ${measured} | ${verdict} |`
  })
  return ['| case | must | goal | measured | reached |', '| --- | --- | --- | --- | --- |', ...lines].join(
    '\n',
  )
}

function header(): string {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: project_dir }).toString().trim()
  return `# Benchmarks

Made by \`npm run bench\` on ${new Date().toISOString().slice(0, 10)} at commit ${commit}: ${cpus().length} × ${cpus()[0]?.model.trim()},
${Math.round(totalmem() / 2 ** 30)} GiB, ${process.platform} ${process.arch}, Postgres ${cluster.version} without fsync, Node ${process.versions.node}.

Every figure is a ratio against a neighbour measured in the same run: both sides take turns in short slices, ${ROUNDS} rounds,
and the median of the rounds' ratios counts. SQL goes through prepared statements on real connections, with 1 and 8
clients of one Node process. *Raw* is \`tests/bench/raw.sql\`, what a good engineer would write by hand: no guard, no push.
Its CPU shares the machine with the clients', so the time of the server alone is given as well.
`
}
