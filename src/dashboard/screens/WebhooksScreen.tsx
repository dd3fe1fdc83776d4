export function WebhooksScreen(_: Record<string, unknown>) {
  return null
}
