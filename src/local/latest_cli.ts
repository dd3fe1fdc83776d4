/** The current major of the Supabase CLI. The lockfile holds the one before it, which every registry has complete. */
export const latest_cli_version = '3.1.0'

/** A command and its first arguments, which start that CLI through npm. The CLI's own arguments follow. */
export function latestCli(): [command: string, args: string[]] {
  // Under `npm run` this is the npm that was called; a bare `npm` is a batch file on Windows, which needs a shell.
  const npm = process.env.npm_execpath
  const exec = [
    'exec',
    '--yes',
    '--prefer-offline',
    `--package=supabase@${latest_cli_version}`,
    '--',
    'supabase',
  ]
  return npm ? [process.execPath, [npm, ...exec]] : ['npm', exec]
}
