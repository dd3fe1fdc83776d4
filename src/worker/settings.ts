import { z } from 'zod'

/** Reads one variable; undefined if it is unset. */
export type ReadEnv = (name: string) => string | undefined

/** How machines are made: the API and what runs on it. */
export interface MachineSettings {
  /** Where the Machines API is, such as https://api.machines.dev. */
  api_url: string
  token: string
  app: string
  image: string
  cpus: number
  memory_mb: number
}

/** The agent that reads transcripts: any OpenAI-compatible chat API. */
export interface AgentSettings {
  /** Its base, such as http://localhost:8080/v1. */
  url: string
  key: string | null
  model: string
}

export interface WorkerSettings {
  /** Null: no machine can be made here, and why. */
  machines: MachineSettings | { missing: string[] }
  /** Null: transcripts are read by rules. */
  agent: AgentSettings | null
  /** Where bots report, known to the world. */
  callback_url: string
  /** Webhooks may go to private hosts and over plain http: local development only. */
  webhooks_allow_private: boolean
}

const Count = z.coerce.number().int().positive()

/** The worker's settings from an environment. Throws in one line if a variable has no meaning. */
export function workerSettings(read: ReadEnv): WorkerSettings {
  const url = read('SUPABASE_URL')
  if (!url) throw new Error('SUPABASE_URL is not set: it is the address of the project.')
  return {
    machines: machineSettings(read),
    agent: agentSettings(read),
    callback_url: `${url.replace(/\/+$/, '')}/functions/v1/callback`,
    webhooks_allow_private: read('WEBHOOKS_ALLOW_PRIVATE') === '1',
  }
}

function machineSettings(read: ReadEnv): WorkerSettings['machines'] {
  const names = ['FLY_API_TOKEN', 'FLY_APP_NAME', 'BOT_IMAGE'] as const
  const [token, app, image] = names.map((name) => read(name) ?? '')
  if (!token || !app || !image) return { missing: names.filter((name) => !read(name)) }
  return {
    api_url: (read('FLY_API_HOSTNAME') || 'https://api.machines.dev').replace(/\/+$/, ''),
    token,
    app,
    image,
    cpus: count(read, 'BOT_CPUS', 1),
    memory_mb: count(read, 'BOT_MEMORY_MB', 1024),
  }
}

function agentSettings(read: ReadEnv): AgentSettings | null {
  const url = read('AGENT_API_URL')
  if (!url) return null
  return {
    url: url.replace(/\/+$/, ''),
    key: read('AGENT_API_KEY') || null,
    model: read('AGENT_MODEL') || 'default',
  }
}

function count(read: ReadEnv, name: string, otherwise: number): number {
  const text = read(name)
  if (!text) return otherwise
  const parsed = Count.safeParse(text)
  if (!parsed.success) throw new Error(`${name} must be a whole number above 0, not "${text}".`)
  return parsed.data
}
