import type { Catalog } from '../../client/live/source.ts'

/** The version of the database that this page was made for. */
export const SCHEMA_VERSION = 1

/** Says so where page and database are of different versions. */
export function VersionNotice({ catalog }: { catalog: Catalog | null }) {
  if (!catalog || catalog.schema_version === SCHEMA_VERSION) return null
  const is_newer = catalog.schema_version > SCHEMA_VERSION
  return (
    <div class="banner wait">
      <span>
        The database speaks version {catalog.schema_version}, this page {SCHEMA_VERSION}.{' '}
        {is_newer ? 'Load the page of the newer version.' : 'Push the newer migrations.'} Some of what you see
        may be missing.
      </span>
      {is_newer && (
        <button type="button" onClick={() => location.reload()}>
          Reload
        </button>
      )}
    </div>
  )
}
