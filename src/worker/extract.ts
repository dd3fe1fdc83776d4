import type { Insights, QaPair, Utterance } from '../contract/bots.ts'

export interface Extract {
  qa_pairs: QaPair[]
  insights: Insights
}

/** How many of each the extractor gives at most. */
const MAX_QA_PAIRS = 50
const MAX_ACTION_ITEMS = 20
const MAX_TOPICS = 5

/** An answer begins within this many utterances of its question, and has at most so many characters. */
const ANSWER_WITHIN = 3
const MAX_ANSWER = 500

/** Somebody takes something on, or says what has to be done. */
const ACTION =
  /\b(i'll|i will|we'll|we will|let's|let us|we need to|i need to|you need to|needs to|have to|has to|must|should|action item|to-?do|can you|could you|please)\b/i

/** Only these count as doing when they are asked: "can you send it?" is a task, "should we?" is a question. */
const REQUEST = /\b(can you|could you|please)\b/i

const POSITIVE = /\b(great|good|thanks|thank you|perfect|excellent|love|happy|awesome|nice|agree|works)\b/gi
const NEGATIVE =
  /\b(bad|wrong|problem|issue|fail(s|ed|ure)?|broken|blocked|worried|delay(ed)?|unfortunately|disagree)\b/gi

/** Words that say nothing of what a conversation is about. */
const COMMON = new Set(
  `a about after again all also am an and any are as at back be because been before being but by can could did do
  does doing done down even every for from get gets getting give go goes going gone good got great had has have
  having he hello her here hey hi him his how i if in into is it its just know let like ll look make many maybe me
  might more most much must my need needs new no not now of off ok okay on one only or other our out over people
  please really right said say says see she should so some something soon still sure take talk tell than thank
  thanks that the their them then there these they thing things think this those time to today together tomorrow
  too two up us very want wants was way we week well were what when where which while who why will with would yeah
  yes yesterday you your`.split(/\s+/),
)

/**
 * Questions, answers and insights by rules alone, where no agent is configured. English rules, no claim to understand:
 *
 * - a question is a sentence that ends with "?"; its answer is what the next other speaker says within three
 *   utterances, as long as that one goes on speaking;
 * - an action item is a sentence in which somebody takes something on ("I will ...", "let's ...") or is asked to
 *   ("can you ...", "please ...");
 * - topics are the words of four letters and more that are used most, at least twice;
 * - the sentiment is the balance of a few approving and disapproving words;
 * - the summary counts who spoke how much and for how long, and names topics and action items.
 */
export function extract(transcript: readonly Utterance[]): Extract {
  const spoken = transcript.filter((utterance) => utterance.text.trim() !== '')
  const topics = topicsOf(spoken)
  const action_items = actionItemsOf(spoken)
  const qa_pairs = questionsOf(spoken)
  const summary = summaryOf(spoken, topics, qa_pairs.length, action_items.length)
  return { qa_pairs, insights: { summary, topics, action_items, sentiment: sentimentOf(spoken) } }
}

function sentences(text: string): string[] {
  return (text.match(/[^.!?\n]+[.!?]*/g) ?? [])
    .map((sentence) => sentence.trim())
    .filter((one) => /\p{L}/u.test(one))
}

function questionsOf(spoken: readonly Utterance[]): QaPair[] {
  const pairs: QaPair[] = []
  for (const [index, utterance] of spoken.entries()) {
    for (const question of sentences(utterance.text).filter((sentence) => sentence.endsWith('?'))) {
      if (pairs.length === MAX_QA_PAIRS) return pairs
      const answer = answerTo(spoken, index)
      pairs.push({
        question,
        answer: answer?.text ?? null,
        asked_by: utterance.speaker,
        answered_by: answer?.speaker ?? null,
        at: utterance.started_at,
      })
    }
  }
  return pairs
}

function answerTo(
  spoken: readonly Utterance[],
  asked: number,
): { text: string; speaker: string | null } | null {
  const asker = spoken[asked]?.speaker ?? null
  const window = spoken.slice(asked + 1, asked + 1 + ANSWER_WITHIN)
  const first = window.findIndex((utterance) => utterance.speaker !== asker)
  const speaker = window[first]?.speaker
  if (speaker === undefined) return null
  const words: string[] = []
  for (const utterance of spoken.slice(asked + 1 + first)) {
    if (utterance.speaker !== speaker || words.join(' ').length >= MAX_ANSWER) break
    words.push(utterance.text.trim())
  }
  return { text: words.join(' ').slice(0, MAX_ANSWER).toWellFormed(), speaker }
}

function actionItemsOf(spoken: readonly Utterance[]): string[] {
  const items: string[] = []
  for (const { speaker, text } of spoken) {
    for (const sentence of sentences(text)) {
      if (items.length === MAX_ACTION_ITEMS) return items
      if (!ACTION.test(sentence) || (sentence.endsWith('?') && !REQUEST.test(sentence))) continue
      items.push(speaker === null ? sentence : `${speaker}: ${sentence}`)
    }
  }
  return items
}

function topicsOf(spoken: readonly Utterance[]): string[] {
  const counts = new Map<string, number>()
  const names = new Set(spoken.flatMap(({ speaker }) => (speaker ?? '').toLowerCase().split(/\s+/)))
  for (const { text } of spoken) {
    for (const word of text.toLowerCase().match(/\p{L}[\p{L}\p{N}-]{3,}/gu) ?? []) {
      if (!COMMON.has(word) && !names.has(word)) counts.set(word, (counts.get(word) ?? 0) + 1)
    }
  }
  // Equal counts keep the order in which the words were first said.
  return [...counts]
    .filter(([, count]) => count > 1)
    .sort((a, b) => b[1] - a[1])
    .slice(0, MAX_TOPICS)
    .map(([word]) => word)
}

function sentimentOf(spoken: readonly Utterance[]): string {
  const text = spoken.map((utterance) => utterance.text).join('\n')
  const balance = (text.match(POSITIVE)?.length ?? 0) - (text.match(NEGATIVE)?.length ?? 0)
  if (balance === 0) return 'neutral'
  return balance > 0 ? 'positive' : 'negative'
}

function summaryOf(spoken: readonly Utterance[], topics: string[], questions: number, items: number): string {
  if (spoken.length === 0) return 'Nobody said anything.'
  const counts = new Map<string, number>()
  for (const { speaker } of spoken)
    counts.set(speaker ?? 'Somebody', (counts.get(speaker ?? 'Somebody') ?? 0) + 1)
  const people = [...counts].map(([name, count]) => `${name} (${count})`).join(', ')
  const parts = [`${count(spoken.length, 'utterance')} by ${people}${lasting(spoken)}.`]
  if (topics.length > 0) parts.push(`Mostly about ${topics.join(', ')}.`)
  parts.push(`${count(questions, 'question')}, ${count(items, 'action item')}.`)
  return parts.join(' ')
}

function lasting(spoken: readonly Utterance[]): string {
  const times = spoken
    .flatMap(({ started_at, ended_at }) => [started_at, ended_at])
    .map((time) => (time === null ? Number.NaN : Date.parse(time)))
    .filter((time) => !Number.isNaN(time))
  if (times.length < 2) return ''
  const earliest = times.reduce((a, b) => Math.min(a, b))
  const minutes = (times.reduce((a, b) => Math.max(a, b)) - earliest) / 60_000
  return minutes < 1 ? ' in less than a minute' : ` in ${count(Math.round(minutes), 'minute')}`
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
