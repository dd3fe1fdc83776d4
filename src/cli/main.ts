#!/usr/bin/env node
import { parseArgs } from 'node:util'
import { createProjectSource, type ProjectSource } from '../client/live/project_source.ts'
import { retry, stop } from './act.ts'
import { findConfig } from './config.ts'
import {
  type Command,
  type Context,
  common_options,
  emit,
  textOf,
  toCommandError,
  type Values,
} from './context.ts'
import { counts } from './counts.ts'
import { doctor } from './doctor.ts'
import { CommandError, type ExitCode, exit, usageError } from './exit_codes.ts'
import { installCommand } from './install_command.ts'
import { ls, stuck } from './ls.ts'
import { show } from './show.ts'
import { wantsColor } from './style.ts'
import { tail } from './tail.ts'
import { ui } from './ui.ts'
import { watch } from './watch.ts'

const commands: Record<string, Command> = {
  ls,
  show,
  watch,
  tail,
  counts,
  stuck,
  stop,
  retry,
  ui,
  doctor,
  install: installCommand,
}

const general = `Every command: --url URL --key KEY --token JWT --owner UUID --color auto|always|never --ascii --json --help
The project: these flags, else SUPABASE_URL and SUPABASE_KEY (ROLLCALL_TOKEN, ROLLCALL_OWNER_ID), else
~/.config/rollcall/config.json, else the local stack of the project around you.
Ends with 0 completed, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 gave up connecting, 6 stopped, 124 timeout, 130 ^C.`

async function main(argv: readonly string[]): Promise<ExitCode> {
  const terminal = { stdout: process.stdout, stderr: process.stderr, stdin: process.stdin, env: process.env }
  // Whoever reads no more, as in `| head -1`, has what they wanted.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      process.exit(error.code === 'EPIPE' ? 0 : 1)
    })
  }
  const over = new AbortController()
  const interrupt = () => {
    // The second time somebody means it.
    if (over.signal.aborted) process.exit(exit.interrupted)
    over.abort(new CommandError(exit.interrupted, 'interrupted', 'Interrupted.'))
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)

  const [name = '--help', ...rest] = argv
  const is_json = rest.includes('--json')
  const sources: ProjectSource[] = []
  try {
    if (name === '--help' || name === '-h' || name === 'help') {
      process.stdout.write(
        `${Object.values(commands)
          .map(({ usage }) => usage)
          .join('\n')}\n\n${general}\n`,
      )
      return exit.completed
    }
    const command = commands[name]
    if (!command)
      throw usageError(`There is no command "${name}".`, `There are ${Object.keys(commands).join(', ')}.`)
    const { values, positionals } = parsed(command, rest)
    if (values.help === true) {
      process.stdout.write(`${command.usage}\n\n${general}\n`)
      return exit.completed
    }
    const color = textOf(values, 'color') ?? 'auto'
    if (color !== 'auto' && color !== 'always' && color !== 'never')
      throw usageError('--color is auto, always or never.')
    const context: Context = {
      values,
      positionals,
      terminal,
      style: {
        color: wantsColor(color, process.env, process.stdout.isTTY === true),
        ascii: values.ascii === true,
      },
      is_json,
      signal: over.signal,
      cwd: process.cwd(),
      source({ polling = false } = {}) {
        const known = sources[0]
        if (known) return known
        const { token, ...config } = findConfig(
          {
            url: textOf(values, 'url'),
            key: textOf(values, 'key'),
            token: textOf(values, 'token'),
            owner: textOf(values, 'owner'),
          },
          process.env,
          process.cwd(),
        )
        const is_deaf = typeof globalThis.WebSocket === 'undefined'
        const source = createProjectSource({ ...config, token: () => token, polling: polling || is_deaf })
        sources.push(source)
        return source
      },
    }
    return await command.run(context)
  } catch (reason) {
    const error =
      over.signal.aborted && !(reason instanceof CommandError)
        ? new CommandError(exit.interrupted, 'interrupted', 'Interrupted.')
        : toCommandError(reason)
    process.stderr.write(`rollcall: ${error.message}\n${error.hint ? `  ${error.hint}\n` : ''}`)
    if (is_json)
      emit({ terminal }, 'result', {
        exit_code: error.exit_code,
        error: { code: error.code, message: error.message },
      })
    return error.exit_code
  } finally {
    for (const source of sources) source.close()
  }
}

function parsed(command: Command, args: string[]): { values: Values; positionals: string[] } {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: { ...common_options, ...command.options },
      allowPositionals: true,
      strict: true,
    })
    return { values: values as Values, positionals }
  } catch (error) {
    throw usageError((error as Error).message, command.usage)
  }
}

const code = await main(process.argv.slice(2))
// What was written is on its way out before the process ends; sockets and timers are not waited for.
await new Promise<void>((done) => process.stdout.write('', () => done()))
process.exit(code)
