import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { parse } from 'smol-toml'
import { CommandError, exit } from './exit_codes.ts'

/** How to reach a project. Never printed. */
export interface Config {
  url: string
  key: string
  /** Of a signed-in user; without it the key alone. */
  token: string | null
  owner_id: string | undefined
  /** Where the URL came from, for `doctor`. */
  from: string
}

export interface ConfigFlags {
  url?: string | undefined
  key?: string | undefined
  token?: string | undefined
  owner?: string | undefined
}

type Found = {
  url?: string | undefined
  key?: string | undefined
  token?: string | undefined
  owner_id?: string | undefined
  from: string
}

/**
 * Flags, then the environment, then ~/.config/rollcall/config.json, then the project around `cwd` (supabase/config.toml
 * with its local stack). A key belongs to its URL: it is never sent to one of another place. For a page, keys that may be
 * shown go first.
 * @throws CommandError with the cure.
 */
export function findConfig(
  flags: ConfigFlags,
  env: NodeJS.ProcessEnv,
  cwd: string,
  { for_page = false } = {},
): Config {
  const places: Found[] = [
    { url: flags.url, key: flags.key, token: flags.token, owner_id: flags.owner, from: 'the flags' },
    fromEnvironment(env, for_page),
  ]
  if (!places.some(({ url }) => url)) places.push(fromFile(env), fromProject(cwd, env, for_page))
  const at = places.findIndex(({ url }) => url)
  const place = places[at]
  if (!place?.url) {
    throw new CommandError(
      exit.usage,
      'no_project',
      'No project is named.',
      'Set SUPABASE_URL and SUPABASE_KEY, or start the local stack and call this inside its directory.',
    )
  }
  // What stands before the place of the URL was meant for it; what stands behind it belongs to another URL.
  const usable = [
    ...places.slice(0, at + 1),
    ...(at === 0 ? places.slice(1, 2).filter(({ url }) => !url) : []),
  ]
  const pick = (part: 'key' | 'token' | 'owner_id') => usable.find((found) => found[part])?.[part]
  const key = pick('key')
  const token = pick('token') ?? null
  if (!key) {
    throw new CommandError(
      exit.usage,
      'no_key',
      `${place.url} is known from ${place.from}, and no key for it.`,
      'Set SUPABASE_KEY: a publishable key with a token (ROLLCALL_TOKEN), or a secret key.',
    )
  }
  return { url: checkedUrl(place.url, place.from), key, token, owner_id: pick('owner_id'), from: place.from }
}

/** Whether a key reads everything: a page must not have it. */
export function isSecret(key: string): boolean {
  if (key.startsWith('sb_secret_')) return true
  try {
    const claims = JSON.parse(Buffer.from(key.split('.')[1] ?? '', 'base64url').toString())
    return claims.role === 'service_role'
  } catch {
    return false
  }
}

function fromEnvironment(env: NodeJS.ProcessEnv, for_page: boolean): Found {
  const shown = env.SUPABASE_PUBLISHABLE_KEY || env.SUPABASE_ANON_KEY
  const hidden = env.SUPABASE_SECRET_KEY || env.SUPABASE_SERVICE_ROLE_KEY
  return {
    url: env.SUPABASE_URL,
    key: for_page ? shown || env.SUPABASE_KEY || hidden : env.SUPABASE_KEY || hidden || shown,
    token: env.ROLLCALL_TOKEN,
    owner_id: env.ROLLCALL_OWNER_ID,
    from: 'the environment',
  }
}

function fromFile(env: NodeJS.ProcessEnv): Found {
  const file = join(env.XDG_CONFIG_HOME || join(homedir(), '.config'), 'rollcall', 'config.json')
  if (!existsSync(file)) return { from: file }
  try {
    const { url, key, token, owner_id } = JSON.parse(readFileSync(file, 'utf8')) as Found
    return { url, key, token, owner_id, from: file }
  } catch {
    throw new CommandError(
      exit.usage,
      'bad_config',
      `${file} is no JSON.`,
      'Write { "url": ..., "key": ... } into it.',
    )
  }
}

/** The local stack of the project around a directory. */
function fromProject(cwd: string, env: NodeJS.ProcessEnv, for_page: boolean): Found {
  const dir = projectAround(cwd)
  const from = 'supabase/config.toml'
  if (dir === null) return { from }
  const stack = readStack(join(dir, env.ROLLCALL_DIR || '.rollcall'))
  if (stack) {
    const key = for_page ? stack.publishable_key : stack.secret_key
    return { url: stack.api_url, key, from: `${from} and its local stack` }
  }
  const config = parse(readFileSync(join(dir, 'supabase', 'config.toml'), 'utf8')) as {
    api?: { port?: number }
  }
  return { url: `http://127.0.0.1:${config.api?.port ?? 54321}`, from }
}

function readStack(dir: string): { api_url: string; publishable_key: string; secret_key: string } | null {
  try {
    return JSON.parse(readFileSync(join(dir, 'stack.json'), 'utf8'))
  } catch {
    return null
  }
}

/** The nearest directory upwards that has a supabase/config.toml. */
function projectAround(cwd: string): string | null {
  for (let dir = cwd; ; dir = dirname(dir)) {
    if (existsSync(join(dir, 'supabase', 'config.toml'))) return dir
    if (dirname(dir) === dir) return null
  }
}

function checkedUrl(url: string, from: string): string {
  try {
    const { protocol, href } = new URL(url)
    if (protocol === 'https:' || protocol === 'http:') return href.replace(/\/+$/, '')
  } catch {
    // Said below.
  }
  throw new CommandError(
    exit.usage,
    'bad_url',
    `"${url}" (from ${from}) is no URL of a project.`,
    'It looks like https://<ref>.supabase.co.',
  )
}
