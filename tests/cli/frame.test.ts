import { describe, expect, test } from 'vitest'
import { duration, parseSpan, ticking } from '../../src/cli/format.ts'
import {
  type FrameModel,
  type FrameOptions,
  frame,
  progressBar,
  transitionLine,
} from '../../src/cli/frame.ts'
import { wantsColor } from '../../src/cli/style.ts'
import { clean, escapeControls, fitTo, pad, width } from '../../src/cli/text.ts'
import { connectionWord } from '../../src/cli/watch.ts'
import type { OpenRun } from '../../src/client/live/open_runs.ts'
import { type RunRow, type Transition, toRunRow } from '../../src/client/live/run.ts'

const start = Date.parse('2026-11-21T00:30:00.000Z')
const at = (ms: number) => new Date(start + ms).toISOString()

function row(change: Partial<RunRow> = {}): RunRow {
  return toRunRow({
    id: '00000000-0000-4000-8000-00003f9a12c7',
    kind: 'flow',
    name: 'morning_routine',
    state: 'running',
    state_since: at(9800),
    version: 1,
    updated_at: at(9800),
    created_at: at(0),
    attempt: 1,
    allowed_actions: ['cancel'],
    ...change,
  })
}

function transition(
  machine: string,
  seq: number,
  to_status: string,
  from_ms: number,
  to_ms?: number,
): Transition {
  return {
    id: seq,
    machine,
    subject_id: '00000000-0000-4000-8000-00003f9a12c7',
    seq,
    from_status: null,
    to_status,
    source: 'bot',
    reason: null,
    error_stage: null,
    error_code: null,
    error_message: null,
    details: null,
    implied: false,
    occurred_at: null,
    created_at: at(from_ms),
    duration_ms: to_ms === undefined ? null : to_ms - from_ms,
    p50_ms: null,
    p95_ms: null,
  }
}

function open(change: Partial<RunRow> = {}, more: Partial<OpenRun> = {}): OpenRun {
  const run = row(change)
  return { id: run.id, row: run, timeline: null, detail: null, error: null, is_loading: false, ...more }
}

const timeline = (transitions: Transition[]) => ({
  id: 'x',
  kind: 'bot' as const,
  transitions,
  omitted: 0,
  rejections: [],
  retry_of: null,
  retried_by: null,
  as_of: at(0),
})

const running_flow = open(
  { progress_done: 3, progress_total: 6, progress_label: 'summarise calendar', state_since: at(9800) },
  {
    timeline: timeline([transition('flow_execution', 1, 'running', 9800)]),
    detail: {
      progressed_at: at(38_800),
      prompt_results: [
        {
          index: 0,
          prompt: 'check email',
          response: 'You have 4 unread messages',
          error: null,
          duration_ms: 9800,
        },
        { index: 1, prompt: 'list events', response: '', error: null, duration_ms: 10_100 },
        {
          index: 2,
          prompt: 'weather',
          response: null,
          error: 'The agent did not answer.',
          duration_ms: 2400,
        },
      ],
    },
  },
)

const failed_bot = open(
  {
    kind: 'bot',
    name: 'daily standup',
    state: 'failed',
    finished_at: at(602_000),
    state_since: at(602_000),
    meeting_status: 'failed',
    error_stage: 'joining',
    error_code: 'JOIN_ROOM_TIMEOUT',
    error_message: 'The bot did not join the room in 120 s.',
    allowed_actions: ['retry'],
  },
  {
    timeline: timeline([
      transition('bot', 1, 'pending', 0, 1200),
      transition('meeting', 1, 'requested', 0, 1200),
      transition('bot', 2, 'starting', 1200, 602_000),
      transition('bot', 3, 'failed', 602_000),
    ]),
  },
)

const catalog: FrameModel['catalog'] = {
  schema_version: 1,
  machines: [],
  error_codes: [
    {
      code: 'JOIN_ROOM_TIMEOUT',
      attribution: 'host',
      retryable: true,
      meaning: 'It did not get in.',
      next_step: "check the room's lobby setting.",
    },
  ],
}

const model = (runs: OpenRun[], change: Partial<FrameModel> = {}): FrameModel => ({
  runs,
  connection: 'live',
  catalog,
  compact: false,
  is_over: false,
  ...change,
})

const plain: FrameOptions = { cols: 80, rows: 24, now: start + 50_800, color: false, ascii: false }

