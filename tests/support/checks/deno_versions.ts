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
    const { dependencies } = JSON.parse(readProjectFile('package.json')) as {
      dependencies: Record<string, string>
    }
    return Object.values(imports).flatMap((target) => {
      const [, name, version] = specifier.exec(target) ?? []
      if (name === undefined) return [`functions/deno.json: ${target} is no npm package with a version.`]
      const expected = dependencies[name]
      if (expected === undefined) return [`${name} is no dependency of package.json.`]
      return version === expected
        ? []
        : [`${name} is ${version} in functions/deno.json, ${expected} in package.json.`]
    })
  },
}
