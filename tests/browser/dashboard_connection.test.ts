import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inFixture, launchBrowser, openFixture } from '../support/dashboard.ts'

let browser: Browser

beforeAll(async () => {
  browser = await launchBrowser()
})

afterAll(() => browser?.close())

/** One run that is running, with the clock in the hands of the test. */
async function openOne(more: Parameters<typeof openFixture>[1] = {}): Promise<Page> {
  const { page } = await openFixture(browser, {
    clock: true,
    prepare: (fixture) => {
      fixture.put(1)
    },
    ...more,
  })
  await page.clock.runFor(1500)
  await page.locator('.runs [data-id$="1"]').waitFor()
  return page
}

/** Lets the page's time pass, with room for what is answered meanwhile. */
async function pass(page: Page, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 1000) await page.clock.runFor(Math.min(1000, left))
}

async function setHidden(page: Page, is_hidden: boolean): Promise<void> {
  await page.evaluate((hidden) => {
    Object.defineProperty(document, 'visibilityState', {
      value: hidden ? 'hidden' : 'visible',
      configurable: true,
    })
    document.dispatchEvent(new Event('visibilitychange'))
  }, is_hidden)
}

const chip = (page: Page) => page.locator('.chip').innerText()
const requests = (page: Page) => inFixture(page, (fixture) => fixture.count())

test('without a single push the state is right within 15 s', async () => {
  const page = await openOne()
  await inFixture(page, (fixture) => {
    fixture.put(1, { state: 'completed' })
  })
  await pass(page, 16_000)
  await page.locator('.runs [data-id$="1"]').getByText('completed').waitFor()
  await page.context().close()
})

test('without a live connection it says so, reads every 5 s, and is live again afterwards', async () => {
  const page = await openOne()
  await expect.poll(() => chip(page)).toContain('Live')
  await inFixture(page, (fixture) => fixture.setFeed(false))
  await pass(page, 1000)
  await expect.poll(() => chip(page)).toContain('Polling')
  await page.getByText('Updating every 5 s (no live connection).').waitFor()
  const before = await inFixture(page, (fixture) => fixture.count('changes'))
  await pass(page, 20_000)
  const reads = (await inFixture(page, (fixture) => fixture.count('changes'))) - before
  expect(reads).toBeGreaterThanOrEqual(3)
  expect(reads).toBeLessThanOrEqual(5)
  await inFixture(page, (fixture) => fixture.setFeed(true))
  await pass(page, 1000)
  await expect.poll(() => chip(page)).toContain('Live')
  await page.context().close()
})

test('slow answers never overlap, whatever is pushed meanwhile', async () => {
  const page = await openOne()
  await inFixture(page, (fixture) => {
    fixture.most_running = 0
    fixture.delays = { changes: 3000, get: 3000, counts: 3000, list: 3000 }
  })
  for (let n = 0; n < 20; n++) {
    await inFixture(page, (fixture) => {
      fixture.put(1, { last_heartbeat_at: new Date().toISOString() })
      fixture.tell()
    })
    await pass(page, 1000)
  }
  expect(await inFixture(page, (fixture) => fixture.most_running)).toBe(1)
  await page.context().close()
})

test('a project that fails is asked less and less, and the page says how old its data is', async () => {
  const page = await openOne()
  await inFixture(page, (fixture) => {
    const fault = { status: 503, code: 'unavailable', message: 'Down.' }
    fixture.faults = { changes: fault, get: fault, counts: fault, list: fault, catalog: fault }
    fixture.requests.length = 0
  })
  await pass(page, 120_000)
  expect(await requests(page)).toBeLessThan(20)
  await expect.poll(() => chip(page)).toContain('Stale')
  await page.getByText(/Showing data from (1|2) m \d\d s ago/).waitFor()
  expect(await page.locator('.runs [data-id$="1"]').count()).toBe(1)
  // At one moment: the page tries again by itself, too, and has no such button then.
  await expect
    .poll(() =>
      inFixture(page, (fixture) => {
        const button = [...document.querySelectorAll('button')].find((it) => it.textContent === 'Retry now')
        if (button) fixture.faults = {}
        button?.click()
        return button !== undefined
      }),
    )
    .toBe(true)
  await pass(page, 2000)
  await expect.poll(() => chip(page)).toContain('Live')
  await page.context().close()
})

test('a hidden page asks nothing, and reads everything once when it is seen again', async () => {
  const page = await openOne()
  await setHidden(page, true)
  await inFixture(page, (fixture) => {
    fixture.requests.length = 0
    fixture.put(1, { state: 'completed' })
    fixture.tell()
  })
  await pass(page, 120_000)
  expect(await requests(page)).toBe(0)
  await setHidden(page, false)
  await pass(page, 1500)
  await page.locator('.runs [data-id$="1"]').getByText('completed').waitFor()
  expect(await inFixture(page, (fixture) => fixture.count('changes'))).toBeLessThanOrEqual(2)
  await page.context().close()
})

test('an idle page asks at most eight times a minute', async () => {
  const page = await openOne({
    prepare: (fixture) => {
      fixture.put(1, { state: 'completed' })
    },
  })
  await pass(page, 10_000)
  await inFixture(page, (fixture) => {
    fixture.requests.length = 0
  })
  await pass(page, 180_000)
  expect(await requests(page)).toBeLessThanOrEqual(24)
  await page.context().close()
})

