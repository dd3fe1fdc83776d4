import { type Command, emit, print } from './context.ts'
import { exit } from './exit_codes.ts'
import { bold, dim, glyph, inTone } from './style.ts'
import { clean } from './text.ts'

type Health = {
  ok: boolean
  schema_version: number
  checks: { check: string; ok: boolean; detail: string; cure: string }[]
}

/** Is everything well with the project? Each thing that is not comes with its cure. */
export const doctor: Command = {
  usage: 'rollcall doctor [--json]',
  options: {},
  async run(context) {
    const health = await context.source().call<Health>('work', { method: 'GET', signal: context.signal })
    const code = health.ok ? exit.completed : exit.failed
    if (context.is_json) {
      emit(context, 'result', { ...health, exit_code: code })
      return code
    }
    const { style } = context
    for (const { check, ok, detail, cure } of health.checks) {
      const tone = ok ? 'ok' : 'bad'
      print(
        context,
        `${inTone(tone, glyph(tone, style), style)} ${bold(clean(check).replaceAll('_', ' '), style)}  ${clean(detail)}`,
      )
      if (!ok) print(context, dim(`    ${clean(cure)}`, style))
    }
    return code
  },
}
