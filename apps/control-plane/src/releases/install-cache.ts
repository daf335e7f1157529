import { createHash } from "node:crypto";
import { HostError } from "@platform/host-api";
import { queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import type { Plan, Tree } from "./detect/index.ts";
import type { BuildLog, BuildRow } from "./store.ts";

/** Larger installs cost more to keep than to repeat, bytes. */
const largestKept = 2 * 1024 ** 3;

/**
 * What decides an install: its command and the files it reads. Caches are kept per tenant, as one that writes
 * them could else bring code into another's release.
 *
 * @returns null where something else decides too
 */
export async function installKey(plan: Plan, tree: Tree): Promise<string | null> {
  if (!plan.install || !plan.installs) return null;
  const hash = createHash("sha256");
  const add = (text: string) => hash.update(`${text.length}:`).update(text);
  for (const text of [process.version, process.arch, plan.root, plan.tools ?? "", plan.install]) add(text);
  for (const name of [...plan.installs.decidedBy].sort()) {
    const text = await tree.read(name);
    if (text === undefined && tree.paths.has(name)) return null;
    // A lockfile may lead to files of the app, which can change while it does not.
    if (/["' ](file|link|portal|workspace):/.test(text ?? "")) return null;
    add(name);
    add(text ?? "");
  }
  return hash.digest("hex");
}

/** @returns whether the packages of an earlier build are in place, so that nothing needs to be installed */
export async function restoreInstall(
  platform: Platform,
  row: BuildRow,
  boxKey: string,
  { key, folder }: { key: string; folder: string },
  log: BuildLog,
  signal: AbortSignal,
): Promise<boolean> {
  const kept = await queryOne<{ digest: string }>(
    platform.pool,
    "update install_cache set last_used_at = now() where tenant_id = $1 and key = $2 returning digest",
    [row.tenant_id, key],
  );
  if (!kept) return false;
  try {
    await platform.host.fill(boxKey, { digest: kept.digest, folder }, signal);
  } catch (error) {
    if (!(error instanceof HostError) || error.code === "UNREACHABLE") throw error;
    log.add(
      "system",
      `the packages of an earlier build are not usable (${error.code.toLowerCase()}): installing`,
    );
    return false;
  }
  log.add("system", `packages of an earlier build with the same lockfile, ${kept.digest}`);
  return true;
}

/** A cache that cannot be kept slows the next build down, no more. */
export async function keepInstall(
  platform: Platform,
  row: BuildRow,
  boxKey: string,
  { key, folder }: { key: string; folder: string },
  root: string,
  signal: AbortSignal,
): Promise<void> {
  try {
    const frozen = await platform.host.freeze(boxKey, { path: `${root}/${folder}` }, signal);
    if (frozen.sizeBytes > largestKept) return;
    await platform.pool.query(
      `insert into install_cache (tenant_id, key, digest, size_bytes) values ($1, $2, $3, $4)
       on conflict (tenant_id, key) do update set digest = excluded.digest, size_bytes = excluded.size_bytes, last_used_at = now()`,
      [row.tenant_id, key, frozen.digest, frozen.sizeBytes],
    );
  } catch (error) {
    if (!(error instanceof HostError) || error.code === "UNREACHABLE") throw error;
    platform.log.info({ err: error, buildId: row.id }, "installed packages were not kept");
  }
}