test('after ten minutes of sleep one read brings everything up to date', async () => {
  const page = await openOne()
  await inFixture(page, (fixture) => {
    fixture.put(1, { state: 'failed', error_code: 'HEARTBEAT_LOST' })
  })
  await page.clock.fastForward(600_000)
  await pass(page, 3000)
  await page.locator('.runs [data-id$="1"]').getByText('HEARTBEAT_LOST').waitFor()
  await expect.poll(() => chip(page)).toContain('Live')
  await page.context().close()
})

test.each([-600_000, 600_000])(
  'a clock that is wrong by %i ms makes no age wrong, and none negative',
  async (skew_ms) => {
    const { page } = await openFixture(browser, { clock: true })
    await page.evaluate((skew) => {
      window.fixture.skew_ms = skew
      window.fixture.put(1)
      window.fixture.tell()
    }, skew_ms)
    await pass(page, 20_000)
    const cell = page.locator('.runs [data-id$="1"] .c-in-state')
    expect(await cell.innerText()).toMatch(/^(1\d|2\d) s$/)
    await page.context().close()
  },
)

test('who is signed out keeps what is there, marked as old', async () => {
  const page = await openOne()
  await inFixture(page, (fixture) => {
    fixture.faults = { changes: { status: 401, code: 'unauthorized' } }
  })
  await pass(page, 16_000)
  await expect.poll(() => chip(page)).toContain('Signed out')
  await page.getByText('Session expired.').waitFor()
  expect(await page.getByRole('link', { name: 'Sign in' }).getAttribute('href')).toBe('#/connect')
  expect(await page.locator('.runs [data-id$="1"]').count()).toBe(1)
  await page.context().close()
})

test('a part that fails shows its own error, and the rest lives on', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.put(1)
      fixture.faults = { counts: { status: 500, message: 'Counting broke.' } }
    },
  })
  await page.getByRole('link', { name: 'Run 1' }).waitFor()
  const problem = page.getByRole('alert')
  await problem.getByText('Counting broke.').waitFor()
  await inFixture(page, (fixture) => {
    fixture.faults = {}
  })
  await problem.getByRole('button', { name: 'Try again' }).click()
  await page.locator('.tile', { hasText: 'Working' }).getByText('1').waitFor()
  await inFixture(page, (fixture) => {
    fixture.faults = { timing: { status: 404 }, failures: { status: 403 } }
  })
  await page.getByRole('link', { name: 'Timing' }).click()
  await page.getByText('its migrations may be older').waitFor()
  await page.getByText('You have no right to see this.').waitFor()
  await page.context().close()
})

test('a list that takes too long says what to leave out; one without rights says who may see it', async () => {
  const { page } = await openFixture(browser, {
    hash: '#/?q=abc&window=all',
    prepare: (fixture) => {
      fixture.faults = { list: { status: 500, message: 'canceling statement due to statement timeout' } }
    },
  })
  await page.getByText('too broad to answer in 3 s').waitFor()
  await page.getByText('Leave out the search').waitFor()
  await inFixture(page, (fixture) => {
    fixture.faults = { list: { status: 403 } }
  })
  await page.getByRole('button', { name: 'Try again' }).click()
  await page.getByText('You can see no runs in this project.').waitFor()
  await page.context().close()
})

test('paused, changes are counted and wait; resumed, the list is what the server has', async () => {
  const page = await openOne({
    prepare: (fixture) => {
      for (let n = 1; n <= 3; n++) fixture.put(n)
    },
  })
  await page.getByRole('button', { name: 'Pause' }).click()
  await inFixture(page, (fixture) => {
    fixture.put(1, { state: 'completed' })
    fixture.put(2, { state: 'failed' })
    fixture.tell()
  })
  await pass(page, 3000)
  await page.getByText(/Paused at \d\d:\d\d:\d\d – 2 changes waiting/).waitFor()
  expect(await page.locator('.runs .body .working').count()).toBe(3)
  await page.getByRole('button', { name: 'Resume' }).click()
  await pass(page, 1000)
  await expect.poll(() => page.locator('.runs .body .working').count()).toBe(1)
  await page.context().close()
})

test('a database of another version is told', async () => {
  const { page } = await openFixture(browser, {
    prepare: (fixture) => {
      fixture.schema_version = 3
    },
  })
  await page.getByText('The database speaks version 3, this page 1.').waitFor()
  await page.getByRole('button', { name: 'Reload' }).waitFor()
  await page.context().close()
})

test('a slow first load keeps its place, and says that it is slow after 3 s', async () => {
  const { page } = await openFixture(browser, {
    clock: true,
    prepare: (fixture) => {
      fixture.delays = { list: 60_000 }
    },
  })
  await page.clock.runFor(500)
  await page.locator('.list[aria-busy=true] .skeleton').waitFor()
  expect(await page.getByText('Still loading').count()).toBe(0)
  await pass(page, 4000)
  await page.getByText('Still loading').waitFor()
  await page.context().close()
})
