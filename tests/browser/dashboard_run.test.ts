import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inFixture, launchBrowser, openFixture, rowsOf } from '../support/dashboard.ts'
import type { Fixture } from './dashboard_fixture.ts'

let browser: Browser

beforeAll(async () => {
  browser = await launchBrowser()
})

afterAll(() => browser?.close())

const run = (n: number) => `#/runs/00000000-0000-4000-8000-${String(n).padStart(12, '0')}`

/** What the page sent to functions: path and body. */
const sent = (page: Page) =>
  inFixture(page, (fixture) =>
    fixture.requests
      .filter(({ method, path }) => method === 'call' && path?.startsWith('executions/') === false)
      .map(({ path, body }) => ({ path, body: body as { key: string } })),
  )

test('a failed run says stage, code, meaning, message and details, to be copied', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    permissions: ['clipboard-read', 'clipboard-write'],
    prepare: (fixture) => {
      const failed = { state: 'failed', error_stage: 'joining', error_code: 'JOIN_ROOM_TIMEOUT' }
      const id = fixture.put(1, { ...failed, error_message: 'Nobody opened the door.' })
      fixture.put(2, failed)
      fixture.details[id] = { error: { details: { waited_s: 120 } } }
    },
  })
  const panel = page.locator('.error-panel')
  await panel.getByText('JOIN_ROOM_TIMEOUT').waitFor()
  for (const words of [
    'joining',
    'did not get into the room in time',
    "Check the room's lobby",
    'Nobody opened the door.',
  ])
    await panel.getByText(words).waitFor()
  await panel.getByText('Details').click()
  await panel.getByText('"waited_s": 120').waitFor()
  await panel.getByRole('button', { name: 'Copy' }).click()
  expect(await page.evaluate(() => navigator.clipboard.readText())).toContain('"waited_s": 120')
  await page.evaluate((hash) => {
    location.hash = hash
  }, run(2))
  await page.getByText('It left no message.').waitFor()
  await panel.getByText('JOIN_ROOM_TIMEOUT').waitFor()
  await page.context().close()
})

test('the timeline sums to the total, its open part ticks, and what was refused is there', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    clock: true,
    prepare: (fixture) => {
      const begin = Date.now() - 130_000
      const at = (ms: number) => new Date(begin + ms).toISOString()
      const id = fixture.put(1, { created_at: at(0), state_since: at(10_000) })
      const transition = (
        seq: number,
        from: string | null,
        to: string,
        ms: number,
        duration_ms: number | null,
      ) => ({
        id: seq,
        machine: 'bot',
        subject_id: id,
        seq,
        from_status: from,
        to_status: to,
        source: 'bot' as const,
        reason: null,
        error_stage: null,
        error_code: null,
        error_message: null,
        details: null,
        implied: seq === 2,
        occurred_at: null,
        created_at: at(ms),
        duration_ms,
        p50_ms: 1000,
        p95_ms: 4000,
      })
      fixture.timelines[id] = {
        transitions: [
          transition(1, null, 'pending', 0, 1200),
          transition(2, 'pending', 'starting', 1200, 8800),
          transition(3, 'starting', 'running', 10_000, null),
        ],
        rejections: [
          {
            id: 9,
            machine: 'bot',
            from_status: 'starting',
            to_status: 'completed',
            source: 'bot',
            code: 'illegal_transition',
            created_at: at(5000),
          },
        ],
      }
    },
  })
  await page.clock.runFor(1500)
  const items = page.locator('.timeline > li')
  await items.nth(3).waitFor()
  const texts = await items.allInnerTexts()
  expect(texts[0]).toContain('1.2 s')
  expect(texts[1]).toContain('8.8 s')
  expect(texts[1]).toContain('implied')
  expect(texts[2]).toMatch(/completed[\s\S]*refused: illegal_transition/)
  expect(texts[3]).toContain('(not to scale)')
  expect(texts[0]).toContain('typical 1.0 s .. 4.0 s')
  const seconds = async () => {
    const [, m, s] = /(\d+) m (\d+) s …/.exec(await items.nth(3).innerText()) ?? []
    return Number(m) * 60 + Number(s)
  }
  const open_s = await seconds()
  const total = await page.locator('.facts div', { hasText: 'Total' }).innerText()
  const [, m, s] = /(\d+) m (\d+) s/.exec(total) ?? []
  expect(Math.abs(Number(m) * 60 + Number(s) - (1.2 + 8.8 + open_s))).toBeLessThanOrEqual(1)
  await page.clock.runFor(5000)
  expect(await seconds()).toBeGreaterThanOrEqual(open_s + 4)
  await page.context().close()
})

