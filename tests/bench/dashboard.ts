import { gzipSync } from 'node:zlib'
import type { Browser, CDPSession, Page } from 'playwright-core'
import { inFixture, launchBrowser, openFixture, publishedPage } from '../support/dashboard.ts'

// npm run bench:dashboard [-- --soak <minutes>]: what the page costs with 10,000 runs in its list while many of them change. The
// made-up server works in the same page, so what it costs is in the numbers: they are upper bounds.

type Figure = { name: string; value: string; limit: string; is_within: boolean }

const figures: Figure[] = []

function note(name: string, value: number, limit: number, unit: string): void {
  const text = `${Math.round(value * 10) / 10} ${unit}`
  figures.push({ name, value: text, limit: `${limit} ${unit}`, is_within: value <= limit })
  console.log(`${value <= limit ? 'ok  ' : 'OVER'} ${name}: ${text} (limit ${limit} ${unit})`)
}

async function metrics(cdp: CDPSession): Promise<Record<string, number>> {
  const { metrics: all } = await cdp.send('Performance.getMetrics')
  return Object.fromEntries(all.map(({ name, value }) => [name, value]))
}

/** Opens the list and loads all 10,000 rows into it. */
async function openFull(browser: Browser): Promise<{ page: Page; cdp: CDPSession }> {
  const { page } = await openFixture(browser, {
    hash: '#/?window=all',
    prepare: (fixture) => {
      fixture.page_size = 200
      fixture.fill(9900)
      for (let n = 10_001; n <= 10_100; n++) fixture.put(n)
    },
  })
  const cdp = await page.context().newCDPSession(page)
  await cdp.send('Performance.enable')
  await page.locator('.runs .body .row').first().waitFor()
  await page.evaluate(async () => {
    window.fixture.counts = await window.fixture.countAll()
    const list = document.querySelector('.runs')
    if (!list) return
    while (document.body.innerText.includes('Load older')) {
      list.scrollTop = list.scrollHeight
      await new Promise((done) => setTimeout(done, 30))
    }
    list.scrollTop = 0
  })
  return { page, cdp }
}

/** So many changes a second of runs that are on screen, for so long; returns what that cost. */
async function changes(
  { page, cdp }: { page: Page; cdp: CDPSession },
  per_second: number,
  seconds: number,
): Promise<{ cost_ms_per_s: number; long_tasks: number }> {
  await page.evaluate((each) => {
    const state = window as unknown as { long: number; stop: () => void }
    state.long = 0
    const observer = new PerformanceObserver((list) => {
      state.long += list.getEntries().length
    })
    observer.observe({ entryTypes: ['longtask'] })
    let n = 0
    const timer = setInterval(() => {
      for (let turn = 0; turn < each; turn++) {
        n += 1
        const id = 10_001 + (n % 100)
        window.fixture.put(id, {
          state: window.fixture.row(id)?.state === 'running' ? 'starting' : 'running',
        })
      }
      window.fixture.tell()
    }, 100)
    state.stop = () => {
      clearInterval(timer)
      observer.disconnect()
    }
  }, per_second / 10)
  await page.waitForTimeout(2000)
  await page.evaluate(() => {
    const state = window as unknown as { long: number }
    state.long = 0
  })
  const before = await metrics(cdp)
  await page.waitForTimeout(seconds * 1000)
  const after = await metrics(cdp)
  const long_tasks = await page.evaluate(() => {
    const state = window as unknown as { long: number; stop: () => void }
    state.stop()
    return state.long
  })
  const spent = (name: string) => (after[name] ?? 0) - (before[name] ?? 0)
  const cost_ms_per_s =
    ((spent('ScriptDuration') + spent('LayoutDuration') + spent('RecalcStyleDuration')) * 1000) / seconds
  return { cost_ms_per_s, long_tasks }
}

