import { cronProblem, intervalMs, type Schedule } from './next_run.ts'
import { type Host, withSandbox } from './sandbox.ts'
import { ScriptFailure } from './script_failure.ts'

/** The largest script, in bytes. */
const MAX_CODE = 256 * 1024

/** What the top level of a script may take, in ms. */
const LOAD_MS = 1_000

/** So many issues are told; whoever has mended those learns of the others. */
const MAX_ISSUES = 50

const NAME = /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/

/** What the worker and the database need to know of a script. */
export interface ScriptConfig {
  topics: string[]
  producers: Record<string, { schedule: Schedule; publishes: string[] }>
  consumers: Record<
    string,
    { subscribe: string[]; publishes: string[]; has_mutate: boolean; has_next: boolean }
  >
}

export interface ScriptIssue {
  path: string
  message: string
}

/** The shape of a value in the sandbox. */
type Shape =
  | { type: 'function' }
  | { type: 'value'; value?: unknown }
  | { type: 'list'; items: Shape[] }
  | { type: 'object'; fields: [string, Shape][] }

/** Loads a script in the sandbox, calls none of its handlers, and reads what it declares. `issues` is empty where it will do. */
export async function validateScript(code: string): Promise<{ config: ScriptConfig; issues: ScriptIssue[] }> {
  const reading = new Reading()
  if (new TextEncoder().encode(code).length > MAX_CODE) {
    reading.add('code', 'has at most 256 KB.')
    return reading
  }
  let shape: Shape
  try {
    const options = { code, started_at: new Date().toISOString(), cpu_ms: LOAD_MS, host: nothing }
    shape = JSON.parse(await withSandbox(options, async (sandbox) => sandbox.describe())) as Shape
  } catch (error) {
    if (!(error instanceof ScriptFailure)) throw error
    reading.add('code', error.message)
    return reading
  }
  reading.read(shape)
  return reading
}

/** Nothing is called, and nobody reads what is logged. */
const nothing: Host = {
  call: (tool) => Promise.reject(new ScriptFailure('logic', `${tool} can only be used within a handler.`)),
  log: () => {},
}

class Reading {
  readonly config: ScriptConfig = { topics: [], producers: {}, consumers: {} }
  readonly issues: ScriptIssue[] = []

  add(path: string, message: string): void {
    if (this.issues.length < MAX_ISSUES) this.issues.push({ path, message })
  }

