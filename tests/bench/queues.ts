/** Job queues of npm on the same machine, a job at a time, with the settings that their documentation gives. */
import { randomUUID } from 'node:crypto'
import { makeWorkerUtils, run } from 'graphile-worker'
import { PgBoss } from 'pg-boss'
import type { BenchCluster } from './database.ts'
import { executionLife } from './lives.ts'
import { atLeast, compareRates, type Row } from './measure.ts'

export async function queues(cluster: BenchCluster): Promise<Row[]> {
  const rows: Row[] = []
  const database = await cluster.create()
  const clients = Array.from({ length: 8 }, () => database.client())
  const [flow] = await database.sql`
    select public.create_flow(${randomUUID()}, 'A flow', '["Say something."]') ->> 'id' as id`
  const execution = (n: number) => executionLife(clients[n] as (typeof clients)[number], flow?.id, 1)

  const boss = new PgBoss({ connectionString: (await cluster.createEmpty()).url, max: 8 })
  boss.on('error', console.error)
  await boss.start()
  try {
    await boss.createQueue('bench')
    const job = async () => {
      await boss.send('bench', { text: 'Say something.' })
      const [taken] = await boss.fetch('bench')
      if (taken) await boss.complete('bench', taken.id, { response: 'An answer.' })
    }
    for (const n of [1, 8]) {
      const { ratio, first, second } = await compareRates(n, job, execution)
      rows.push(
        atLeast(
          `one-prompt execution, of a job of pg-boss 12.35.0 (send, fetch, complete), ${n} ${n === 1 ? 'client' : 'clients'}`,
          1.5,
          1.8,
          ratio,
          `${second.toFixed(0)} of ${first.toFixed(0)} a second`,
        ),
      )
    }
  } finally {
    await boss.stop({ graceful: false })
  }

  const { url } = await cluster.createEmpty()
  const utils = await makeWorkerUtils({ connectionString: url })
  await utils.migrate()
  const waiting = new Map<string, () => void>()
  const quiet = { error() {}, warn() {}, info() {}, debug() {} }
  const { Logger } = await import('graphile-worker')
  const worker = await run({
    connectionString: url,
    concurrency: 8,
    noHandleSignals: true,
    logger: new Logger(
      () => (level, message) => (level === 'error' ? console.error(message) : quiet.debug()),
    ),
    taskList: {
      bench: async (payload) => {
        waiting.get((payload as { id: string }).id)?.()
      },
    },
  })
  try {
    const job = async () => {
      const id = randomUUID()
      const done = new Promise<void>((resolve) => waiting.set(id, resolve))
      await utils.addJob('bench', { id })
      await done
      waiting.delete(id)
    }
    const { ratio, first, second } = await compareRates(8, job, execution)
    rows.push({
      what: 'the same, of a job of graphile-worker 0.18.0 (addJob until its task runs; it keeps no history), 8 clients',
      must: '',
      goal: '',
      measured: `${ratio.toFixed(2)} (${second.toFixed(0)} of ${first.toFixed(0)} a second)`,
      reached: null,
    })
  } finally {
    await worker.stop()
    await utils.release()
  }
  return rows
}