test('Stop asks, sends once, and says that it was asked until the bot has stopped', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    prepare: (fixture) => {
      fixture.put(1)
      fixture.delays = { call: 300 }
    },
  })
  await page.getByRole('button', { name: 'Stop' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByText('running', { exact: true }).waitFor()
  const keep = dialog.getByRole('button', { name: 'Keep running' })
  await expect.poll(() => keep.evaluate((element) => element === document.activeElement)).toBe(true)
  await dialog.getByLabel('Reason').fill('the meeting was moved')
  await dialog.getByRole('button', { name: 'Stop' }).dblclick()
  await expect.poll(() => dialog.count()).toBe(0)
  expect(await sent(page)).toMatchObject([{ path: 'stop', body: { reason: 'the meeting was moved' } }])
  await page.getByText('stop requested just now').waitFor()
  expect(await page.getByRole('button', { name: 'Stop' }).getAttribute('aria-disabled')).toBe('true')
  await inFixture(page, (fixture) => {
    fixture.put(1, { state: 'completed', reason: 'stopped' })
    fixture.tell()
  })
  await page.locator('.badge.big').getByText('completed').waitFor()
  expect(await page.getByText('stop requested').count()).toBe(0)
  await page.context().close()
})

test('a run that ended meanwhile is no error of whoever stops it', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    prepare: (fixture) => {
      fixture.put(1)
      fixture.answers.stop = { throw: { status: 409, code: 'illegal_transition' } }
    },
  })
  await page.getByRole('button', { name: 'Stop' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByText('In this state for').waitFor()
  await page.evaluate(() => {
    const held = window.fixture.row(1)
    if (held) Object.assign(held, { state: 'completed', finished_at: new Date().toISOString() })
  })
  await dialog.getByRole('button', { name: 'Stop' }).click()
  await dialog.getByText(/It already completed \d s ago\./).waitFor()
  expect(await dialog.locator('.trouble').count()).toBe(0)
  await page.context().close()
})

test('without an answer Try again sends the same key; what is forbidden is not offered again', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    prepare: (fixture) => {
      fixture.put(1)
      fixture.answers.stop = { throw: { status: 0, code: 'unreachable' } }
    },
  })
  await page.getByRole('button', { name: 'Stop' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByRole('button', { name: 'Stop' }).click()
  await dialog.getByText('No answer came').waitFor()
  await inFixture(page, (fixture) => {
    fixture.answers.stop = { throw: { status: 403, code: 'forbidden' } }
  })
  await dialog.getByRole('button', { name: 'Try again' }).click()
  await dialog.getByText('You may not do this.').waitFor()
  const keys = (await sent(page)).map(({ body }) => body.key)
  expect(keys.length).toBe(2)
  expect(new Set(keys).size).toBe(1)
  await dialog.getByRole('button', { name: 'Close' }).click()
  await expect.poll(() => page.getByRole('button', { name: 'Stop' }).count()).toBe(0)
  await page.context().close()
})

