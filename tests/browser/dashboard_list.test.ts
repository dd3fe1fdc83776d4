import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inFixture, launchBrowser, openFixture, rowsOf } from '../support/dashboard.ts'

let browser: Browser

beforeAll(async () => {
  browser = await launchBrowser()
})

afterAll(() => browser?.close())

test('a first load shows the runs, newest first, and is live', async () => {
  const { page, complaints } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1, { state: 'completed' })
      fixture.put(2)
    },
  })
  await page.getByRole('link', { name: 'Run 2' }).waitFor()
  await page.locator('.chip', { hasText: 'Live' }).waitFor()
  expect((await rowsOf(page)).map(({ id }) => id.at(-1))).toEqual(['2', '1'])
  expect(complaints).toEqual([])
  await page.context().close()
})

test('a project without runs says how to begin, and shows the first run by itself', async () => {
  const { page } = await openFixture(browser)
  await page.getByText('No runs yet.').waitFor()
  await page.getByText('/functions/v1/join').waitFor()
  await inFixture(page, (fixture) => {
    fixture.put(1)
    fixture.tell()
  })
  await page.getByRole('link', { name: 'Run 1' }).waitFor()
  await page.context().close()
})

test('a filter that nothing matches says so, and Clear shows everything again', async () => {
  const { page } = await openFixture(browser, {
    hash: '#/?state=failed',
    prepare: (fixture) => {
      fixture.put(1)
    },
  })
  await page.getByText('No runs match').waitFor()
  await page.getByText('in the last 24 h').waitFor()
  await page.getByRole('button', { name: 'Search all time' }).waitFor()
  await page.getByRole('button', { name: 'Clear filters' }).click()
  await page.getByRole('link', { name: 'Run 1' }).waitFor()
  await page.context().close()
})

test('counts equal the rows and act as filters, which are in the address and go back', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1, { state: 'failed', error_stage: 'joining', error_code: 'JOIN_ROOM_TIMEOUT' })
      fixture.put(2)
      fixture.put(3)
      fixture.put(4, { kind: 'flow', progress_done: 1, progress_total: 3 })
    },
  })
  const tile = (name: string) => page.locator('.tile', { hasText: name })
  await expect.poll(() => tile('Working').locator('.number').innerText()).toBe('3')
  await expect.poll(async () => (await rowsOf(page)).length).toBe(4)
  await page.getByRole('button', { name: 'Bots' }).click()
  await page.locator('.tile', { hasText: 'running' }).click()
  await expect.poll(async () => (await rowsOf(page)).length).toBe(2)
  expect(page.url()).toContain('#/?kind=bot&state=running')
  expect(await page.locator('.tile[aria-pressed=true]').innerText()).toContain('running')
  await page.reload()
  await page.evaluate(() => {
    window.fixture.put(1, { state: 'failed' })
    window.fixture.put(2)
    dispatchEvent(new Event('rollcall-mount'))
  })
  await page.getByRole('link', { name: 'Run 2' }).waitFor()
  expect((await rowsOf(page)).length).toBe(1)
  await page.goBack()
  await expect.poll(() => page.url()).not.toContain('state=')
  await expect.poll(async () => (await rowsOf(page)).length).toBe(2)
  await page.context().close()
})

test('a transition changes the row where it is', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      for (let n = 1; n <= 5; n++) fixture.put(n)
    },
  })
  await page.getByRole('link', { name: 'Run 3' }).waitFor()
  const row = page.locator('[data-id$="3"]').first()
  await row.evaluate((element) => element.setAttribute('data-mark', 'same'))
  const before = await row.boundingBox()
  await inFixture(page, (fixture) => {
    fixture.put(3, { state: 'completed' })
    fixture.tell()
  })
  await row.getByText('completed').waitFor()
  expect(await row.boundingBox()).toEqual(before)
  expect(await row.getAttribute('data-mark')).toBe('same')
  await page.context().close()
})

test('new runs are counted, up to 99+, and come with a click', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1)
    },
  })
  await page.getByRole('link', { name: 'Run 1' }).waitFor()
  await inFixture(page, (fixture) => {
    fixture.put(2)
    fixture.tell()
  })
  await page.getByRole('button', { name: '1 new run' }).waitFor()
  expect((await rowsOf(page)).length).toBe(1)
  await inFixture(page, (fixture) => {
    for (let n = 3; n < 130; n++) fixture.put(n)
    fixture.tell()
  })
  await page.getByRole('button', { name: '99+ new runs' }).click()
  await page.getByRole('link', { name: 'Run 129', exact: true }).waitFor()
  expect(await page.getByRole('button', { name: 'new run' }).count()).toBe(0)
  await page.context().close()
})

