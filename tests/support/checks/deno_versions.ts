import type { Check } from './check.ts'
import { readProjectFile } from './project_files.ts'

/** An entry of functions/deno.json: npm:<name>@<version>[/<path>]. */
const specifier = /^npm:((?:@[^/]+\/)?[^@/]+)@([^/]+)/

export const deno_versions: Check = {
  name: 'functions/deno.json names the versions of package.json',
  async run() {
    const { imports } = JSON.parse(readProjectFile('functions/deno.json')) as {
      imports: Record<string, string>
    }
    // Most are devDependencies: what functions import is no part of the npm package.
    const { dependencies, devDependencies } = JSON.parse(readProjectFile('package.json')) as Record<
      'dependencies' | 'devDependencies',
      Record<string, string>
    >
    const versions = { ...devDependencies, ...dependencies }
    return Object.values(imports).flatMap((target) => {
      const [, name, version] = specifier.exec(target) ?? []
      if (name === undefined) return [`functions/deno.json: ${target} is no npm package with a version.`]
      const expected = versions[name]
      if (expected === undefined) return [`${name} is no dependency of package.json.`]
      return version === expected
        ? []
        : [`${name} is ${version} in functions/deno.json, ${expected} in package.json.`]
    })
  },
}
