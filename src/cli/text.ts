import { eastAsianWidth } from 'get-east-asian-width'

// C0 and C1 with ESC and DEL, everything that changes the direction of text, and what is invisible but no joiner.
const CONTROLS =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' })

/** A string of the database as a terminal may have it: without anything that moves a cursor or turns text around. */
export function clean(text: string): string {
  return text.replaceAll(/[\t\r\n]+/g, ' ').replaceAll(CONTROLS, '')
}

/** JSON whose strings name such characters by their numbers. */
export function escapeControls(json: string): string {
  return json.replaceAll(CONTROLS, (character) =>
    character === '\n' ? character : `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** Likewise, keeping the lines. */
export function cleanLines(text: string): string[] {
  return text.split(/\r\n|\r|\n/).map(clean)
}

/** How many columns a cleaned text takes. */
export function width(text: string): number {
  let columns = 0
  for (const { segment } of graphemes.segment(text)) columns += widthOf(segment)
  return columns
}

/** The beginning of a cleaned text, at most so many columns, with an ellipsis where something is missing. */
export function fitTo(text: string, columns: number, ellipsis = '…'): string {
  if (columns <= 0) return ''
  if (text.length <= columns && isPlain(text)) return text
  let used = 0
  let short = ''
  const marker = width(ellipsis)
  let before_last = ''
  for (const { segment } of graphemes.segment(text)) {
    const wide = widthOf(segment)
    if (used + wide > columns) return columns >= marker ? before_last + ellipsis : ''
    short += segment
    used += wide
    if (used + marker <= columns) before_last = short
  }
  return text
}

/** A cleaned text of exactly so many columns. */
export function pad(text: string, columns: number, ellipsis = '…'): string {
  const fitted = fitTo(text, columns, ellipsis)
  return fitted + ' '.repeat(Math.max(0, columns - width(fitted)))
}

function isPlain(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text)
}

function widthOf(grapheme: string): number {
  const code = grapheme.codePointAt(0) ?? 0
  if (code < 0x300) return 1
  if (/^\p{Mark}/u.test(grapheme) || /^(?:[\u200b-\u200c]|\u200d|[\ufe00-\ufe0f])/.test(grapheme)) return 0
  // Flags, skin tones and sequences that ask for the emoji form take two columns.
  if (/\p{Regional_Indicator}/u.test(grapheme) || grapheme.includes('\ufe0f')) return 2
  return eastAsianWidth(code)
}
