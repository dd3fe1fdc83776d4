import { parseArgs } from 'node:util'
import { localConfig } from './config.ts'
import { type Stack, startStack } from './stack.ts'
import { StartError } from './start_error.ts'

const usage = `npm start [-- --reset] [-- --no-bot]

  --reset    forget what an earlier start left in the data directory
  --no-bot   start the stack alone, without the demo bot`

/** `npm start`: the stack, the demo, and a wait for Ctrl-C. */
async function main(): Promise<void> {
  const flags = readFlags()
  if (flags === null) return
  const stopping = new AbortController()
  let stack: Stack | undefined
  const starting = Date.now()
  const stopped = new Promise<void>((done) => {
    // npm passes the signal on as well as the terminal does: the second one says nothing new.
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        stopping.abort()
        done()
      })
    }
  })
  try {
    const { dir, port, db_port, chaos } = localConfig()
    console.log('Starting the local stack ...')
    stack = await startStack({
      dir,
      port,
      db_port,
      chaos,
      reset: flags.reset,
      signal: stopping.signal,
      log: (line) => console.log(`  ${line}`),
    })
    console.log(panel(stack, Date.now() - starting))
    if (flags.bot) void demo(stack, stopping.signal)
    else console.log('\nCtrl-C stops everything.')
    await stopped
  } catch (error) {
    if (!stopping.signal.aborted) throw error
  }
  console.log('\nStopping ...')
  // A part that hangs must not keep the terminal.
  setTimeout(() => process.exit(1), 4800).unref()
  await stack?.stop()
  console.log('Stopped.')
  process.exit(0)
}

function readFlags(): { reset: boolean; bot: boolean } | null {
  try {
    const { values } = parseArgs({
      options: {
        reset: { type: 'boolean' },
        'no-bot': { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
    if (values.help) {
      console.log(usage)
      return null
    }
    return { reset: values.reset ?? false, bot: !values['no-bot'] }
  } catch (error) {
    throw new StartError(`${(error as Error).message.split('.')[0]}.\n\n${usage}`)
  }
}

function panel(stack: Stack, took_ms: number): string {
  const lines: [string, string][] = [
    ['API', stack.api_url],
    ['Functions', stack.functions_url],
    ['Database', stack.db_url],
    ['Dashboard', stack.dashboard_url],
    ['Demo room', `${stack.room_url}/demo`],
    ['Publishable key', stack.publishable_key],
    ['Secret key', stack.secret_key],
  ]
  const rows = lines.map(([name, value]) => `  ${name.padEnd(17)}${value}`)
  return [
    '',
    `Rollcall runs (${(took_ms / 1000).toFixed(1)} s).`,
    '',
    ...rows,
    '',
    '  npm run env prints these for a shell.',
  ].join('\n')
}

async function demo(stack: Stack, signal: AbortSignal): Promise<void> {
  try {
    const { runDemo } = await import('./demo.ts')
    console.log('')
    await runDemo(stack, (line: string) => console.log(line))
  } catch (error) {
    if (signal.aborted) return
    console.error(`The demo ended early: ${(error as Error).message}`)
  }
  if (!signal.aborted) console.log('\nThe stack keeps running. Ctrl-C stops everything.')
}

try {
  await main()
} catch (error) {
  console.error(error instanceof StartError ? error.message : error)
  process.exit(1)
}