test('a retry and what it repeats lead to each other', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    prepare: (fixture) => {
      fixture.put(1, { state: 'failed', error_code: 'JOIN_ROOM_TIMEOUT' })
      fixture.answers.join = { bot_id: fixture.id(2) }
    },
  })
  await page.getByRole('button', { name: 'Retry' }).click()
  await inFixture(page, (fixture) => {
    fixture.put(2, { retry_of: fixture.id(1) })
  })
  await page.getByRole('dialog').getByRole('button', { name: 'Retry' }).click()
  await page.getByRole('link', { name: 'Open the new run' }).click()
  await page.getByRole('heading', { name: 'Run 2' }).waitFor()
  const facts = page.locator('.facts')
  await facts.locator('div', { hasText: 'Retry of' }).getByRole('link').click()
  await page.getByRole('heading', { name: 'Run 1' }).waitFor()
  await facts.locator('div', { hasText: 'Retried by' }).getByRole('link').waitFor()
  await page.context().close()
})

/** A workflow that stands still for a side effect of which nobody knows, and told its owner something. */
const uncertain = (fixture: Fixture) => {
  const error_code = 'MUTATION_UNCERTAIN'
  const id = fixture.put(1, { kind: 'workflow', state: 'error', error_code, error_message: 'timed out' })
  const created_at = new Date().toISOString()
  fixture.details[id] = {
    unresolved_mutation: {
      id: 'm',
      tool: 'Http.send',
      params: { url: 'https://example.com/hook' },
      status: 'indeterminate',
      error: 'timed out',
      actions: ['failed', 'skipped', 'applied', 'ask_again'],
    },
    notifications: [
      { id: 'n2', type: 'error', payload: { code: error_code, message: 'timed out' }, created_at },
      { id: 'n1', type: 'script_message', payload: { message: 'Twelve items.' }, created_at },
    ],
  }
  for (const path of ['mutations/m/resolve', 'notifications/n1/acknowledge'])
    fixture.answers[`workflows/${id}/${path}`] = {}
}

/** What the page sent of a workflow, beside its reads. */
const told = async (page: Page) =>
  (await sent(page))
    .filter(({ path }) => /resolve|acknowledge/.test(path ?? ''))
    .map(({ path, body: { key: _key, ...body } }) => [path?.split('/').slice(2).join('/'), body])

test('a side effect of which nobody knows is resolved, with the result where there was one', async () => {
  const { page } = await openFixture(browser, { hash: run(1), prepare: uncertain })
  const section = page.getByRole('region', { name: 'Nobody knows whether it happened' })
  await section.getByText('What was asked').click()
  await section.getByText('"https://example.com/hook"').waitFor()
  const choices = await section.getByRole('button').allInnerTexts()
  expect(choices).toEqual(['Copy', 'It did not happen', 'Leave it', 'It happened', 'Ask again'])

  // With the keyboard alone: the focus is on what changes nothing.
  await section.getByRole('button', { name: 'It did not happen' }).focus()
  await page.keyboard.press('Enter')
  const dialog = page.getByRole('dialog')
  await dialog.getByText('Its events are free again').waitFor()
  await expect.poll(() => page.evaluate(() => document.activeElement?.textContent)).toBe('Cancel')
  await page.keyboard.press('Escape')
  await expect.poll(() => page.evaluate(() => document.activeElement?.textContent)).toBe('It did not happen')

  await section.getByRole('button', { name: 'It happened' }).click()
  await dialog.getByLabel('What it answered').fill('{ "id": 7 }')
  await inFixture(page, (fixture) => {
    fixture.details[fixture.id(1)] = { unresolved_mutation: null, notifications: [] }
  })
  await dialog.getByRole('button', { name: 'It happened' }).dblclick()
  await expect.poll(() => section.count()).toBe(0)
  expect(await told(page)).toEqual([['mutations/m/resolve', { how: 'applied', result: { id: 7 } }]])
  await page.context().close()
})