const browser = await launchBrowser()
try {
  note('page, gzip', gzipSync(await publishedPage(), { level: 9 }).length / 1024, 45, 'KB')

  {
    const { page } = await openFixture(browser)
    const cdp = await page.context().newCDPSession(page)
    await cdp.send('Emulation.setCPUThrottlingRate', { rate: 4 })
    await page.evaluate(() => {
      window.fixture.fill(200)
    })
    await page.reload()
    const boot_ms = await page.evaluate(async () => {
      window.fixture.delays = { list: 400 }
      window.fixture.fill(200)
      const seen = new Promise<number>((done) => {
        new MutationObserver((_records, observer) => {
          if (!document.querySelector('.skeleton')) return
          observer.disconnect()
          done(performance.now())
        }).observe(document.body, { childList: true, subtree: true })
      })
      const mounted_at = performance.now()
      const script = performance.getEntriesByType('navigation')[0] as PerformanceNavigationTiming
      dispatchEvent(new Event('rollcall-mount'))
      // Parsing and running the script, and drawing; not what this test did in between.
      return script.domInteractive - script.responseEnd + ((await seen) - mounted_at)
    })
    note('boot to the skeleton, CPU 4x slower', boot_ms, 500, 'ms')
    const rows_ms = await page.evaluate(async () => {
      while (!document.querySelector('.runs .body .row')) await new Promise(requestAnimationFrame)
      const list = window.fixture.requests.find(({ method }) => method === 'list')
      return Date.now() - ((list?.at ?? Date.now()) + 400)
    })
    note('first rows after their data, CPU 4x slower', rows_ms, 200, 'ms')
    await page.context().close()
  }

  const full = await openFull(browser)
  const shown = await full.page.evaluate(() => ({
    rows: document.querySelectorAll('.runs .body .row').length,
    nodes: document.querySelectorAll('*').length,
  }))
  note('rows in the document', shown.rows, 60, 'rows')
  note('nodes in the document', shown.nodes, 2500, 'nodes')
  const calm = await changes(full, 100, 30)
  note('100 changes/s for 30 s: script, style and layout', calm.cost_ms_per_s, 120, 'ms/s')
  note('100 changes/s for 30 s: tasks over 50 ms', calm.long_tasks, 0, 'tasks')

  await full.cdp.send('Emulation.setCPUThrottlingRate', { rate: 4 })
  const slow = await changes(full, 100, 15)
  note('100 changes/s, CPU 4x slower: script, style and layout', slow.cost_ms_per_s, 400, 'ms/s')
  await full.cdp.send('Emulation.setCPUThrottlingRate', { rate: 1 })

  const burst = changes(full, 1000, 8)
  await full.page.waitForTimeout(4000)
  const click_ms = await full.page.evaluate(async () => {
    const button = [...document.querySelectorAll('button')].find(
      ({ textContent }) => textContent === 'Follow',
    )
    const started_at = performance.now()
    button?.click()
    while (button?.getAttribute('aria-pressed') !== 'true') await new Promise(requestAnimationFrame)
    return performance.now() - started_at
  })
  await burst
  note('1,000 changes/s: answer to a click', click_ms, 200, 'ms')
  const is_equal = async () =>
    full.page.evaluate(() =>
      [...document.querySelectorAll<HTMLElement>('.runs .body .row')].every((row) => {
        const n = Number(row.dataset.id?.slice(-12))
        return row.querySelector('.word')?.textContent === window.fixture.row(n)?.state
      }),
    )
  await full.page.waitForTimeout(3000)
  note('1,000 changes/s: rows that differ from the server afterwards', (await is_equal()) ? 0 : 1, 0, 'lists')

  const at = process.argv.indexOf('--soak')
  const minutes = at > 0 ? Number(process.argv[at + 1]) : 1
  await full.cdp.send('HeapProfiler.collectGarbage')
  const heap_before = (await metrics(full.cdp)).JSHeapUsedSize ?? 0
  // The made-up server's own log and requests are no part of the page.
  await changes(full, 100, minutes * 60 - 2)
  await inFixture(full.page, (fixture) => {
    fixture.requests.length = 0
  })
  await full.cdp.send('HeapProfiler.collectGarbage')
  const heap_after = (await metrics(full.cdp)).JSHeapUsedSize ?? 0
  note(`heap after ${minutes} min of 100 changes/s`, (heap_after - heap_before) / 1_048_576, 20, 'MB more')
} finally {
  await browser.close()
}
process.exitCode = figures.every(({ is_within }) => is_within) ? 0 : 1
