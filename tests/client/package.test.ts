import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core'
import { build } from 'vite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const run = promisify(execFile)
const root = join(import.meta.dirname, '../..')
const bin = join(root, 'node_modules/.bin')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** A project of somebody else, with the package as npm packs it and nothing of this repository. */
let project: string
let files: string[]
let tarball: string

describe('the npm package', () => {
  beforeAll(async () => {
    project = mkdtempSync(join(tmpdir(), 'rollcall-package-'))
    const source = join(project, 'source')
    mkdirSync(source)
    for (const name of ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md']) {
      cpSync(join(root, name), join(source, name), { recursive: true, errorOnExist: false })
    }
    await run(join(bin, 'tsc'), ['-p', join(root, 'tsconfig.client.json'), '--outDir', join(source, 'dist')])
    const { stdout } = await run(
      'npm',
      ['pack', '--json', '--ignore-scripts', '--pack-destination', project],
      {
        cwd: source,
      },
    )
    const [packed] = JSON.parse(stdout)
    tarball = join(project, packed.filename)
    files = packed.files.map(({ path }: { path: string }) => path)
    const modules = join(project, 'node_modules')
    mkdirSync(join(modules, 'rollcall'), { recursive: true })
    await run('tar', ['-xzf', tarball, '--strip-components=1', '-C', join(modules, 'rollcall')])
    for (const name of ['@supabase', '@types', 'zod'])
      symlinkSync(join(root, 'node_modules', name), join(modules, name))
    writeFileSync(join(project, 'package.json'), '{ "type": "module" }')
    writeFileSync(
      join(project, 'main.js'),
      `import { createClient } from '@supabase/supabase-js'
       import { createRollcall, RollcallError } from 'rollcall'
       const rollcall = createRollcall(createClient('http://127.0.0.1:9', 'sb_publishable_x'))
       const error = await rollcall.bots.get('00000000-0000-4000-8000-000000000000').catch((reason) => reason)
       console.log(error instanceof RollcallError, error.code)`,
    )
  })

  afterAll(() => {
    if (project) rmSync(project, { recursive: true, force: true })
  })

  test('holds the library with its types, and nothing else', () => {
    expect(files).toContain('dist/index.js')
    expect(files).toContain('dist/index.d.ts')
    const strange = files.filter(
      (path) =>
        !/^(package\.json|README\.md|LICENSE|CHANGELOG\.md|dist\/(index|client\/\w+)\.(js|d\.ts)|dist\/.*\.d\.ts)$/.test(
          path,
        ),
    )
    expect(strange).toEqual([])
    expect(manifest.sideEffects).toBe(false)
  })

  test('runs in Node and in Deno', async () => {
    const node = await run(process.execPath, ['main.js'], { cwd: project })
    expect(node.stdout.trim()).toBe('true unreachable')
    const deno = await run(
      join(bin, 'deno'),
      ['run', '--node-modules-dir=manual', '--cached-only', '--no-lock', '-A', 'main.js'],
      { cwd: project },
    )
    expect(deno.stdout.trim()).toBe('true unreachable')
  })

  test('is typed for every resolution', async () => {
    writeFileSync(
      join(project, 'typed.ts'),
      `import { createClient } from '@supabase/supabase-js'
       import { type BotStatus, createRollcall } from 'rollcall'
       const rollcall = createRollcall(createClient('http://127.0.0.1:9', 'x'))
       for await (const change of rollcall.bots.watch('x')) {
         if (change.machine === 'bot') { const to: BotStatus = change.to; console.log(to) }
         // @ts-expect-error: a bot has no such status
         if (change.machine === 'bot' && change.to === 'active') console.log('never')
       }
       await rollcall.bots.wait('x', 'active', { machine: 'meeting', timeout_ms: 1 })
       // @ts-expect-error: nor can one wait for it
       await rollcall.bots.wait('x', 'active')`,
    )
    const options = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2022,dom', '--types', 'node']
    for (const resolution of [
      // Once with a look into all declarations.
      ['--module', 'nodenext', '--skipLibCheck', 'false'],
      ['--module', 'esnext', '--moduleResolution', 'bundler', '--skipLibCheck'],
    ]) {
      await run(join(bin, 'tsc'), [...options, ...resolution, 'typed.ts'], { cwd: project }).catch(
        (error) => {
          throw new Error(error.stdout)
        },
      )
    }
  }, 90_000)

  test('has types that the types linter finds nothing wrong with', async () => {
    const analysis = await checkPackage(createPackageFromTarballData(readFileSync(tarball)))
    if (analysis.types === false) throw new Error('The package has no types.')
    // Modules only, as the package says: require() and resolution before exports are out of its range.
    const problems = analysis.problems.filter(
      (problem) =>
        !('resolutionKind' in problem && ['node10', 'node16-cjs'].includes(problem.resolutionKind)),
    )
    expect(problems).toEqual([])
  }, 60_000)

  test('is small in a browser bundle', async () => {
    writeFileSync(join(project, 'entry.js'), `export { createRollcall } from 'rollcall'`)
    const result = await build({
      root: project,
      logLevel: 'silent',
      build: {
        write: false,
        lib: { entry: 'entry.js', formats: ['es'] },
        minify: true,
        rollupOptions: { external: [/^@supabase\//] },
      },
    })
    const outputs = Array.isArray(result) ? result : [result]
    const code = outputs
      .flatMap((output) => ('output' in output ? output.output : []))
      .map((chunk) => (chunk.type === 'chunk' ? chunk.code : ''))
      .join('')
    const size = gzipSync(code).length
    console.log(`rollcall in a browser: ${code.length} bytes, ${size} gzipped, without @supabase/supabase-js`)
    expect(code).not.toMatch(/from\s*["'](node:|zod)/)
    expect(size).toBeLessThan(10_000)
  })
})
