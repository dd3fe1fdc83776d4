/** The streams of a command, and what they can do. */
export interface Terminal {
  stdout: NodeJS.WriteStream
  stderr: NodeJS.WriteStream
  stdin: NodeJS.ReadStream
  env: NodeJS.ProcessEnv
}

/** Whether frames can be redrawn in place: a terminal that moves its cursor, and no CI. */
export function canRedraw({ stdout, env }: Pick<Terminal, 'stdout' | 'env'>): boolean {
  return stdout.isTTY === true && env.TERM !== 'dumb' && !env.CI
}

const HIDE_CURSOR = '\x1b[?25l'
const SHOW_CURSOR = '\x1b[?25h'
const BEGIN = '\x1b[?2026h'
const END = '\x1b[?2026l'

/** Redraws at most this often (ms). */
const SHORTEST_MS = 100

/**
 * Draws a frame over the one before, in place: no alternate screen, so that the last frame stays. The cursor is hidden
 * meanwhile and shown again by close(), whatever ends the process.
 */
export class Screen {
  readonly #stdout: NodeJS.WriteStream
  readonly #make: (size: { cols: number; rows: number }) => string[]
  #drawn: string[] = []
  #cols = 0
  #drawn_at = Number.NEGATIVE_INFINITY
  #timer: NodeJS.Timeout | undefined
  #is_open = false
  readonly #redraw = () => this.draw(true)
  readonly #restore = () => this.#stdout.write(SHOW_CURSOR)

  constructor(stdout: NodeJS.WriteStream, make: (size: { cols: number; rows: number }) => string[]) {
    this.#stdout = stdout
    this.#make = make
  }

  /** Draws soon, or now where that is not too often. */
  draw(is_resized = false): void {
    if (!this.#is_open) {
      this.#is_open = true
      this.#stdout.write(HIDE_CURSOR)
      this.#stdout.on('resize', this.#redraw)
      process.on('exit', this.#restore)
    }
    if (this.#timer) return
    const wait_ms = is_resized ? 0 : this.#drawn_at + SHORTEST_MS - performance.now()
    if (wait_ms <= 0) this.#paint()
    else {
      this.#timer = setTimeout(() => {
        this.#timer = undefined
        this.#paint()
      }, wait_ms)
    }
  }

  /** Draws the last frame and gives the terminal back. */
  close(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (!this.#is_open) return
    this.#paint()
    this.#is_open = false
    this.#stdout.off('resize', this.#redraw)
    process.off('exit', this.#restore)
    this.#restore()
  }

  #paint(): void {
    const { columns: cols = 80, rows = 24 } = this.#stdout
    const lines = this.#make({ cols, rows })
    this.#drawn_at = performance.now()
    if (
      cols === this.#cols &&
      lines.length === this.#drawn.length &&
      lines.every((line, i) => line === this.#drawn[i])
    )
      return
    // A narrower terminal has wrapped what was drawn: it takes more rows than it had lines.
    const height = cols < this.#cols ? this.#wrapped(cols) : this.#drawn.length
    const up = height > 0 ? `\x1b[${Math.min(height, rows - 1)}A` : ''
    const body = lines.map((line) => `${line}\x1b[K\n`).join('')
    this.#stdout.write(`${BEGIN}\r${up}${body}\x1b[J${END}`)
    this.#drawn = lines
    this.#cols = cols
  }

  #wrapped(cols: number): number {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colors take no columns
    const plain = (line: string) => line.replaceAll(/\x1b\[[0-9;]*m/g, '')
    return this.#drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(plain(line).length / cols)), 0)
  }
}
