import { query } from "@platform/postgres";
import type { Platform } from "../../platform.ts";

/** Chunks that no open upload waits for stay this long, so that the next publish need not send them, days. */
const keepDays = 7;
const mostAtOnce = 1000;

/**
 * Removes uploads that nobody finished and chunks that nobody used for a while. A row goes before its file:
 * what a crash between the two leaves is a file that nobody counts on, which the next use writes again.
 */
export async function tidyUploads(platform: Platform): Promise<void> {
  const { pool } = platform;
  await pool.query("delete from uploads where state = 'open' and expires_at < now()");
  const gone = await query<{ sha256: string }>(
    pool,
    `delete from upload_chunks c where (c.tenant_id, c.sha256) in (
       select u.tenant_id, u.sha256 from upload_chunks u
       where u.last_used_at < now() - make_interval(days => $1) and not exists (
         select 1 from uploads o, jsonb_array_elements(o.chunks) one
         where o.tenant_id = u.tenant_id and o.state = 'open' and one->>'sha256' = u.sha256)
       limit $2)
     returning c.sha256`,
    [keepDays, mostAtOnce],
  );
  if (gone.length === 0) return;
  const still = await query<{ sha256: string }>(
    pool,
    "select distinct sha256 from upload_chunks where sha256 = any($1::text[])",
    [gone.map((chunk) => chunk.sha256)],
  );
  const kept = new Set(still.map((chunk) => chunk.sha256));
  const free = gone.filter(({ sha256 }) => !kept.has(sha256)).map(({ sha256 }) => `sha256:${sha256}`);
  if (free.length > 0) await platform.host.removeChunks(free);
}