  read(shape: Shape): void {
    const workflow = this.#fields(shape, 'workflow', ['topics', 'producers', 'consumers'])
    this.config.topics = this.#names(workflow.topics, 'topics')
    for (const [name, producer] of this.#handlers(workflow.producers, 'producers'))
      this.#producer(name, producer)
    for (const [name, consumer] of this.#handlers(workflow.consumers, 'consumers'))
      this.#consumer(name, consumer)
    const handlers = Object.keys(this.config.producers).length + Object.keys(this.config.consumers).length
    if (handlers === 0 && this.issues.length === 0) this.add('producers', 'A workflow needs a producer.')
    this.#checkTopics()
  }

  #producer(name: string, shape: Shape): void {
    const path = `producers.${name}`
    const fields = this.#fields(shape, path, ['schedule', 'publishes', 'handler'])
    this.#handler(fields.handler, `${path}.handler`)
    const schedule = this.#schedule(fields.schedule, `${path}.schedule`)
    const publishes = this.#names(fields.publishes, `${path}.publishes`)
    if (schedule !== null) this.config.producers[name] = { schedule, publishes }
  }

  #consumer(name: string, shape: Shape): void {
    const path = `consumers.${name}`
    const { subscribe, publishes, prepare, mutate, next } = this.#fields(shape, path, [
      'subscribe',
      'publishes',
      'prepare',
      'mutate',
      'next',
    ])
    this.#handler(prepare, `${path}.prepare`)
    if (mutate !== undefined) this.#handler(mutate, `${path}.mutate`)
    if (next !== undefined) this.#handler(next, `${path}.next`)
    const topics = this.#names(subscribe, `${path}.subscribe`)
    if (topics.length === 0) this.add(`${path}.subscribe`, 'A consumer subscribes to a topic.')
    this.config.consumers[name] = {
      subscribe: topics,
      publishes: this.#names(publishes, `${path}.publishes`),
      has_mutate: mutate?.type === 'function',
      has_next: next?.type === 'function',
    }
  }

  #schedule(shape: Shape | undefined, path: string): Schedule | null {
    const { interval, cron } = this.#fields(shape, path, ['interval', 'cron'])
    if ((interval === undefined) === (cron === undefined)) {
      this.add(path, 'A schedule is { interval: "5m" } or { cron: "0 9 * * *" }, one of the two.')
      return null
    }
    const given = interval ?? cron
    const text = given?.type === 'value' && typeof given.value === 'string' ? given.value : ''
    if (interval !== undefined) {
      if (intervalMs(text) !== null) return { interval: text }
      this.add(`${path}.interval`, 'An interval is a number and s, m, h or d, such as 5m; at most 366d.')
      return null
    }
    const problem = cronProblem(text)
    if (problem === null) return { cron: text }
    this.add(`${path}.cron`, `The cron ${problem}`)
    return null
  }

  #checkTopics(): void {
    const { topics, producers, consumers } = this.config
    const check = (path: string, named: string[]) => {
      for (const topic of named) {
        if (!topics.includes(topic)) this.add(path, `The topic ${topic} is not declared in topics.`)
      }
    }
    for (const [name, { publishes }] of Object.entries(producers))
      check(`producers.${name}.publishes`, publishes)
    for (const [name, { publishes, subscribe }] of Object.entries(consumers)) {
      check(`consumers.${name}.publishes`, publishes)
      check(`consumers.${name}.subscribe`, subscribe)
    }
    for (const topic of topics) {
      const readers = Object.entries(consumers).filter(([, { subscribe }]) => subscribe.includes(topic))
      if (readers.length === 1) continue
      const who = readers.length === 0 ? 'no consumer' : readers.map(([name]) => name).join(' and ')
      this.add('topics', `The topic ${topic} is consumed by ${who}: each has exactly one consumer.`)
    }
  }

  #handler(shape: Shape | undefined, path: string): void {
    if (shape?.type !== 'function') this.add(path, 'This must be a function.')
  }

  #handlers(shape: Shape | undefined, path: string): [string, Shape][] {
    if (shape === undefined) return []
    if (shape.type !== 'object') {
      this.add(path, 'This must be an object, by name.')
      return []
    }
    return shape.fields.filter(([name]) => this.#isName(name, path))
  }

  #names(shape: Shape | undefined, path: string): string[] {
    if (shape === undefined) return []
    const names =
      shape.type === 'list' ? shape.items.map((item) => (item.type === 'value' ? item.value : null)) : [null]
    if (!names.every((name) => typeof name === 'string')) {
      this.add(path, 'This must be a list of names.')
      return []
    }
    if (new Set(names).size < names.length) this.add(path, 'A name stands here twice.')
    return [...new Set(names)].filter((name) => this.#isName(name, path))
  }

  #isName(name: string, path: string): boolean {
    if (NAME.test(name) && !name.startsWith('__')) return true
    const shown = name.length > 40 ? `${name.slice(0, 40)}...` : name
    this.add(path, `"${shown}" is no name: a letter, then letters, digits, _ . or -, at most 64.`)
    return false
  }

  #fields<Key extends string>(
    shape: Shape | undefined,
    path: string,
    known: Key[],
  ): Partial<Record<Key, Shape>> {
    if (shape?.type !== 'object') {
      this.add(path, 'This must be an object.')
      return {}
    }
    const found: Partial<Record<string, Shape>> = {}
    for (const [key, value] of shape.fields) {
      if (!(known as string[]).includes(key)) {
        this.add(`${path}.${key}`.slice(0, 200), `There is no such setting: ${known.join(', ')}.`)
      } else if (!(value.type === 'value' && value.value === undefined)) {
        found[key] = value
      }
    }
    return found as Partial<Record<Key, Shape>>
  }
}
