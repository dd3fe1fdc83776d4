import { expect, test } from 'vitest'
import { Insights, QaPair, type Utterance } from '../../src/contract/bots.ts'
import { extract } from '../../src/worker/extract.ts'

let minute = 0
function said(speaker: string | null, text: string): Utterance {
  const at = minute++
  const time = (seconds: number) => new Date(Date.UTC(2030, 0, 1, 9, at, seconds)).toISOString()
  return { speaker, text, started_at: time(0), ended_at: time(30) }
}

test('a question is paired with what the next other speaker says', () => {
  minute = 0
  const { qa_pairs } = extract([
    said('Ann', 'Good morning. When does the release ship?'),
    said('Ann', 'I have lost track.'),
    said('Ben', 'On Friday.'),
    said('Ben', 'If the tests pass.'),
    said('Ann', 'Fine.'),
  ])
  expect(qa_pairs).toEqual([
    {
      question: 'When does the release ship?',
      answer: 'On Friday. If the tests pass.',
      asked_by: 'Ann',
      answered_by: 'Ben',
      at: '2030-01-01T09:00:00.000Z',
    },
  ])
})

test('a question that nobody answers has no answer', () => {
  const { qa_pairs } = extract([said('Ann', 'Is anybody here?')])
  expect(qa_pairs).toMatchObject([{ question: 'Is anybody here?', answer: null, answered_by: null }])
})

test('who takes something on, or is asked to, makes an action item', () => {
  const { insights } = extract([
    said('Ben', 'I will write the notes. It rains.'),
    said('Ann', 'Can you send them today?'),
    said('Ann', 'Should we wait?'),
    said(null, "Let's meet on Monday."),
  ])
  expect(insights.action_items).toEqual([
    'Ben: I will write the notes.',
    'Ann: Can you send them today?',
    "Let's meet on Monday.",
  ])
})

test('topics are the words said most, without common words and names', () => {
  const { insights } = extract([
    said('Benjamin', 'The budget is small, the budget is late.'),
    said('Ann', 'Benjamin, the roadmap needs a budget. Really, the roadmap!'),
    said('Ann', 'Benjamin is right.'),
  ])
  expect(insights.topics).toEqual(['budget', 'roadmap'])
})

test('the summary says who spoke how much and for how long', () => {
  minute = 0
  const { insights } = extract([said('Ann', 'Hello.'), said('Ben', 'Hi.'), said('Ann', 'Bye.')])
  expect(insights.summary).toBe('3 utterances by Ann (2), Ben (1) in 3 minutes. 0 questions, 0 action items.')
})

test('any transcript gives a result of the promised form', () => {
  const odd: Utterance[] = [
    { speaker: null, text: '', started_at: null, ended_at: null },
    { speaker: 'X', text: '??!? ... \u{1F600}', started_at: null, ended_at: null },
    { speaker: 'X', text: 'a'.repeat(100_000), started_at: null, ended_at: null },
  ]
  for (const transcript of [[], odd]) {
    const { qa_pairs, insights } = extract(transcript)
    expect(QaPair.array().safeParse(qa_pairs).success).toBe(true)
    expect(Insights.safeParse(insights).success).toBe(true)
  }
})

test('two hours of talk are read within a second', () => {
  const lines = Array.from({ length: 5_000 }, (_, index) =>
    said(index % 2 ? 'Ann' : 'Ben', `What about item ${index}? I will look at item ${index} and the plan.`),
  )
  const started = performance.now()
  expect(extract(lines).qa_pairs).toHaveLength(50)
  expect(performance.now() - started).toBeLessThan(1_000)
})