test('a notification is acknowledged; one that is gone, or may not be, says so', async () => {
  const { page } = await openFixture(browser, { hash: run(1), prepare: uncertain })
  const section = page.getByRole('region', { name: 'Notifications' })
  await expect.poll(() => section.getByRole('listitem').count()).toBe(2)
  const message = section.getByRole('listitem').filter({ hasText: 'Twelve items.' })
  await message.getByRole('button', { name: 'Acknowledge' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByText('It is not shown here any more').waitFor()
  await inFixture(page, (fixture) => {
    const detail = fixture.details[fixture.id(1)] as { notifications: unknown[] }
    detail.notifications.pop()
  })
  await dialog.getByRole('button', { name: 'Acknowledge' }).click()
  await expect.poll(() => message.count()).toBe(0)
  expect(await told(page)).toEqual([['notifications/n1/acknowledge', {}]])

  await inFixture(page, (fixture) => {
    const throws = { status: 403, code: 'forbidden' }
    fixture.answers[`workflows/${fixture.id(1)}/notifications/n2/acknowledge`] = { throw: throws }
  })
  await section.getByRole('button', { name: 'Acknowledge' }).click()
  await dialog.getByRole('button', { name: 'Acknowledge' }).click()
  await dialog.getByText('You may not do this.').waitFor()
  await dialog.getByRole('button', { name: 'Close' }).click()
  await expect.poll(() => section.getByRole('button').count()).toBe(0)
  await section.getByText('timed out').waitFor()
  await page.context().close()
})

test("a handler's side effect is resolved on its own page too; what settled it meanwhile is told", async () => {
  const { page } = await openFixture(browser, {
    hash: run(2),
    prepare: (fixture) => {
      const workflow_id = fixture.id(1)
      const id = fixture.put(2, {
        kind: 'handler',
        state: 'paused:reconciliation',
        workflow_id,
        session_id: 's',
      })
      const mutation = { id: 'm', tool: 'Http.send', params: {}, status: 'indeterminate', error: null }
      const run = { id, handler_type: 'consumer', phase: 'mutating', cost_microusd: 0, logs: [], events: [] }
      fixture.details[id] = {
        handler_runs: [{ ...run, mutation: { ...mutation, actions: ['failed', 'skipped'] } }],
      }
      fixture.answers[`workflows/${workflow_id}/mutations/m/resolve`] = {
        throw: { status: 409, code: 'illegal_transition', message: 'It is settled.' },
      }
    },
  })
  await page.getByRole('button', { name: 'Leave it' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByRole('button', { name: 'Leave it' }).click()
  await dialog.getByText('It is settled.').waitFor()
  expect(await dialog.locator('.trouble').count()).toBe(0)
  expect(await told(page)).toEqual([['mutations/m/resolve', { how: 'skipped' }]])
  await page.context().close()
})

test('a link to a run opens it cold; one to nobody knows what says why', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    prepare: (fixture) => {
      fixture.put(1, { kind: 'flow', progress_done: 1, progress_total: 3 })
      fixture.details[fixture.id(1)] = {
        prompts: ['Check the mail', { title: 'Events', prompt: 'List the events' }, 'Sum up'],
        prompt_results: [
          { index: 0, response: 'You have 4 unread messages.', error: null, duration_ms: 9800 },
        ],
      }
    },
  })
  await page.getByRole('heading', { name: 'Run 1' }).waitFor()
  const steps = page.locator('.steps > li')
  await expect.poll(() => steps.count()).toBe(3)
  expect(await steps.nth(0).innerText()).toContain('9.8 s')
  expect(await steps.nth(1).innerText()).toContain('being answered')
  await steps.nth(0).locator('summary').click()
  await page.getByText('You have 4 unread messages.').waitFor()
  await page.evaluate((hash) => {
    location.hash = hash
  }, run(99))
  await page.getByRole('heading', { name: 'No such run' }).waitFor()
  await page.getByText('It may have been purged, or belongs to someone else.').waitFor()
  await page.getByRole('link', { name: 'Runs' }).last().click()
  await page.getByRole('heading', { name: 'Runs' }).waitFor()
  await page.context().close()
})

test('id and link are copied, and that is announced', async () => {
  const { page } = await openFixture(browser, {
    hash: run(1),
    permissions: ['clipboard-read', 'clipboard-write'],
    prepare: (fixture) => {
      fixture.put(1)
    },
  })
  await page.getByRole('button', { name: 'Copy Id' }).click()
  await expect.poll(() => page.getByRole('status').innerText()).toBe('Id copied')
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(run(1).slice('#/runs/'.length))
  await page.getByRole('button', { name: 'Copy link' }).click()
  await expect.poll(() => page.evaluate(() => navigator.clipboard.readText())).toContain(run(1))
  await page.context().close()
})

test('a run is found, opened, stopped and left with the keyboard alone, back on its row', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      for (let n = 1; n <= 30; n++) fixture.put(n)
    },
  })
  await page.getByRole('link', { name: 'Run 30' }).waitFor()
  await page.keyboard.press('/')
  await page.keyboard.type('run 1')
  await expect.poll(async () => (await rowsOf(page)).length, { timeout: 5000 }).toBe(11)
  await page.keyboard.press('Escape')
  for (let turn = 0; turn < 3; turn++) await page.keyboard.press('j')
  const focused = () => page.evaluate(() => document.activeElement?.textContent)
  await expect.poll(focused).toBe('Run 17')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Run 17' }).waitFor()
  await page.keyboard.press('s')
  await page.getByRole('dialog').waitFor()
  await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  await expect.poll(async () => (await sent(page)).length).toBe(1)
  await page.getByText('stop requested').waitFor()
  await page.keyboard.press('u')
  await page.getByRole('heading', { name: 'Runs' }).waitFor()
  await expect.poll(focused).toBe('Run 17')
  expect(page.url()).toContain('q=run+1')
  await page.context().close()
})

