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

/** The agent that reads transcripts and answers prompts: any OpenAI-compatible chat API. */
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
  /** Who answers the prompts of flows; `built_in` on the local stack where no agent is configured. */
  prompt_agent: AgentSettings | 'built_in'
  /** Where bots report, known to the world. */
  callback_url: string
  /** Webhooks may go to private hosts and over plain http: local development only. */
  webhooks_allow_private: boolean
  /** Scripts may call private hosts, and over plain http: local development only. */
  scripts_allow_private: boolean
}

const Count = z.coerce.number().int().positive()

/** The worker's settings from an environment. Throws in one line if a variable has no meaning. */
export function workerSettings(read: ReadEnv): WorkerSettings {
  const url = read('SUPABASE_URL')
  if (!url) throw new Error('SUPABASE_URL is not set: it is the address of the project.')
  const agent = agentSettings(read)
  return {
    machines: machineSettings(read),
    agent,
    prompt_agent: agent ?? (read('AGENT_BUILT_IN') === '1' ? 'built_in' : agentAt(read, localAgent(8080))),
    callback_url: `${url.replace(/\/+$/, '')}/functions/v1/callback`,
    webhooks_allow_private: read('WEBHOOKS_ALLOW_PRIVATE') === '1',
    scripts_allow_private: read('SCRIPTS_ALLOW_PRIVATE') === '1',
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

/** The agent that the environment names, by its URL or by its port on this machine; null for none. */
function agentSettings(read: ReadEnv): AgentSettings | null {
  const url = read('AGENT_API_URL')
  if (url) return agentAt(read, url)
  return read('AGENT_API_PORT') ? agentAt(read, localAgent(count(read, 'AGENT_API_PORT', 8080))) : null
}

function localAgent(port: number): string {
  return `http://localhost:${port}/v1`
}

function agentAt(read: ReadEnv, url: string): AgentSettings {
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
