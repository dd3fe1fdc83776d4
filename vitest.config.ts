import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    exclude: ['tests/browser/**', 'tests/bench/**'],
    globalSetup: ['tests/support/global_setup.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // Test files share one Postgres, each in a database of its own.
    maxWorkers: 2,
  },
})