test('Follow adds runs by itself, but waits while the pointer or the focus is in the table', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      for (let n = 1; n <= 3; n++) fixture.put(n)
    },
  })
  const link = page.getByRole('link', { name: 'Run 3' })
  await link.waitFor()
  await page.getByRole('button', { name: 'Follow' }).click()
  await inFixture(page, (fixture) => {
    fixture.put(4)
    fixture.tell()
  })
  await page.getByRole('link', { name: 'Run 4' }).waitFor()
  await link.focus()
  await inFixture(page, (fixture) => {
    fixture.put(5)
    fixture.tell()
  })
  await page.getByRole('button', { name: '1 new run' }).waitFor()
  expect(await link.evaluate((element) => element === document.activeElement)).toBe(true)
  await page.getByRole('button', { name: 'Follow' }).focus()
  await page.getByRole('link', { name: 'Run 5' }).waitFor()
  await page.context().close()
})

test('a run pushed twice, late or out of order never goes back', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1)
    },
  })
  const row = page.locator('.runs [data-id$="1"]')
  await row.getByText('running').waitFor()
  await inFixture(page, (fixture) => {
    fixture.put(1, { state: 'completed' })
    fixture.tell()
    fixture.tell()
  })
  await row.getByText('completed').waitFor()
  // The server answers with an old row: a replica that is behind.
  await inFixture(page, (fixture) => {
    const held = fixture.row(1)
    if (held) Object.assign(held, { state: 'running', finished_at: null, version: 1 })
    fixture.tell({ event_id: 1, subject_id: fixture.id(1) })
    fixture.put(2)
    fixture.tell()
  })
  await page.getByRole('button', { name: '1 new run' }).waitFor()
  expect(await row.innerText()).toContain('completed')
  await page.context().close()
})

test('progress is shown as it is, and never more than all of it', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      const flow = (n: number, done: number | null, total: number | null, more = {}) =>
        fixture.put(n, {
          kind: 'flow',
          name: `Flow ${n}.`,
          progress_done: done,
          progress_total: total,
          ...more,
        })
      flow(1, 0, 7)
      flow(2, 3, 7)
      flow(3, 7, 7, { state: 'completed' })
      flow(4, 8, 7, { state: 'completed' })
      flow(5, 0, 0)
      flow(6, 2, null)
      flow(7, 3, 7, { state: 'failed', error_code: 'AGENT_ERROR' })
      flow(8, 5, 7, { state: 'completed' })
    },
  })
  const bar = (n: number) => page.locator(`.runs [data-id$="${n}"] .c-progress`)
  await bar(1).getByText('0/7').waitFor()
  const words = (n: number) => bar(n).getByRole('progressbar').getAttribute('aria-valuetext')
  expect(await words(1)).toBe('0 of 7 steps done')
  expect(await words(2)).toBe('3 of 7 steps done')
  expect(await bar(3).innerText()).toBe('7/7')
  expect(await bar(4).innerText()).toBe('7/7')
  expect(await bar(5).innerText()).toBe('no steps')
  expect(await bar(6).getByRole('progressbar').getAttribute('aria-valuenow')).toBeNull()
  expect(await bar(7).innerText()).toBe('failed at step 4 of 7')
  expect(await bar(8).innerText()).toBe('5/7')
  expect(await bar(8).getByRole('progressbar').getAttribute('aria-valuenow')).toBe('71')
  await page.context().close()
})

test('time in a state ticks, and stands still once the run has ended', async () => {
  const { page } = await openFixture(browser, {
    clock: true,
    prepare: (fixture) => {
      fixture.put(1)
    },
  })
  const cell = page.locator('.runs [data-id$="1"] .c-in-state')
  await cell.waitFor()
  await page.clock.runFor(65_000)
  await expect.poll(() => cell.innerText()).toMatch(/^1 m 0\d s$/)
  await inFixture(page, (fixture) => {
    fixture.put(1, { state: 'completed' })
    fixture.tell()
  })
  await page.clock.runFor(1000)
  await expect.poll(() => cell.innerText()).toMatch(/^took 1 m 0\d s$/)
  const ended = await cell.innerText()
  await page.clock.runFor(30_000)
  expect(await cell.innerText()).toBe(ended)
  await page.context().close()
})

test('what is stuck is said with its rule in the list, the counts and the filter, until it goes on', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1, { stuck_rule: 'no_heartbeat' })
      fixture.put(2)
    },
  })
  const attention = page.getByRole('region', { name: 'Needs attention' })
  await attention.getByText('said nothing for more than 120 s').waitFor()
  const stuck = page.locator('.tile', { hasText: 'Stuck' })
  expect(await stuck.locator('.number').innerText()).toBe('1')
  expect(await page.locator('.runs .stuck').count()).toBe(1)
  expect(await page.title()).toContain('(1 stuck)')
  await stuck.click()
  await expect.poll(async () => (await rowsOf(page)).length).toBe(1)
  await inFixture(page, (fixture) => {
    fixture.put(1, { stuck_rule: null, last_heartbeat_at: new Date().toISOString() })
    fixture.tell()
  })
  // Counts are read every other second at most.
  await expect.poll(() => attention.count(), { timeout: 5000 }).toBe(0)
  expect(await page.locator('.runs .row.dim').count()).toBe(1)
  expect(await page.locator('.runs .stuck').count()).toBe(0)
  await page.context().close()
})

