import { parse } from 'smol-toml'

const BEGIN = '# >>> rollcall (written by "rollcall install")'
const END = '# <<< rollcall'

/**
 * supabase/config.toml with a block for each function, between two marks at its end; all else stays as it is.
 * `problem`: why it can not have them, and what to do.
 */
export function configWith(
  config: string,
  functions: string[],
  functions_dir: string,
): { text: string } | { problem: string } {
  const marked = withoutBlock(config)
  if (marked === null) {
    return { problem: `supabase/config.toml has "${BEGIN}" without "${END}": put the line back.` }
  }
  let theirs: { functions?: Record<string, unknown> }
  try {
    theirs = parse(marked)
  } catch (error) {
    return { problem: `supabase/config.toml is not TOML: ${(error as Error).message.split('\n')[0]}` }
  }
  const taken = functions.filter((name) => theirs.functions?.[name] !== undefined)
  if (taken.length > 0) {
    const blocks = taken.map((name) => `[functions.${name}]`).join(', ')
    return {
      problem: `supabase/config.toml has ${blocks} already: rename your function, or remove the block.`,
    }
  }
  const blocks = functions
    .toSorted()
    .map((name) =>
      [
        `[functions.${name}]`,
        'enabled = true',
        'verify_jwt = false',
        `import_map = "${functions_dir}/deno.json"`,
        `entrypoint = "${functions_dir}/${name}/index.ts"`,
      ].join('\n'),
    )
  return { text: `${marked.trimEnd()}\n\n${BEGIN}\n${blocks.join('\n\n')}\n${END}\n` }
}

/** The user's own part; null where the block has lost its end. */
function withoutBlock(config: string): string | null {
  const begin = config.indexOf(BEGIN)
  if (begin < 0) return config
  const end = config.indexOf(END, begin)
  return end < 0 ? null : config.slice(0, begin) + config.slice(end + END.length).trimStart()
}
