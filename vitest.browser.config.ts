import { defineConfig } from 'vitest/config'

// The tests that need a browser: Debian's Chromium, or the one at CHROMIUM_PATH.
export default defineConfig({
  test: {
    include: ['tests/browser/**/*.test.ts'],
    globalSetup: ['tests/support/global_setup.ts'],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    maxWorkers: 1,
  },
})
