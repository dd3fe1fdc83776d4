import { type Command, emit, print } from './context.ts'
import { exit } from './exit_codes.ts'
import { filter_options, filterOf } from './filter.ts'
import { bold, inTone, toneOf } from './style.ts'
import { pad } from './text.ts'

/** How many runs there are of each kind and state. */
export const counts: Command = {
  usage: 'rollcall counts [--kind K] [--code C] [--since 24h] [--json]',
  options: filter_options,
  async run(context) {
    const answer = await context.source().counts(filterOf(context.values), context.signal)
    if (context.is_json) {
      emit(context, 'snapshot', { ...answer })
      emit(context, 'result', { exit_code: exit.completed })
      return exit.completed
    }
    const kinds = [...new Set(answer.counts.map((count) => count.kind))]
    for (const name of kinds) {
      const states = answer.counts.filter((count) => count.kind === name)
      const words = states
        .filter(({ n }) => n > 0)
        .map(({ state, n, exact }) => inTone(toneOf(state), `${number(n, exact)} ${state}`, context.style))
      print(context, `${bold(pad(name, 10), context.style)}${words.join('  ') || 'none'}`)
    }
    const { stuck, failed_last_hour } = answer
    print(
      context,
      `${bold(pad('stuck', 10), context.style)}${inTone(stuck.n > 0 ? 'attention' : 'queued', number(stuck.n, stuck.exact), context.style)}`,
    )
    print(
      context,
      `${bold(pad('failed', 10), context.style)}${number(failed_last_hour.n, failed_last_hour.exact)} in the last hour`,
    )
    return exit.completed
  },
}

function number(n: number, is_exact: boolean): string {
  return `${n.toLocaleString('en')}${is_exact ? '' : '+'}`
}
