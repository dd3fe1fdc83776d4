import { styleText } from 'node:util'
import type { RunRow } from '../client/live/run.ts'

/** What a state means to somebody who looks for trouble. */
export type Tone = 'queued' | 'working' | 'waiting' | 'ok' | 'bad' | 'attention' | 'unknown'

/** How frames are drawn. */
export interface Style {
  color: boolean
  ascii: boolean
}

const glyphs = {
  queued: '◌',
  working: '▶',
  waiting: '‖',
  ok: '✓',
  bad: '✕',
  attention: '▲',
  unknown: '○',
} as const satisfies Record<Tone, string>

const ascii_glyphs = {
  queued: '.',
  working: '>',
  waiting: '=',
  ok: '+',
  bad: 'x',
  attention: '!',
  unknown: '?',
} as const satisfies Record<Tone, string>

const colors = {
  queued: 'gray',
  working: 'blue',
  waiting: 'yellow',
  ok: 'green',
  bad: 'red',
  attention: 'magenta',
  unknown: 'gray',
} as const satisfies Record<Tone, Parameters<typeof styleText>[0]>

const tones: Record<string, Tone> = {
  pending: 'queued',
  requested: 'queued',
  draft: 'queued',
  ready: 'queued',
  starting: 'working',
  running: 'working',
  joining: 'working',
  active: 'working',
  awaiting_admission: 'waiting',
  stopping: 'waiting',
  paused: 'waiting',
  fixing: 'waiting',
  'paused:transient': 'waiting',
  'paused:approval': 'waiting',
  'paused:reconciliation': 'waiting',
  completed: 'ok',
  committed: 'ok',
  failed: 'bad',
  'failed:logic': 'bad',
  'failed:internal': 'bad',
  crashed: 'bad',
  error: 'bad',
  archived: 'queued',
}

/** The tone of a state's word. */
export function toneOf(state: string): Tone {
  return tones[state] ?? 'unknown'
}

/** The tone of a run: stuck ones ask for attention. */
export function toneOfRun(run: Pick<RunRow, 'state' | 'stuck_rule'>): Tone {
  return run.stuck_rule === null ? toneOf(run.state) : 'attention'
}

/** One column that says the tone. */
export function glyph(tone: Tone, { ascii }: Style): string {
  return (ascii ? ascii_glyphs : glyphs)[tone]
}

/** A text in the color of a tone. */
export function inTone(tone: Tone, text: string, { color }: Style): string {
  return color ? styleText(colors[tone], text, { validateStream: false }) : text
}

export function dim(text: string, { color }: Style): string {
  return color ? styleText('dim', text, { validateStream: false }) : text
}

export function bold(text: string, { color }: Style): string {
  return color ? styleText('bold', text, { validateStream: false }) : text
}

/** Whether to color a stream: what the option says, else FORCE_COLOR, NO_COLOR, TERM and whether it is a terminal. */
export function wantsColor(
  option: 'auto' | 'always' | 'never',
  env: NodeJS.ProcessEnv,
  is_terminal: boolean,
): boolean {
  if (option !== 'auto') return option === 'always'
  const { FORCE_COLOR: force } = env
  if (force !== undefined && force !== '') return force !== '0' && force !== 'false'
  if (env.NO_COLOR) return false
  return is_terminal && env.TERM !== 'dumb'
}
