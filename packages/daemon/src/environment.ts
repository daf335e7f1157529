/**
 * node-postgres and libpq obey `PG*` variables even when every option is given explicitly
 * (`PGSSLMODE`, `PGOPTIONS`, `PGPASSWORD`), so a long-running program drops them once, at start.
 */
export function clearInheritedPostgresSettings(environment: NodeJS.ProcessEnv = process.env): void {
  for (const name of Object.keys(environment)) if (name.startsWith("PG")) delete environment[name];
}
