import { width } from '../../src/cli/text.ts'

/** What a terminal shows after some output: every line that ever scrolled, without colors. Knows what the commands use. */
export function screenOf(output: string, { rows, cols }: { rows: number; cols: number }): string[] {
  const lines: string[] = ['']
  let y = 0
  let x = 0
  let i = 0
  const put = (text: string) => {
    const line = (lines[y] ?? '').padEnd(x)
    lines[y] = line.slice(0, x) + text + line.slice(x + text.length)
    x += text.length
  }
  while (i < output.length) {
    const rest = output.slice(i)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what a terminal reads
    const csi = /^\x1b\[(\?)?([0-9;]*)([A-Za-z])/.exec(rest)
    if (csi) {
      const n = Number(csi[2] || 1)
      if (csi[3] === 'A') y = Math.max(0, lines.length - rows, y - n)
      else if (csi[3] === 'K') lines[y] = (lines[y] ?? '').slice(0, x)
      else if (csi[3] === 'J') {
        lines[y] = (lines[y] ?? '').slice(0, x)
        lines.length = y + 1
      } else if (!['m', 'h', 'l'].includes(csi[3] as string))
        throw new Error(`unknown sequence ${JSON.stringify(csi[0])}`)
      i += csi[0].length
      continue
    }
    const character = output[i] as string
    if (character === '\r') x = 0
    else if (character === '\n') {
      y += 1
      if (y === lines.length) lines.push('')
      x = 0
    } else if (character === '\x1b') throw new Error(`unknown sequence ${JSON.stringify(rest.slice(0, 8))}`)
    else {
      // A line that is too long goes on in the next one.
      if (width((lines[y] ?? '').slice(0, x)) >= cols) {
        y += 1
        if (y === lines.length) lines.push('')
        x = 0
      }
      put(character)
    }
    i += 1
  }
  return lines
}
