export function TimingScreen(_: Record<string, unknown>) {
  return null
}