test('a state that nobody knows is shown as it is, and nothing can be done with it', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1, { state: 'hibernating', allowed_actions: ['stop'] })
    },
  })
  const badge = page.locator('.runs .state', { hasText: 'hibernating' })
  await badge.waitFor()
  expect(await badge.getAttribute('class')).toContain('unknown')
  await page.getByRole('link', { name: 'Run 1' }).click()
  await page.getByRole('heading', { name: 'Run 1' }).waitFor()
  expect(await page.getByRole('button', { name: 'Stop' }).count()).toBe(0)
  await page.context().close()
})

test('markup and megabytes in what runs say are text, and cut', async () => {
  const { page, complaints } = await openFixture(browser, {
    prepare: (fixture) => {
      const evil = '<img src=x onerror="window.broken = true">'
      const long = `${evil}${'x'.repeat(1_000_000)}`
      const id = fixture.put(1, {
        kind: 'flow',
        name: long,
        state: 'failed',
        error_code: 'AGENT_ERROR',
        error_message: evil,
        progress_done: 1,
        progress_total: 2,
        progress_label: evil,
      })
      fixture.put(2, { name: '\u202eمرحبا بالعالم 👩‍👩‍👧‍👦'.repeat(40) })
      fixture.details[id] = {
        prompts: [long, evil],
        prompt_results: [{ index: 0, response: long, error: null, duration_ms: 5 }],
        error_details: { html: evil },
      }
    },
  })
  const link = page.locator('.runs [data-id$="1"] a')
  await link.waitFor()
  expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBe(0)
  await link.click()
  await page.locator('.steps summary').first().click()
  await page.getByText('<img src=x', { exact: false }).first().waitFor()
  expect(await page.locator('img').count()).toBe(0)
  expect(await page.evaluate('window.broken')).toBeUndefined()
  const shown = await page.evaluate(() => document.body.innerText.length)
  expect(shown).toBeLessThan(200_000)
  expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBe(0)
  expect(complaints).toEqual([])
  await page.context().close()
})

test('10,000 runs are 60 rows at most, to the very end, and older ones come by themselves', async () => {
  const { page } = await openFixture(browser, {
    hash: '#/?window=all',
    prepare: (fixture) => {
      fixture.page_size = 200
      fixture.fill(10_000)
    },
  })
  const runs = page.getByRole('region', { name: 'List of runs' })
  await page.getByText('of 10,000').waitFor()
  const at_most = async () => {
    const { rows, nodes } = await page.evaluate(() => ({
      rows: document.querySelectorAll('.runs .body .row').length,
      nodes: document.querySelectorAll('*').length,
    }))
    expect(rows).toBeLessThanOrEqual(60)
    expect(nodes).toBeLessThanOrEqual(2500)
  }
  await at_most()
  let loaded = 0
  for (let turn = 0; turn < 400; turn++) {
    const [height, more] = await runs.evaluate((element) => {
      element.scrollTop = element.scrollHeight
      return [element.scrollHeight, document.body.innerText.includes('Load older')] as const
    })
    loaded = height
    if (!more) break
    await page.waitForFunction(
      (before) => {
        const list = document.querySelector('.runs')
        return (list?.scrollHeight ?? 0) > before || !document.body.innerText.includes('Load older')
      },
      height,
      { polling: 10 },
    )
  }
  expect(loaded).toBeGreaterThan(399_000)
  await expect.poll(async () => (await rowsOf(page)).at(-1)?.id.slice(-5)).toBe('10000')
  await at_most()
  await page.context().close()
})

test('the same 10,000 runs under a hundred changes a second end as the server has them', async () => {
  const { page } = await openFixture(browser, {
    hash: '#/?window=all',
    prepare: (fixture) => {
      fixture.fill(2000)
      for (let n = 3001; n <= 3040; n++) fixture.put(n)
    },
  })
  await page.getByRole('link', { name: 'Run 3040' }).waitFor()
  await inFixture(page, async (fixture) => {
    for (let round = 0; round < 20; round++) {
      for (let n = 3001; n <= 3040; n++) fixture.put(n, { last_heartbeat_at: new Date().toISOString() })
      for (let n = 0; n < 2; n++)
        fixture.put(3001 + round * 2 + n, { state: round % 2 ? 'completed' : 'failed' })
      fixture.tell()
      await new Promise((done) => setTimeout(done, 50))
    }
  })
  await expect.poll(() => page.locator('.runs .body .working').count(), { timeout: 10_000 }).toBe(0)
  const rows = await rowsOf(page)
  const expected = await inFixture(page, (fixture) =>
    Array.from({ length: 40 }, (_, index) => fixture.row(3040 - index)?.state),
  )
  const shown = rows.slice(0, 20).map(({ text }) => (text.startsWith('failed') ? 'failed' : 'completed'))
  expect(shown).toEqual(expected.slice(0, 20))
  await page.context().close()
})
