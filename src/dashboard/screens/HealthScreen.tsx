export function HealthScreen(_: Record<string, unknown>) {
  return null
}
