import { dirname } from 'node:path'
import { type Command, emit, print, say } from './context.ts'
import { CommandError, exit } from './exit_codes.ts'
import { InstallError, install } from './install.ts'

/** Puts Rollcall into the Supabase project around the current directory. */
export const installCommand: Command = {
  usage: 'rollcall install [--json]',
  options: {},
  async run(context) {
    try {
      const done = install(packageDir(), context.cwd)
      if (context.is_json) emit(context, 'result', { ...done, exit_code: exit.completed })
      else {
        for (const [word, paths] of [
          ['added', done.added],
          ['changed', done.changed],
          ['removed', done.removed],
        ] as const) {
          for (const path of paths) print(context, `${word} supabase/${path}`)
        }
        say(
          context,
          `Rollcall ${done.version} is in. Now: supabase db push${done.out_of_order ? ' --include-all' : ''}, then supabase functions deploy`,
        )
      }
      return exit.completed
    } catch (error) {
      if (error instanceof InstallError) throw new CommandError(exit.failed, 'can_not_install', error.message)
      throw error
    }
  },
}

/** The package: two up from here in the repository, one up from dist/. */
function packageDir(): string {
  const here = import.meta.dirname
  return here.endsWith('dist') ? dirname(here) : dirname(dirname(here))
}
