import { defineConfig } from 'vite'

// The commands in one file that needs nothing installed beside it.
export default defineConfig({
  publicDir: false,
  build: {
    ssr: 'src/cli/main.ts',
    outDir: 'dist',
    emptyOutDir: false,
    target: 'node20',
    rolldownOptions: { output: { entryFileNames: 'cli.js' } },
  },
  ssr: { noExternal: true },
})
