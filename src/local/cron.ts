import { Cron } from 'croner'
import postgres from 'postgres'

export type TickerOptions = {
  /** A connection string of the superuser, who reads the jobs and the queue. */
  superuser_url: string
  /** A connection string for the user of a job. */
  url(user: string): string
}

export type Ticker = { close(): Promise<void> }

type Job = { jobid: string; schedule: string; command: string; database: string; username: string }
type QueuedRequest = {
  id: string
  method: string
  url: string
  headers: Record<string, string> | null
  body: Buffer | null
  timeout_milliseconds: number
}

/** How long answers are kept in net._http_response, as pg_net does. */
const response_ttl = '6 hours'

/** Plays pg_cron and pg_net: runs the rows of cron.job and sends what net.http_post has queued. */
export async function startTicker(options: TickerOptions): Promise<Ticker> {
  const sql = postgres(options.superuser_url, { max: 4, onnotice: () => {} })
  const closing = new AbortController()
  const jobs = new CronJobs(sql, options.url)
  const sender = new Sender(sql, closing.signal)

  // Notifications arrive after the commit, so a request that was rolled back is never seen.
  await sql.listen('rollcall_cron', () => void jobs.load())
  await sql.listen('rollcall_net', () => void sender.send())
  await jobs.load()
  void sender.send()
  const sweep = setInterval(() => void sender.sweep(), 60_000)

  return {
    async close() {
      clearInterval(sweep)
      closing.abort()
      await jobs.close()
      await sql.end({ timeout: 1 })
    },
  }
}

class CronJobs {
  #timers = new Map<string, NodeJS.Timeout>()
  #sessions = new Set<postgres.Sql>()
  #running = new Set<string>()
  #known = new Map<string, Job>()
  #closed = false
  #sql: postgres.Sql
  #url: (user: string) => string

  constructor(sql: postgres.Sql, url: (user: string) => string) {
    this.#sql = sql
    this.#url = url
  }

