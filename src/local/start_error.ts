/** A reason not to start that the user can cure: its message is one line and names the cure. */
export class StartError extends Error {
  override name = 'StartError'
}

const free_space = 'Free some space, or set ROLLCALL_DIR to another disk.'

const cures: Record<string, string> = {
  EACCES: 'permission is missing. Run as the user who owns it, or set ROLLCALL_DIR to a directory of yours.',
  EPERM: 'permission is missing. Run as the user who owns it, or set ROLLCALL_DIR to a directory of yours.',
  EROFS: 'the file system is read-only. Set ROLLCALL_DIR to a directory that can be written.',
  ENOSPC: `the disk is full. ${free_space}`,
  EDQUOT: 'the disk quota is used up. Free some space, or set ROLLCALL_DIR to another disk.',
  ENOTDIR: 'a file is in the way. Set ROLLCALL_DIR to another directory.',
  ENOENT: 'it can not be made there. Set ROLLCALL_DIR to a directory of yours.',
  EEXIST: 'a file is in the way. Set ROLLCALL_DIR to another directory.',
}

/** Turns an error of the operating system, or a full disk that Postgres met, into a StartError that says the cure; others pass unchanged. */
export function curable(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof StartError) return error
  const { code, path } = error as NodeJS.ErrnoException
  // Postgres' own words, also in what initdb and the CLI print: they know of no errno.
  if (
    /No space left on device|Check free disk space|SQLSTATE 53100/.test(error.message) ||
    code === '53100'
  ) {
    return new StartError(`The disk is full: ${free_space}`, { cause: error })
  }
  const cure = code === undefined ? undefined : cures[code]
  return cure === undefined
    ? error
    : new StartError(`${path ?? 'The data directory'}: ${cure}`, { cause: error })
}