describe('a frame', () => {
  test('of a flow that runs', () => {
    expect(frame(model([running_flow]), plain)).toEqual([
      '▶ morning_routine   flow 3f9a12c7   running 41 s                            live',
      '  ██████████░░░░░░░░░░  3/6   step 4 “summarise calendar”   12 s  (p95 10.1 s)',
      '  ▶ running                  41.0 s …',
      '   1 ✓ check email               9.8 s   “You have 4 unread messages”',
      '   2 ✓ list events              10.1 s',
      '   3 ✕ weather                   2.4 s   “The agent did not answer.”',
      '^C stops watching, not the run.   rollcall stop 3f9a12c7',
    ])
  })

  test('of a bot that failed', () => {
    expect(frame(model([failed_bot], { is_over: true, connection: '' }), { ...plain, cols: 100 })).toEqual([
      '✕ daily standup   bot 3f9a12c7   failed after 10 m 02 s',
      '  stage joining   code JOIN_ROOM_TIMEOUT',
      "  The bot did not join the room in 120 s.   Next: check the room's lobby setting.",
      '  ✓ pending                   1.2 s',
      '  ✓ starting              10 m 01 s',
      '  ✕ failed',
      'rollcall show 3f9a12c7 · rollcall retry 3f9a12c7',
    ])
  })

  test('in a narrow terminal, the state first', () => {
    expect(frame(model([running_flow]), { ...plain, cols: 40, rows: 5 })).toEqual([
      '▶ running 41 s  morning_routine     live',
      '  ██░░░  3/6   step 4 “summarise calend…',
      '  ▶ running                  41.0 s …',
      '… 4 more lines',
    ])
  })

  test('without anything but ASCII', () => {
    const lines = frame(model([running_flow, failed_bot]), { ...plain, ascii: true })
    for (const line of [...lines, ...frame(model([running_flow]), { ...plain, ascii: true })]) {
      expect(line).toMatch(/^[\x20-\x7e]*$/)
    }
    expect(lines[1]).toMatch(/^x failed/)
    expect(lines[2]).toMatch(/^> running/)
  })

  test('of a stuck run, of one that was told to stop, and of one that nobody knows', () => {
    const stuck = open({ stuck_rule: 'no_heartbeat', kind: 'bot', stop_requested_at: at(40_800) })
    const lines = frame(model([stuck]), plain)
    expect(lines[0]).toMatch(/^▲ /)
    expect(lines).toContain('  stuck: no heartbeat')
    expect(lines).toContain('  stop requested 10 s ago')
    const nobody: OpenRun = { ...stuck, row: null, error: null }
    expect(frame(model([nobody]), plain)).toEqual(['Looking for 3f9a12c7 …'])
  })

  test('of a state that is newer than this program shows the word itself', () => {
    expect(frame(model([open({ state: 'levitating' })]), plain)[0]).toMatch(
      /^○ morning_routine .* levitating/,
    )
  })

  test('of many runs counts them, bad ones first, and trims to the height', () => {
    const states = ['completed', 'running', 'pending', 'failed', 'running']
    const runs = Array.from({ length: 500 }, (_, i) => {
      const state = states[i % 5] as string
      const id = `${String(i).padStart(8, '0')}-0000-4000-8000-0000${String(i).padStart(8, '0')}`
      return open({ id, state, kind: 'bot', name: `run ${i}`, created_at: at(i) }, { id })
    })
    const lines = frame(model(runs), plain)
    expect(lines).toHaveLength(23)
    expect(lines[0]).toBe(`200 running  100 completed  100 pending  100 failed${' '.repeat(25)}live`)
    expect(lines[1]).toMatch(/^✕ failed/)
    expect(lines.at(-1)).toBe('… 479 more (200 running, 100 pending, 100 completed, 79 failed)')
    expect(frame(model(runs), { ...plain, rows: 5 })).toHaveLength(4)
    expect(frame(model(runs), { ...plain, rows: 2 })).toHaveLength(1)
  })

  const names = [
    '漢字仮名交じり文の長い名前',
    '👩‍👩‍👧‍👦 family 🇩🇪🇫🇷',
    'e\u0301\u0301\u0301 Z\u0351\u036balgo',
    'שלום عربى',
    'ﾊﾝｶｸ ＦＵＬＬ',
    'x'.repeat(500),
  ]
  test.each([
    [40, 5],
    [80, 24],
    [200, 24],
    [10, 5],
    [1, 2],
  ])('of %i columns and %i rows is never wider or higher', (cols, rows) => {
    for (const name of names) {
      const wide = { ...running_flow, row: row({ ...running_flow.row, name, progress_label: name }) }
      const failed = open({
        ...failed_bot.row,
        name,
        error_message: name,
        error_code: name,
        stuck_rule: name,
      })
      for (const runs of [[wide], [failed], [wide, failed]]) {
        for (const color of [false, true]) {
          const lines = frame(model(runs, { connection: 'reconnecting (3)' }), {
            ...plain,
            cols,
            rows,
            color,
          })
          expect(lines.length).toBeLessThanOrEqual(Math.max(1, rows - 1))
          // biome-ignore lint/suspicious/noControlCharactersInRegex: colors take no columns
          const shown = lines.map((line) => line.replaceAll(/\x1b\[[0-9;]*m/g, ''))
          for (const line of shown) expect(width(line), `${cols}: ${line}`).toBeLessThanOrEqual(cols)
        }
      }
    }
  })

  test('takes nothing from the database that moves a cursor or turns text around', () => {
    const evil = 'a\x1b[2J\x1b]0;title\x07b\u009b31mc\u202ed\u2066e\r\nf\tg\x00h\u200bi\x7fj'
    const all = open(
      {
        name: evil,
        state: evil,
        error_code: evil,
        error_stage: evil,
        error_message: evil,
        progress_label: evil,
        progress_total: 3,
        stuck_rule: evil,
        reason: evil,
        meeting_status: evil,
      },
      {
        timeline: timeline([{ ...transition('flow_execution', 1, evil, 0), reason: evil }]),
        detail: { prompt_results: [{ index: 0, prompt: evil, response: evil, error: null, duration_ms: 1 }] },
      },
    )
    const lines = [
      ...frame(model([all]), { ...plain, cols: 500 }),
      ...frame(model([all, all]), { ...plain, cols: 500 }),
      transitionLine({ ...transition(evil, 1, evil, 0), error_code: evil }, evil, 5),
    ]
    for (const line of lines) {
      // biome-ignore lint/suspicious/noControlCharactersInRegex: that is the point
      expect(line).not.toMatch(/[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]/)
    }
    expect(lines.join()).toContain('a[2J')
  })

  test('colors the state and never says it by color alone', () => {
    const [line] = frame(model([failed_bot]), { ...plain, color: true })
    expect(line).toContain('\x1b[31m')
    expect(line).toContain('failed')
  })
})

describe('words', () => {
  test('durations', () => {
    const of = [-5, 0, 820, 8600, 59_949, 59_950, 64_000, 7_500_000, 360_000_000].map(duration)
    expect(of).toEqual([
      '0 ms',
      '0 ms',
      '820 ms',
      '8.6 s',
      '59.9 s',
      '1 m 00 s',
      '1 m 04 s',
      '2 h 05 m',
      '4 d 4 h',
    ])
    expect([0, 8600, 64_000].map(ticking)).toEqual(['0 s', '8 s', '1 m 04 s'])
  })

  test('spans of options', () => {
    expect(['500ms', '10s', '30m', '24h', '7d', '1.5h'].map(parseSpan)).toEqual([
      500, 10_000, 1_800_000, 86_400_000, 604_800_000, 5_400_000,
    ])
    for (const text of ['', '10', 's', '-5s', '1 week']) expect(parseSpan(text)).toBeUndefined()
  })

  test('a bar is never full before the end, and never longer than it is', () => {
    const bars = [
      [0, 7],
      [3, 7],
      [7, 7],
      [8, 7],
      [-1, 7],
      [6.99, 7],
      [0, 0],
    ].map(([done, all]) => progressBar(done as number, all as number, 7, { ascii: true }))
    expect(bars).toEqual(['-------', '###----', '#######', '#######', '-------', '######-', '-------'])
  })

  test('how wide text is', () => {
    expect(['abc', '漢字', '👩‍👩‍👧', '🇩🇪', 'e\u0301', '❤️', 'ﾊ'].map(width)).toEqual([3, 4, 2, 2, 1, 2, 1])
    expect(fitTo('漢字漢字', 5)).toBe('漢字…')
    expect(fitTo('abc', 3)).toBe('abc')
    expect(fitTo('abcd', 3)).toBe('ab…')
    expect(fitTo('abc', 0)).toBe('')
    expect(pad('漢', 4)).toBe('漢  ')
  })

  test('cleaning keeps what people write', () => {
    expect(clean('Grüße, 漢字 👩‍👩‍👧 “quoted”')).toBe('Grüße, 漢字 👩‍👩‍👧 “quoted”')
    expect(clean('a\nb')).toBe('a b')
    const json = escapeControls(JSON.stringify({ name: 'a\u202eb\u009b\n' }))
    expect(json).toBe('{"name":"a\\u202eb\\u009b\\n"}')
    expect(JSON.parse(json)).toEqual({ name: 'a\u202eb\u009b\n' })
  })

  test('of the connection', () => {
    const words = (connection: 'live' | 'offline' | 'polling', failures: number) =>
      connectionWord({ connection, failures })
    expect([words('live', 0), words('polling', 0), words('offline', 3)]).toEqual([
      'live',
      'polling',
      'reconnecting (3)',
    ])
  })

  test('a transition in one line', () => {
    const change = { ...transition('bot', 2, 'running', 62_114), from_status: 'starting' }
    expect(transitionLine(change, 'daily standup', 8600)).toBe(
      '2026-11-21T00:31:02.114Z 3f9a12c7 bot daily-standup starting -> running 8.6s',
    )
  })

  test('who wants colors', () => {
    const wants = (option: 'auto' | 'always' | 'never', env: NodeJS.ProcessEnv, is_terminal: boolean) =>
      wantsColor(option, env, is_terminal)
    expect(wants('auto', {}, true)).toBe(true)
    expect(wants('auto', {}, false)).toBe(false)
    expect(wants('auto', { NO_COLOR: '1' }, true)).toBe(false)
    expect(wants('auto', { TERM: 'dumb' }, true)).toBe(false)
    expect(wants('auto', { FORCE_COLOR: '1' }, false)).toBe(true)
    expect(wants('auto', { FORCE_COLOR: '0' }, true)).toBe(false)
    expect(wants('always', { NO_COLOR: '1' }, false)).toBe(true)
    expect(wants('never', { FORCE_COLOR: '1' }, true)).toBe(false)
  })
})
