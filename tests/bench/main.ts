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

/** `why`: what is slower than we would like, and where the time goes. */
const groups: Record<string, { title: string; run(cluster: BenchCluster): Promise<Row[]>; why?: string }> = {
  lives: {
    title: 'Whole lives, of the raw tables',
    run: lives,
    why: `With 8 clients both cores are busy: the raw side is bound by the clients' process, ours by the server, which needs
1.1 to 1.3 ms of CPU for a life, where raw needs 0.26 to 0.43. Leaving parts out one at a time shows where its CPU goes in the life of an execution: 155 µs are three \`realtime.send\` (each a
subtransaction), 90 µs look up what is legal, whether to push, who was told lately and who wants webhooks, 85 µs answer with
the whole execution as JSON, 50 µs wake the workers, 40 µs are the six indexes of lists. PL/pgSQL compiles each expression
anew in each transaction, and Postgres parses each check constraint anew with each statement, so guards check what must hold
and the hot functions say little. Of the WAL of an execution 43 % are the three rows of \`realtime.messages\` with their
indexes; it is counted for its two transitions, though a life is four transactions, as raw's four transitions are.`,
  },
  'handler-runs': {
    title: 'A handler run, of the same rows written by hand',
    run: handlerRuns,
    why: `A run moves through six phases in eight transactions, each under the locks of its workflow, session and run, and each
looks at the lease. What is slower is the history with its pushes, and the guards of runs, events and side effects.`,
  },
  guard: { title: 'The guard and the heartbeat, of the same update without', run: guard },
  growth: {
    title: 'What grows with the tables',
    run: growth,
    why: `Ending a bot moves its row, so it writes to each index of the table; a thousand times more rows make the large ones
one level deeper, a page for each index and bot. The time stays the same.`,
  },
  queues: {
    title: 'Lifecycles a second next to job queues',
    run: queues,
    why: `A job of pg-boss is three statements on one row, without a history, a push or an answer for its owner; an execution is
four transactions that keep each transition and push three messages.`,
  },
  http: { title: 'Over HTTP', run: callbacks },
  latency: {
    title: 'From COMMIT to the client',
    run: latency,
    why: `A bare NOTIFY commits nothing: the same NOTIFY, sent by the transaction of a transition, takes twice as long. A push
leaves Postgres by logical decoding, as on the platform, and after the transaction was decoded it waits until its rows are visible to
everyone, and goes through a socket. Asking what is visible while a transaction is still decoded made no difference.`,
  },
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
    const { title, run, why } = groups[name] as (typeof groups)[string]
    const table = tableOf(await run(cluster))
    console.log(`\n${title}\n\n${table}`)
    parts.push(`## ${title}\n\n${table}\n${why === undefined ? '' : `\n${why}\n`}`)
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
