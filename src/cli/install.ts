import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { configWith } from './install_config.ts'

/** Where the functions and what they import live in a user's project, below supabase/. */
const HOME = 'rollcall'
const MANIFEST = `${HOME}/installed.json`

/** What a project can not take as it is. Nothing was written. */
export class InstallError extends Error {
  override name = 'InstallError'
}

export interface Installed {
  /** The version of this package. */
  version: string
  /** Below supabase/, with forward slashes. */
  added: string[]
  changed: string[]
  removed: string[]
  /** Some migration of the project is later than one that was added: the push needs --include-all. */
  out_of_order: boolean
}

/** Paths below supabase/ and their hashes (sha256, hex), as the last install wrote them. */
interface Manifest {
  version: string
  files: Record<string, string>
}

/**
 * Puts the migrations, the functions and their config blocks into the Supabase project around `cwd`. Doing it again changes
 * nothing; with a newer package it adds what is new. A migration keeps its name and its text for ever: the project may
 * have pushed it. Everything is checked before the first file is written.
 * @throws InstallError with the cure, where files of the project are in the way.
 */
export function install(package_dir: string, cwd: string): Installed {
  const supabase_dir = findProject(cwd)
  const { version } = JSON.parse(readFileSync(join(package_dir, 'package.json'), 'utf8')) as Manifest
  const before = readManifest(supabase_dir)
  const migrations = shippedMigrations(package_dir)
  const code = shippedCode(package_dir)
  checkMigrations(supabase_dir, migrations)
  checkCode(supabase_dir, code, before)
  const config_file = join(supabase_dir, 'config.toml')
  const config = readFileSync(config_file, 'utf8')
  const functions = readdirSync(join(package_dir, 'functions')).filter((name) =>
    existsSync(join(package_dir, 'functions', name, 'index.ts')),
  )
  const new_config = configWith(config, functions, `./${HOME}/functions`)
  if ('problem' in new_config) throw new InstallError(new_config.problem)

  const out_of_order = addedBehind(supabase_dir, migrations)
  const report: Installed = { version, added: [], changed: [], removed: [], out_of_order }
  for (const [path, text] of [...migrations, ...code]) {
    const there = readText(join(supabase_dir, path))
    if (there === text) continue
    report[there === null ? 'added' : 'changed'].push(path)
    writeWhole(join(supabase_dir, path), text)
  }
  for (const path of Object.keys(before?.files ?? {})) {
    if (code.has(path) || !existsSync(join(supabase_dir, path))) continue
    rmSync(join(supabase_dir, path))
    removeEmpty(dirname(join(supabase_dir, path)))
    report.removed.push(path)
  }
  if (new_config.text !== config) {
    report.changed.push('config.toml')
    writeWhole(config_file, new_config.text)
  }
  const manifest: Manifest = {
    version,
    files: Object.fromEntries([...code].map(([path, text]) => [path, hash(text)])),
  }
  // Last: what is not written yet is not taken for the user's own change by the next attempt.
  writeWhole(join(supabase_dir, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`)
  return report
}

/** supabase/ of the project around a folder. */
function findProject(cwd: string): string {
  for (let dir = cwd; ; dir = dirname(dir)) {
    if (existsSync(join(dir, 'supabase', 'config.toml'))) return join(dir, 'supabase')
    if (dirname(dir) === dir) break
  }
  throw new InstallError(
    `There is no supabase/config.toml in ${cwd} or above: run "npx supabase init" in your project first.`,
  )
}

function shippedMigrations(package_dir: string): Map<string, string> {
  const dir = join(package_dir, 'supabase', 'migrations')
  return new Map(
    readdirSync(dir)
      .filter((name) => name.endsWith('.sql'))
      .sort()
      .map((name) => [`migrations/${name}`, readText(join(dir, name)) ?? '']),
  )
}

/** The functions with all that they import, and the scripts of the optional steps, as they lie below supabase/. */
function shippedCode(package_dir: string): Map<string, string> {
  const files = new Map<string, string>()
  for (const [from, to] of [
    ['functions', `${HOME}/functions`],
    ['src/contract', `${HOME}/src/contract`],
    ['src/worker', `${HOME}/src/worker`],
    ['supabase/optional', `${HOME}/optional`],
  ] as const) {
    for (const entry of readdirSync(join(package_dir, from), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue
      const file = join(entry.parentPath, entry.name)
      const path = file.slice(join(package_dir, from).length + 1).replaceAll('\\', '/')
      files.set(`${to}/${path}`, readText(file) ?? '')
    }
  }
  return files
}

/** A migration that the project has is left alone; another one in its place is refused. */
function checkMigrations(supabase_dir: string, migrations: Map<string, string>): void {
  const theirs = new Map(migrationNames(supabase_dir).map((name) => [versionOf(name), name]))
  for (const [path, text] of migrations) {
    const name = path.slice('migrations/'.length)
    const same_version = theirs.get(versionOf(name))
    if (same_version === undefined) continue
    if (same_version !== name) {
      throw new InstallError(
        `supabase/migrations/${same_version} has the version of ${name}: rename yours to a later time, if it was not pushed yet.`,
      )
    }
    if (readText(join(supabase_dir, path)) !== text) {
      throw new InstallError(
        `supabase/${path} is not what this package ships: put its text back, and make your change a migration of its own.`,
      )
    }
  }
}

/** Files that the user has changed are not written over. */
function checkCode(supabase_dir: string, code: Map<string, string>, before: Manifest | null): void {
  for (const path of new Set([...code.keys(), ...Object.keys(before?.files ?? {})])) {
    const there = readText(join(supabase_dir, path))
    if (there === null || there === code.get(path) || hash(there) === before?.files[path]) continue
    throw new InstallError(
      `supabase/${path} was changed by hand: move your change elsewhere and delete the file, then install again.`,
    )
  }
}

function addedBehind(supabase_dir: string, migrations: Map<string, string>): boolean {
  const theirs = migrationNames(supabase_dir)
  const latest = theirs.filter((name) => !migrations.has(`migrations/${name}`)).at(-1)
  if (latest === undefined) return false
  return [...migrations.keys()]
    .map((path) => path.slice('migrations/'.length))
    .some((name) => !theirs.includes(name) && versionOf(name) < versionOf(latest))
}

function migrationNames(supabase_dir: string): string[] {
  const dir = join(supabase_dir, 'migrations')
  return existsSync(dir)
    ? readdirSync(dir)
        .filter((name) => /^\d+_.*\.sql$/.test(name))
        .sort()
    : []
}

function versionOf(name: string): string {
  return /^\d+/.exec(name)?.[0] ?? ''
}

function readManifest(supabase_dir: string): Manifest | null {
  const text = readText(join(supabase_dir, MANIFEST))
  if (text === null) return null
  try {
    return JSON.parse(text) as Manifest
  } catch {
    throw new InstallError(`supabase/${MANIFEST} is not JSON any more: delete it, then install again.`)
  }
}

/** Some checkouts have the line ends of Windows: they are no change. */
function readText(file: string): string | null {
  return existsSync(file) ? readFileSync(file, 'utf8').replaceAll('\r\n', '\n') : null
}

/** A file is there as a whole or not at all, whenever this process ends. */
function writeWhole(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true })
  const part = `${file}.part`
  writeFileSync(part, text)
  renameSync(part, file)
}

function removeEmpty(dir: string): void {
  if (readdirSync(dir).length > 0) return
  rmdirSync(dir)
  removeEmpty(dirname(dir))
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
