import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { defineConfig, type Plugin } from 'vite'

const root = import.meta.dirname

/**
 * Puts script and styles into the page, so that it is one file that any static host serves, and allows it to run these and
 * nothing else. Which project it may talk to is not known yet: whoever serves the page for one project narrows
 * `connect-src` (src/contract/dashboard.ts), and elsewhere the page itself does before its first request.
 */
const one_file: Plugin = {
  name: 'one-file',
  enforce: 'post',
  generateBundle(_options, bundle) {
    let js = ''
    let css = ''
    for (const [name, file] of Object.entries(bundle)) {
      if (file.type === 'chunk') js += file.code.trim()
      else if (name.endsWith('.css')) css += String(file.source).trim()
      else continue
      delete bundle[name]
    }
    const page = Object.values(bundle).find((file) => file.fileName.endsWith('.html'))
    if (page?.type !== 'asset') throw new Error('There is no page to put the script into.')
    // Only "</script" could end it early.
    const script = js.replaceAll('</script', '<\\/script')
    const policy = [
      "default-src 'none'",
      `script-src '${sha256(script)}'`,
      `style-src '${sha256(css)}'`,
      'img-src data:',
      'connect-src https: wss: http://localhost:* ws://localhost:* http://127.0.0.1:* ws://127.0.0.1:*',
      'worker-src blob:',
      "base-uri 'none'",
      "form-action 'none'",
    ].join('; ')
    const html = String(page.source)
      .replace(
        /\s*<(?:script type="module"|link rel="(?:stylesheet|modulepreload)")[^>]*>(?:<\/script>)?/g,
        '',
      )
      .replace(
        '<meta name="viewport"',
        () => `<meta http-equiv="Content-Security-Policy" content="${policy}">\n<meta name="viewport"`,
      )
      .replace('</head>', () => `<style>${css}</style>\n</head>`)
      .replace('</body>', () => `<script type="module">${script}</script>\n</body>`)
    page.fileName = 'index.html'
    page.source = html
  },
}

/**
 * Parts of Realtime's library that this page has no use for: presence, changes of tables, long polling, and sockets outside of
 * browsers. A name that a newer version wants beside these breaks the build, not the page.
 */
const unused: [file: RegExp, instead: string][] = [
  [/phoenix\/(?:longpoll|presence)\.js$/, 'export default class {}'],
  // Of what polls only how a URL gets its parameters.
  [
    /phoenix\/ajax\.js$/,
    `export default class {
      static appendParams(url, params) {
        const query = new URLSearchParams(params)
        return query.size > 0 ? url + (url.includes('?') ? '&' : '?') + query : url
      }
    }`,
  ],
  // Realtime brings a serializer of its own.
  [/phoenix\/serializer\.js$/, 'export default { encode() {}, decode() {} }'],
  [
    /RealtimePresence\.js$/,
    'export const REALTIME_PRESENCE_LISTEN_EVENTS = {}; export default class { state = {} }',
  ],
  [
    /RealtimePostgresFilterBuilder\.js$/,
    'export class RealtimePostgresFilterBuilder {}; export const postgresChangesFilter = null',
  ],
  [
    /realtime-js\/.*\/transformers\.js$/,
    'export const convertChangeData = null, convertColumn = null; export const httpEndpointURL = (url) => url',
  ],
  [
    /realtime-js\/.*\/websocket-factory\.js$/,
    'export default class { static getWebSocketConstructor() { return WebSocket } }',
  ],
]

const without_unused: Plugin = {
  name: 'without-unused',
  enforce: 'pre',
  load(id) {
    return unused.find(([file]) => file.test(id))?.[1]
  },
}

function sha256(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`
}

// `npm run build:dashboard`: dist/dashboard/index.html.
export default defineConfig({
  root: join(root, 'src', 'dashboard'),
  base: './',
  logLevel: 'warn',
  resolve: {
    alias: {
      // The client names two error classes of the big library; nothing else of it belongs into the page.
      '@supabase/supabase-js': '@supabase/functions-js',
      // As the modules it is made of, so that some can be left out.
      '@supabase/phoenix': join(root, 'node_modules/@supabase/phoenix/assets/js/phoenix/index.js'),
    },
  },
  // As it is published, whatever NODE_ENV says where it is built.
  define: { 'process.env.NODE_ENV': '"production"' },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact', development: false } },
  plugins: [without_unused, one_file],
  build: {
    outDir: join(root, 'dist', 'dashboard'),
    emptyOutDir: true,
    target: 'es2023',
    modulePreload: false,
    // The first that know light-dark().
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    cssMinify: true,
    reportCompressedSize: false,
  },
})
