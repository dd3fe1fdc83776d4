import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { inFixture, launchBrowser, openFixture, publishedPage } from '../support/dashboard.ts'
import type { Fixture } from './dashboard_fixture.ts'

const axe_source = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const run = (n: number) => `#/runs/00000000-0000-4000-8000-${String(n).padStart(12, '0')}`

let browser: Browser

beforeAll(async () => {
  browser = await launchBrowser()
})

afterAll(() => browser?.close())

/** What axe finds wrong. The policy of the page lets no script in but this way. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(`if (!window.axe) { ${axe_source} }`)
  return page.evaluate(async () => {
    type Axe = { run(options: object): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> }
    const { axe } = window as unknown as { axe: Axe }
    const found = await axe.run({
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    })
    return found.violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html }) => `${id}: ${html.slice(0, 160)}`),
    )
  })
}

const some_runs = (fixture: Fixture) => {
  for (let n = 1; n <= 12; n++) fixture.put(n)
  fixture.put(13, { state: 'starting', meeting_status: 'awaiting_admission', stuck_rule: 'no_heartbeat' })
  fixture.put(14, {
    state: 'failed',
    error_stage: 'joining',
    error_code: 'JOIN_ROOM_TIMEOUT',
    error_message: 'Late.',
  })
  fixture.put(15, { state: 'completed', reason: 'left_alone' })
  fixture.put(16, { kind: 'workflow', state: 'fixing' })
  fixture.put(17, { kind: 'handler', state: 'paused:transient' })
  const uncertain = fixture.put(20, { kind: 'workflow', state: 'error', error_code: 'MUTATION_UNCERTAIN' })
  fixture.details[uncertain] = {
    unresolved_mutation: {
      ...{ id: 'm', tool: 'Http.send', params: {}, status: 'indeterminate', error: 'timed out' },
      actions: ['failed', 'skipped', 'applied', 'ask_again'],
    },
    notifications: ['error', 'script_message'].map((type) => ({
      ...{ id: type, type, payload: { message: 'Look.' }, created_at: new Date().toISOString() },
    })),
  }
  fixture.put(18, { state: 'strange' })
  const id = fixture.put(19, { kind: 'flow', progress_done: 1, progress_total: 3, progress_label: 'Events' })
  fixture.details[id] = {
    prompts: ['Mail', 'Events', 'Sum'],
    prompt_results: [{ index: 0, response: 'Four.', error: null, duration_ms: 10 }],
  }
  fixture.answers['executions/active'] = {
    items: [{ id, latest_response: 'You have four unread messages.' }],
  }
  fixture.answers.webhooks = {
    items: [{ id: 'e', url: 'https://example.com/hook', events: ['*'], enabled: true, failing_since: null }],
  }
  fixture.answers['webhooks/deliveries'] = {
    items: ['pending', 'delivered', 'failed'].map((state, index) => ({
      id: String(index),
      state,
      type: 'bot.failed',
      subject_id: id,
      endpoint_id: 'e',
      url: null,
      attempts: index,
      last_status: 500,
      last_error: 'Answered 500.',
      next_attempt_at: new Date().toISOString(),
      created_at: new Date().toISOString(),
    })),
  }
  fixture.answers.work = {
    ok: false,
    checks: [
      { check: 'cron_jobs', ok: true, detail: 'all jobs are scheduled', cure: '' },
      { check: 'last_sweep', ok: false, detail: 'never', cure: 'Call lifecycle.sweep().' },
    ],
  }
  fixture.timelines[fixture.id(14)] = {
    transitions: [
      {
        id: 1,
        machine: 'bot',
        subject_id: fixture.id(14),
        seq: 1,
        from_status: null,
        to_status: 'pending',
        source: 'user',
        reason: null,
        error_stage: null,
        error_code: null,
        error_message: null,
        details: { asked: true },
        implied: false,
        occurred_at: null,
        created_at: new Date().toISOString(),
        duration_ms: 1200,
        p50_ms: 1000,
        p95_ms: 2000,
      },
    ],
  }
}

const broken = (fixture: Fixture) => {
  const fault = { status: 500, message: 'It broke.' }
  fixture.faults = {
    list: fault,
    counts: fault,
    catalog: fault,
    get: fault,
    timing: fault,
    failures: fault,
    call: fault,
  }
}

const screens: [name: string, hash: string, heading: string][] = [
  ['runs', '#/', 'Runs'],
  ['a failed run', run(14), 'Run 14'],
  ['a flow', run(19), 'Run 19'],
  ['a workflow that nobody knows of', run(20), 'Run 20'],
  ['timing', '#/timing', 'Timing'],
  ['webhooks', '#/webhooks', 'Webhooks'],
  ['health', '#/health', 'Health'],
]

describe.each(['light', 'dark'] as const)('axe finds nothing in %s', (colorScheme) => {
  test.each(screens)('on %s with data, stale and with a dialog', async (_name, hash, heading) => {
    const { page } = await openFixture(browser, { hash, colorScheme, prepare: some_runs })
    await page.getByRole('heading', { name: heading, level: 1 }).waitFor()
    await expect.poll(() => page.locator('[aria-busy=true]').count()).toBe(0)
    expect(await violations(page)).toEqual([])
    await inFixture(page, (fixture) => {
      fixture.faults = { changes: { status: 401 }, get: { status: 401 } }
      fixture.put(1)
      fixture.tell()
    })
    await page.getByText('Session expired.').waitFor()
    expect(await violations(page)).toEqual([])
    await page.keyboard.press('?')
    await page.getByRole('dialog').waitFor()
    expect(await violations(page)).toEqual([])
    await page.context().close()
  })

  test.each(screens.filter(([name]) => !name.startsWith('a ')))(
    'on %s without data, and with errors',
    async (_name, hash, heading) => {
      const { page } = await openFixture(browser, { hash, colorScheme })
      await page.getByRole('heading', { name: heading, level: 1 }).waitFor()
      await expect.poll(() => page.locator('[aria-busy=true]').count()).toBe(0)
      expect(await violations(page)).toEqual([])
      await page.context().close()
      const failing = await openFixture(browser, { hash, colorScheme, prepare: broken })
      await failing.page.getByRole('alert').first().waitFor()
      expect(await violations(failing.page)).toEqual([])
      await failing.page.context().close()
    },
  )

  test('where a run is stopped, where there is none, and where one signs in', async () => {
    const { page } = await openFixture(browser, { hash: run(1), colorScheme, prepare: some_runs })
    await page.getByRole('button', { name: 'Stop' }).click()
    await page.getByRole('dialog').getByText('In this state for').waitFor()
    expect(await violations(page)).toEqual([])
    await page.keyboard.press('Escape')
    await page.evaluate((hash) => {
      location.hash = hash
    }, run(20))
    await page.getByRole('button', { name: 'It happened' }).click()
    await page.getByRole('dialog').getByText('In this state for').waitFor()
    expect(await violations(page)).toEqual([])
    await page.keyboard.press('Escape')
    await page.evaluate((hash) => {
      location.hash = hash
    }, run(99))
    await page.getByRole('heading', { name: 'No such run' }).waitFor()
    expect(await violations(page)).toEqual([])
    await page.context().close()
    const context = await browser.newContext({ colorScheme })
    const connect = await context.newPage()
    const html = await publishedPage()
    await connect.route('**', (route) => route.fulfill({ contentType: 'text/html', body: html }))
    await connect.goto('https://dashboard.test/')
    await connect.getByRole('heading', { name: 'Connect to a project' }).waitFor()
    expect(await violations(connect)).toEqual([])
    await context.close()
  })
})

test('the live region sums up at most every 5 s, says nothing while paused, and less where that is set', async () => {
  const { page } = await openFixture(browser, {
    clock: true,
    prepare: (fixture) => {
      for (let n = 1; n <= 30; n++) fixture.put(n)
    },
  })
  await page.clock.runFor(2000)
  await page.getByRole('link', { name: 'Run 30' }).waitFor()
  await page.evaluate(() => {
    const told: { at: number; text: string }[] = []
    Object.assign(window, { told })
    const region = document.querySelector('[role=status]')
    if (!region) return
    new MutationObserver(() => {
      if (region.textContent) told.push({ at: Date.now(), text: region.textContent })
    }).observe(region, {
      childList: true,
      characterData: true,
      subtree: true,
    })
  })
  const told = () => page.evaluate(() => (window as unknown as { told: { at: number; text: string }[] }).told)
  await inFixture(page, (fixture) => {
    fixture.put(1, { state: 'failed' })
    fixture.put(2, { state: 'failed' })
    for (let n = 3; n <= 7; n++) fixture.put(n, { state: 'completed' })
    fixture.tell()
  })
  await page.clock.runFor(6000)
  await expect
    .poll(async () => (await told()).map(({ text }) => text))
    .toEqual(['2 runs failed, 5 completed'])
  for (let n = 8; n <= 20; n++) {
    await page.evaluate((id) => {
      window.fixture.put(id, { state: id % 2 ? 'completed' : 'failed' })
      window.fixture.tell()
    }, n)
    await page.clock.runFor(1000)
  }
  await page.clock.runFor(6000)
  const times = (await told()).map(({ at }) => at)
  for (let index = 1; index < times.length; index++)
    expect((times[index] ?? 0) - (times[index - 1] ?? 0)).toBeGreaterThanOrEqual(4900)
  const before = times.length
  expect(before).toBeLessThanOrEqual(5)
  await page.getByRole('button', { name: 'Pause' }).click()
  await inFixture(page, (fixture) => {
    fixture.put(21, { state: 'failed' })
    fixture.tell()
  })
  await page.clock.runFor(8000)
  expect((await told()).length).toBe(before)
  await page.context().close()
})

test('forced colours keep every sign, and reduced motion nothing that moves', async () => {
  const { page } = await openFixture(browser, {
    hash: run(19),
    forcedColors: 'active',
    reducedMotion: 'reduce',
    prepare: some_runs,
  })
  await page.getByRole('heading', { name: 'Run 19' }).waitFor()
  await page.locator('.badge.big').getByText('running').waitFor()
  expect(await page.evaluate(() => document.getAnimations().length)).toBe(0)
  await page.context().close()
  const moving = await openFixture(browser, {
    hash: run(19),
    reducedMotion: 'no-preference',
    prepare: some_runs,
  })
  await moving.page.locator('.badge.big .ring').waitFor({ state: 'attached' })
  expect(await moving.page.evaluate(() => document.getAnimations().length)).toBeGreaterThan(0)
  await moving.page.context().close()
})

test.each([360, 640])(
  'nothing is wider than the page at %i px, on any screen, and buttons are large enough',
  async (width) => {
    const { page } = await openFixture(browser, { viewport: { width, height: 740 }, prepare: some_runs })
    for (const [, hash, heading] of screens) {
      await page.evaluate((to) => {
        location.hash = to
      }, hash)
      await page.getByRole('heading', { name: heading, level: 1 }).waitFor()
      await expect.poll(() => page.locator('[aria-busy=true]').count()).toBe(0)
      expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), hash).toBe(0)
      const small = await page.locator('button:visible, select:visible').evaluateAll((elements) =>
        elements
          .map((element) => ({ box: element.getBoundingClientRect(), text: element.textContent }))
          .filter(({ box }) => box.height < 24 || box.width < 24)
          .map(({ text }) => text),
      )
      expect(small, hash).toEqual([])
    }
    await page.context().close()
  },
)

test('light, dark or as the system: chosen, and remembered', async () => {
  const { page } = await openFixture(browser, { colorScheme: 'dark', prepare: some_runs })
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
  await page.getByRole('link', { name: 'Run 1', exact: true }).waitFor()
  expect(await ground()).toBe('rgb(13, 17, 23)')
  await page.getByRole('button', { name: 'Theme: system' }).click()
  await expect.poll(ground).toBe('rgb(255, 255, 255)')
  await page.reload()
  await page.evaluate(() => dispatchEvent(new Event('rollcall-mount')))
  await page.getByRole('button', { name: 'Theme: light' }).click()
  await page.getByRole('button', { name: 'Theme: dark' }).waitFor()
  await expect.poll(ground).toBe('rgb(13, 17, 23)')
  await page.context().close()
})

test('a page has one heading, landmarks, and a link past its header', async () => {
  const { page } = await openFixture(browser, { prepare: some_runs })
  await page.getByRole('link', { name: 'Run 1', exact: true }).waitFor()
  expect(await page.locator('h1').count()).toBe(1)
  for (const role of ['banner', 'navigation', 'main', 'search'] as const)
    expect(await page.getByRole(role).count(), role).toBe(1)
  await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  expect(await page.evaluate(() => document.activeElement?.id)).toBe('main')
  expect(page.url()).not.toContain('main')
  const table = page.getByRole('table', { name: 'Runs' })
  expect(await table.getAttribute('aria-rowcount')).toBe('21')
  expect(await table.getByRole('columnheader').count()).toBe(10)
  await page.context().close()
})
