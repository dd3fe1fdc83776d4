/** A reason not to start that the user can cure: its message is one line and names the cure. */
export class StartError extends Error {
  override name = 'StartError'
}

const cures: Record<string, string> = {
  EACCES: 'permission is missing. Run as the user who owns it, or set ROLLCALL_DIR to a directory of yours.',
  EPERM: 'permission is missing. Run as the user who owns it, or set ROLLCALL_DIR to a directory of yours.',
  EROFS: 'the file system is read-only. Set ROLLCALL_DIR to a directory that can be written.',
  ENOSPC: 'the disk is full. Free some space, or set ROLLCALL_DIR to another disk.',
  EDQUOT: 'the disk quota is used up. Free some space, or set ROLLCALL_DIR to another disk.',
  ENOTDIR: 'a file is in the way. Set ROLLCALL_DIR to another directory.',
  EEXIST: 'a file is in the way. Set ROLLCALL_DIR to another directory.',
}

/** Turns an error of the operating system into a StartError that says the cure; others pass unchanged. */
export function curable(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof StartError) return error
  const { code, path } = error as NodeJS.ErrnoException
  const cure = code === undefined ? undefined : cures[code]
  return cure === undefined
    ? error
    : new StartError(`${path ?? 'The data directory'}: ${cure}`, { cause: error })
}
