import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { InstallError, install } from '../../src/cli/install.ts'
import { project_dir } from '../../src/local/project.ts'
import { createTestDatabase } from '../support/database.ts'
import { startManagementApi } from '../support/management_api.ts'
import { locked_cli } from '../support/supabase_cli.ts'

const functions = readdirSync(join(project_dir, 'functions')).filter((name) =>
  existsSync(join(project_dir, 'functions', name, 'index.ts')),
)

let dir: string
const at = (...path: string[]) => join(dir, 'supabase', ...path)

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rollcall-install-'))
  const made = await locked_cli.run(['init'], dir)
  expect(made.code, made.output).toBe(0)
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

/** Every file below supabase/ with its text. */
function contents(): Record<string, string> {
  const files = readdirSync(at(), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  return Object.fromEntries(
    files.map((entry) => {
      const file = join(entry.parentPath, entry.name)
      return [file, readFileSync(file, 'utf8')]
    }),
  )
}

/** A package of a later version: this one with changes. */
function laterPackage(change: (package_dir: string) => void): string {
  const package_dir = join(dir, 'package')
  for (const part of [
    'functions',
    'src/contract',
    'src/worker',
    'supabase/migrations',
    'supabase/optional',
  ]) {
    cpSync(join(project_dir, part), join(package_dir, part), { recursive: true })
  }
  writeFileSync(join(package_dir, 'package.json'), JSON.stringify({ version: '99.0.0' }))
  change(package_dir)
  return package_dir
}

describe('rollcall install', () => {
  test('a fresh project gets everything: the real CLI pushes and deploys it without a warning', async () => {
    const report = install(project_dir, dir)
    expect(report.added).toContain('rollcall/functions/join/index.ts')
    const database = await createTestDatabase({ migrated: false })
    try {
      const pushed = await locked_cli.run(['db', 'push', '--db-url', database.url, '--yes'], dir)
      expect(pushed.code, pushed.output).toBe(0)
      const [first] = report.added
      expect(pushed.output).toContain(first?.slice('migrations/'.length))
    } finally {
      await database.drop()
    }
    const api = await startManagementApi()
    try {
      writeFileSync(join(dir, 'profile.yaml'), api.profile)
      const deploy = ['functions', 'deploy', '--use-api', '--profile', join(dir, 'profile.yaml')]
      const said = await locked_cli.run([...deploy, '--project-ref', 'abcdefghijklmnopqrst'], dir, {
        SUPABASE_ACCESS_TOKEN: `sbp_${'0'.repeat(40)}`,
      })
      expect(said.output.split('\n').filter((line) => /\bWARN/.test(line))).toEqual([])
      expect(said.code, said.output).toBe(0)
      expect([...api.deployed.keys()].sort()).toEqual(functions.toSorted())
      expect(api.deployed.get('work')?.metadata).toMatchObject({ verify_jwt: false })
      expect([...(api.deployed.get('work')?.files.keys() ?? [])]).toContain(
        'supabase/rollcall/src/worker/lanes.ts',
      )
    } finally {
      await api.close()
    }
  })

  test('a second install changes nothing, from a folder within the project too', () => {
    install(project_dir, dir)
    const before = contents()
    mkdirSync(join(dir, 'web', 'app'), { recursive: true })
    const report = install(project_dir, join(dir, 'web', 'app'))
    expect(report).toMatchObject({ added: [], changed: [], removed: [] })
    expect(contents()).toEqual(before)
  })

  test('a later version adds and replaces what is new, and takes away what is gone', () => {
    install(project_dir, dir)
    appendFileSync(at('config.toml'), '\n[functions.mine]\nverify_jwt = true\n')
    const package_dir = laterPackage((path) => {
      writeFileSync(join(path, 'supabase/migrations/20270101000000_more.sql'), 'select 1;\n')
      appendFileSync(join(path, 'functions/join/index.ts'), '// more\n')
      rmSync(join(path, 'functions/stop'), { recursive: true })
    })
    const report = install(package_dir, dir)
    expect(report).toEqual({
      version: '99.0.0',
      added: ['migrations/20270101000000_more.sql'],
      changed: ['rollcall/functions/join/index.ts', 'config.toml'],
      removed: ['rollcall/functions/stop/index.ts'],
      out_of_order: false,
    })
    expect(existsSync(at('rollcall/functions/stop'))).toBe(false)
    const config = readFileSync(at('config.toml'), 'utf8')
    expect(config).toContain('[functions.mine]')
    expect(config).not.toContain('[functions.stop]')
    expect(config.match(/\[functions\.join\]/g)).toHaveLength(1)
  })

  test('migrations that come behind those of the project are announced', () => {
    mkdirSync(at('migrations'), { recursive: true })
    writeFileSync(at('migrations/20990101000000_mine.sql'), 'select 1;\n')
    expect(install(project_dir, dir).out_of_order).toBe(true)
  })

  const in_the_way: [string, () => void, RegExp][] = [
    [
      'a migration of the same version',
      () => {
        mkdirSync(at('migrations'), { recursive: true })
        writeFileSync(at('migrations/20261121000300_mine.sql'), 'select 1;\n')
      },
      /20261121000300_mine\.sql has the version of 20261121000300_machines\.sql/,
    ],
    [
      'a shipped migration that was edited',
      () => {
        install(project_dir, dir)
        appendFileSync(at('migrations/20261121000300_machines.sql'), '-- mine\n')
      },
      /20261121000300_machines\.sql is not what this package ships/,
    ],
    [
      'a function that was edited',
      () => {
        install(project_dir, dir)
        appendFileSync(at('rollcall/functions/join/index.ts'), '// mine\n')
      },
      /functions\/join\/index\.ts was changed by hand/,
    ],
    [
      'a function of the same name',
      () => appendFileSync(at('config.toml'), '\n[functions.status]\nverify_jwt = true\n'),
      /\[functions\.status\] already/,
    ],
    [
      'a config that is not TOML',
      () => appendFileSync(at('config.toml'), '\n[functions\n'),
      /config\.toml is not TOML/,
    ],
    [
      'a block without its end',
      () => appendFileSync(at('config.toml'), '\n# >>> rollcall (written by "rollcall install")\n'),
      /without "# <<< rollcall"/,
    ],
  ]
  test.each(in_the_way)('%s is refused, and nothing is written', (_what, prepare, complaint) => {
    prepare()
    const before = contents()
    const later = laterPackage((path) => {
      writeFileSync(join(path, 'supabase/migrations/20270101000000_more.sql'), 'select 1;\n')
    })
    expect(() => install(later, dir)).toThrow(complaint)
    expect(contents()).toEqual(before)
  })

  test('the line ends of a Windows checkout are no change', () => {
    install(project_dir, dir)
    for (const path of ['migrations/20261121000300_machines.sql', 'rollcall/functions/join/index.ts']) {
      writeFileSync(at(path), readFileSync(at(path), 'utf8').replaceAll('\n', '\r\n'))
    }
    expect(install(project_dir, dir)).toMatchObject({ added: [], changed: [] })
  })

  test('a folder without a project is told to make one', () => {
    rmSync(at(), { recursive: true })
    expect(() => install(project_dir, dir)).toThrow(InstallError)
    expect(() => install(project_dir, dir)).toThrow(/supabase init/)
  })
})