test('two hundred rows down with j, and far scrolled, the focus stays on its row', async () => {
  const { page } = await openFixture(browser, {
    hash: '#/?window=all',
    prepare: (fixture) => fixture.fill(600),
  })
  await page.getByRole('link', { name: 'Run 1', exact: true }).waitFor()
  for (let turn = 0; turn < 200; turn++) await page.keyboard.press('j')
  const focused = () => page.evaluate(() => document.activeElement?.textContent)
  await expect.poll(focused).toBe('Run 200')
  const runs = page.getByRole('region', { name: 'List of runs' })
  await runs.evaluate((element) => {
    element.scrollTop = 0
  })
  await page.getByRole('link', { name: 'Run 1', exact: true }).waitFor()
  expect(await focused()).toBe('Run 200')
  await inFixture(page, (fixture) => {
    for (let n = 700; n < 720; n++) fixture.put(n)
    fixture.tell()
  })
  await page.getByRole('button', { name: '20 new runs' }).waitFor()
  expect(await focused()).toBe('Run 200')
  expect((await rowsOf(page)).length).toBeLessThanOrEqual(60)
  await page.context().close()
})

test('shortcuts are silent while somebody types, with modifiers, and when they are off', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1)
    },
  })
  await page.getByRole('link', { name: 'Run 1' }).waitFor()
  const pressed = () => page.getByRole('button', { name: 'Pause' }).getAttribute('aria-pressed')
  await page.getByRole('searchbox').focus()
  await page.keyboard.type('p')
  expect(await pressed()).toBe('false')
  await page.getByRole('searchbox').fill('')
  await page.getByRole('searchbox').blur()
  await page.keyboard.press('Control+p')
  await page.keyboard.press('Alt+p')
  expect(await pressed()).toBe('false')
  await page.keyboard.press('p')
  await expect.poll(pressed).toBe('true')
  await page.keyboard.press('p')
  await page.keyboard.press('?')
  await page.getByRole('checkbox', { name: 'Shortcuts of a single key' }).uncheck()
  await page.keyboard.press('Escape')
  await page.keyboard.press('p')
  expect(await pressed()).toBe('false')
  await page.context().close()
})
