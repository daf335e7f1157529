import type { Platform } from "../platform.ts";
import { loadBuild, setBuild, type BuildFailure, type BuildRow } from "./store.ts";

const failure: BuildFailure = {
  code: "BUILD_CANCELLED",
  message: "The build was cancelled. Publish again when you want one.",
  details: { step: "cancelled" },
};

/**
 * Ends a build that is not over: its boxes go, and with them whatever runs in them. The worker that holds it
 * meets the end of its box, looks again, and finds the build over.
 */
export async function cancelBuild(platform: Platform, row: BuildRow): Promise<BuildRow> {
  await setBuild(platform, row.id, { state: "cancelled", failure, finished_at: new Date() });
  const now = (await loadBuild(platform.pool, row.id))!;
  if (now.state !== "cancelled") return now;
  await platform.pool.query("update releases set state = 'failed' where id = $1 and state = 'pending'", [
    row.release_id,
  ]);
  await platform.pool.query(
    "update versions set state = 'failed' where id = $1 and state in ('created', 'building')",
    [row.version_id],
  );
  await Promise.all(["bd", "pf"].map((purpose) => platform.host.deleteBox(`${purpose}-${row.id}`)));
  return now;
}
