export function RunScreen(_: Record<string, unknown>) {
  return null
}
