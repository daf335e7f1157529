import { query, queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { linkedDatabases, runtimeEnvironment, type Linked } from "../sandboxes/index.ts";

/** What a production process of the deployment sees, with the credentials of this moment. */
export async function deploymentEnvironment(
  platform: Platform,
  deploymentId: string,
): Promise<{ values: Record<string, string>; linked: Linked }> {
  const owner = await queryOne<{ tenant_id: string; workspace_id: string | null; project_id: string | null }>(
    platform.pool,
    "select tenant_id, workspace_id, project_id from deployments where id = $1",
    [deploymentId],
  );
  const rows = await query<{ name: string; value_sealed: Buffer }>(
    platform.pool,
    "select name, value_sealed from deployment_env where deployment_id = $1",
    [deploymentId],
  );
  const linked = await linkedDatabases(platform, "deployment", deploymentId);
  const own = Object.fromEntries(rows.map((row) => [row.name, platform.seal.open(row.value_sealed)]));
  const shared = owner ? await runtimeEnvironment(platform, "deployment", owner) : {};
  return { values: { ...shared, ...own, ...linked.env }, linked };
}
