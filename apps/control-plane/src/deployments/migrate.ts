import { faultPoint } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { loadDatabase, mainDatabaseOf } from "../databases/index.ts";
import { recordIn } from "../events/index.ts";
import { transaction } from "@platform/postgres";
import { migrationsOf } from "../releases/index.ts";
import type { Failure } from "./instances.ts";
import type { Move } from "./move.ts";
import { eventOf } from "./store.ts";

/**
 * Runs what the release recorded on the deployment's database, before anything of the release starts. A promote
 * only: to go back un-runs nothing. Done once for a promotion; a repeat after a crash does what is left.
 *
 * @returns why the promote fails, or `null`
 */
export async function runMigrations({
  platform,
  row,
  promotion,
  release,
  signal,
}: Move): Promise<Failure | null> {
  if (promotion.kind !== "promote" || promotion.migrated_at !== null) return null;
  const files = await migrationsOf(platform.pool, release.id);
  if (files.length === 0) return null;
  const databaseId = await mainDatabaseOf(platform, { type: "deployment", id: row.id });
  const database = databaseId ? await loadDatabase(platform.pool, databaseId) : null;
  if (!database)
    return failure(
      "no_database",
      "The release has migrations, and the deployment no database. Attach one, or publish without migrations_path.",
    );
  let done;
  try {
    done = await platform.host.migrateDatabase(database.host_key, { files }, signal);
  } catch (error) {
    if (!(error instanceof HostError) || !["UNSUPPORTED", "CONFLICT", "NOT_FOUND"].includes(error.code))
      throw error;
    return failure(
      "database_unavailable",
      `The database ${database.name} takes no migrations now: ${error.message}`,
    );
  }
  faultPoint("control-plane.deployment.migrated");
  if (done.failed) {
    const { name, reason, code, message, position } = done.failed;
    const kept = done.applied.length > 0 ? ` Before it ${done.applied.join(", ")} ran and stay.` : "";
    return failure(reason, `${name}: ${message}${kept} What serves goes on serving.`, {
      ...{ migration: name, applied: done.applied, sql_state: code, position },
    });
  }
  await transaction(platform.pool, async (db) => {
    await db.query("update promotions set migrated_at = now() where id = $1", [promotion.id]);
    if (done.applied.length > 0)
      await recordIn(
        db,
        eventOf(row, "deployment.migrated", {
          ...{ release_id: release.id, database_id: database.id, migrations: done.applied },
        }),
      );
  });
  return null;
}

const failure = (reason: string, message: string, details: Record<string, unknown> = {}): Failure => ({
  code: "MIGRATION_FAILED",
  message,
  details: { reason, ...details },
});
