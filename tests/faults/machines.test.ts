import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { automationMoves } from './automation_moves.ts'
import { botMoves } from './bot_moves.ts'
import { executionMoves } from './execution_moves.ts'
import { faultTest, form, seed, sized } from './form.ts'
import { type Move, type Part, playing, time_moves } from './play.ts'
import { openWorld, type World } from './world.ts'

let database: TestDatabase
let world: World
beforeAll(async () => {
  database = await createTestDatabase()
  world = await openWorld(database, CONNECTIONS)
})
afterAll(() => database?.drop())

const CONNECTIONS = 4
const driven = new Set<string>()
/** What was asked, and how it was answered: dice that are always refused prove nothing. */
const answers = { changed: 0, other: 0, refused: 0 }

/** Moves at random; each failing plan is made smaller until nothing can be left out. */
function plans({ moves, often }: Part, length: number): fc.Arbitrary<Move[]> {
  const names = [...Object.keys(moves), ...often, ...often, 'sweep', 'advance', 'advance']
  return fc.array(
    fc.record({
      name: fc.constantFrom(...names),
      dice: fc.nat(),
      by: fc.nat({ max: CONNECTIONS - 1 }),
    }),
    { minLength: length / 2, maxLength: length, size: 'max' },
  )
}

async function make(part: Part, move: Move): Promise<void> {
  await (part.moves[move.name] ?? time_moves[move.name])?.(playing(world, move))
}

const parts = { bots: botMoves, executions: executionMoves, automations: automationMoves }

/** Tries plans; throws what went wrong with the smallest plan that goes wrong, and how to see it again. */
async function tryPlans(
  begin: () => Part,
  length: number,
  options: fc.Parameters<[Move[]]>,
  play: (part: Part, plan: Move[]) => Promise<void>,
): Promise<void> {
  const property = fc.asyncProperty(plans(begin(), length), async (plan) => {
    await world.reset()
    await play(begin(), plan)
    for (const { name, answer, refused } of world.called) {
      driven.add(name)
      if (refused !== null || answer?.ok === false) answers.refused++
      else if (answer?.changed === true) answers.changed++
      else answers.other++
    }
    const problems = await world.problems()
    if (problems.length > 0) throw new Error(problems.join('\n'))
  })
  const details = await fc.check(property, { seed, ...options })
  if (!details.failed || details.counterexample === null) return
  const plan = details.counterexample[0].map(({ name, dice, by }) => `${by}: ${name} ${dice}`).join('\n')
  const error = details.errorInstance as Error | null
  throw new Error(`${error?.message}\nafter these moves (connection: name dice):\n${plan}`, { cause: error })
}

for (const [name, begin] of Object.entries(parts)) {
  faultTest(`${name} at random, one call after the other: refused in words or done whole`, 60, () =>
    tryPlans(
      begin,
      100,
      { numRuns: sized(4, 400), interruptAfterTimeLimit: sized(15_000, 300_000) },
      async (part, plan) => {
        for (const move of plan) await make(part, move)
      },
    ),
  )

  faultTest(`${name} at random, from several connections at once: refused in words or done whole`, 60, () =>
    tryPlans(
      begin,
      240,
      // What goes wrong between connections does not go wrong twice: it is not made smaller.
      { numRuns: sized(3, 200), endOnFailure: true, interruptAfterTimeLimit: sized(15_000, 300_000) },
      async (part, plan) => {
        const played = world.callers.map(async (_, by) => {
          for (const move of plan.filter((one) => one.by === by)) await make(part, move)
        })
        // The others come to their end, too: the next plan begins with empty tables.
        await Promise.allSettled(played)
        await Promise.all(played)
      },
    ),
  )
}

/** Writes that move no machine. */
const OF_NO_MACHINE = [
  ...[
    'create_webhook_endpoint',
    'update_webhook_endpoint',
    'delete_webhook_endpoint',
    'rotate_webhook_secret',
  ],
  ...['claim_delivery', 'record_delivery', 'resend_delivery'],
  ...['update_flow', 'delete_flow'],
]

test.skipIf(form === 'soak')(
  'the dice know every function that moves a machine, and are not always refused',
  async () => {
    const functions = await database.superuser<{ name: string }[]>`
    select distinct p.proname as name from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.provolatile = 'v' and p.proname <> 'get_health' and p.prorettype <> 'trigger'::regtype
      and has_function_privilege('service_role', p.oid, 'execute') order by 1`
    const moving = functions.map(({ name }) => name).filter((name) => !OF_NO_MACHINE.includes(name))
    // Few plans do not come to everything that they might.
    const known = new Set([...driven, ...Object.values(parts).flatMap((begin) => Object.keys(begin().moves))])
    expect(moving.filter((name) => !known.has(name))).toEqual([])
    console.log(
      `random machines: ${answers.changed} calls changed something, ${answers.other} nothing, ${answers.refused} were refused`,
    )
    expect(answers.changed).toBeGreaterThan(answers.refused / 4)
  },
)