  /** Reads cron.job and plans what is new or changed. */
  async load(): Promise<void> {
    const rows = await this.#sql<Job[]>`
      select jobid::text, schedule, command, database, username
      from cron.job where active and database = current_database()`.catch(() => [])
    if (this.#closed) return
    const before = this.#known
    this.#known = new Map(rows.map((job) => [job.jobid, { ...job }]))
    for (const [id, timer] of this.#timers) {
      if (this.#known.get(id)?.schedule === before.get(id)?.schedule) continue
      clearTimeout(timer)
      this.#timers.delete(id)
    }
    for (const job of this.#known.values()) if (!this.#timers.has(job.jobid)) this.#plan(job)
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const timer of this.#timers.values()) clearTimeout(timer)
    await Promise.all([...this.#sessions].map((session) => session.end({ timeout: 0 })))
  }

  #plan(job: Job): void {
    const now = new Date()
    const next = nextRun(job.schedule, now)
    if (next === null) return
    // A timer holds at most 24.8 days; what is further away is planned anew then.
    const wait = Math.min(next.getTime() - now.getTime(), 2 ** 31 - 1)
    const due = wait === next.getTime() - now.getTime()
    const timer = setTimeout(() => {
      this.#timers.delete(job.jobid)
      const known = this.#known.get(job.jobid)
      if (known === undefined || this.#closed) return
      this.#plan(known)
      if (due) void this.#run(known)
    }, wait)
    this.#timers.set(job.jobid, timer)
  }

  async #run(job: Job): Promise<void> {
    // Like pg_cron: one run of a job at a time.
    if (this.#running.has(job.jobid)) return
    this.#running.add(job.jobid)
    // A session of its own and the simple protocol, so that a procedure can commit in the middle.
    const session = postgres(this.#url(job.username), {
      max: 1,
      onnotice: () => {},
      // Commands have no parameters: a job that is over at once must not leave a question about types behind.
      fetch_types: false,
      connection: { application_name: 'pg_cron' },
    })
    this.#sessions.add(session)
    try {
      const [run] = await this.#sql<{ runid: string }[]>`
        insert into cron.job_run_details (jobid, database, username, command, status, start_time)
        values (${job.jobid}, ${job.database}, ${job.username}, ${job.command}, 'running', clock_timestamp())
        returning runid::text`
      let status = 'succeeded'
      let message: string
      try {
        const result = await session.unsafe(job.command).simple()
        const last = Array.isArray(result[0]) || 'command' in result ? result : undefined
        const { command, count } = (last ?? { command: '', count: 0 }) as { command: string; count: number }
        message = command === 'SELECT' ? `${count} row${count === 1 ? '' : 's'}` : command
      } catch (error) {
        status = 'failed'
        message = `ERROR:  ${(error as Error).message}`
      }
      if (this.#closed) return
      await this.#sql`
        update cron.job_run_details set status = ${status}, return_message = ${message}, end_time = clock_timestamp()
        where runid = ${run?.runid ?? null}`
    } catch {
      // The database is going away.
    } finally {
      this.#running.delete(job.jobid)
      this.#sessions.delete(session)
      await session.end({ timeout: 1 }).catch(() => {})
    }
  }
}

/** When a schedule is due after `from`; null for one that no parser understands. */
function nextRun(schedule: string, from: Date): Date | null {
  const seconds = /^\s*(\d+)\s+seconds?\s*$/i.exec(schedule)?.[1]
  if (seconds !== undefined) return new Date(from.getTime() + Number(seconds) * 1000)
  try {
    // pg_cron says $ for the last day of a month and runs in GMT.
    return new Cron(schedule.replace('$', 'L'), { timezone: 'UTC' }).nextRun(from)
  } catch {
    return null
  }
}

class Sender {
  #sending: Promise<void> | undefined
  #again = false
  #sql: postgres.Sql
  #closing: AbortSignal

  constructor(sql: postgres.Sql, closing: AbortSignal) {
    this.#sql = sql
    this.#closing = closing
  }

  /** Sends everything that is queued; calls during a round lead to one more. */
  send(): Promise<void> {
    this.#again = true
    this.#sending ??= this.#rounds().finally(() => {
      this.#sending = undefined
    })
    return this.#sending
  }

  async sweep(): Promise<void> {
    await this.#sql`
      delete from net._http_response where created < now() - ${response_ttl}::interval`.catch(() => {})
    await this.send()
  }

  async #rounds(): Promise<void> {
    while (this.#again && !this.#closing.aborted) {
      this.#again = false
      const rows = await this.#sql<QueuedRequest[]>`
        delete from net.http_request_queue
        where id in (select id from net.http_request_queue order by id limit 200)
        returning id::text, method, url, headers, body, timeout_milliseconds`.catch(() => [])
      if (rows.length === 200) this.#again = true
      // Not awaited: a slow receiver must not hold up the next round.
      for (const row of rows) void this.#request(row)
    }
  }

  async #request(row: QueuedRequest): Promise<void> {
    const answer = await exchange(row, this.#closing)
    if (this.#closing.aborted) return
    await this.#sql`
      insert into net._http_response (id, status_code, content_type, headers, content, timed_out, error_msg)
      values (
        ${row.id}, ${answer.status_code}, ${answer.content_type}, ${this.#sql.json(answer.headers)}, ${answer.content},
        ${answer.timed_out}, ${answer.error_msg}
      )`.catch(() => {})
  }
}

async function exchange(row: QueuedRequest, closing: AbortSignal) {
  const none = { status_code: null, content_type: null, headers: null, content: null }
  const timeout = AbortSignal.timeout(row.timeout_milliseconds)
  try {
    const response = await fetch(row.url, {
      method: row.method,
      headers: { 'user-agent': 'pg_net', ...row.headers },
      body: row.body ? new Uint8Array(row.body) : null,
      signal: AbortSignal.any([timeout, closing]),
      redirect: 'manual',
    })
    return {
      status_code: response.status,
      content_type: response.headers.get('content-type'),
      headers: Object.fromEntries(response.headers),
      content: await response.text(),
      timed_out: false,
      error_msg: null,
    }
  } catch (error) {
    const reason =
      error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error)
    if (timeout.aborted) {
      return { ...none, timed_out: true, error_msg: `Timeout of ${row.timeout_milliseconds} ms reached` }
    }
    return { ...none, timed_out: false, error_msg: reason }
  }
}
