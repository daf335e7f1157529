import { newId } from "@platform/daemon";
import { transaction } from "@platform/postgres";
import type { Pool } from "pg";
import { slugify } from "./placement.ts";

/** Makes the first tenant with its default workspace and project, once. Safe to run by several control planes at once. */
export async function ensureTenant(pool: Pool, wanted: { name: string; domain: string }): Promise<string> {
  return transaction(pool, async (db) => {
    await db.query("select pg_advisory_xact_lock(724001)");
    const found = await db.query<{ id: string }>("select id from tenants where domain = $1", [wanted.domain]);
    if (found.rows[0]) return found.rows[0].id;
    const [tenantId, workspaceId] = [newId(), newId()];
    await db.query("insert into tenants (id, slug, name, domain) values ($1, $2, $3, $4)", [
      tenantId,
      slugify(wanted.name),
      wanted.name,
      wanted.domain,
    ]);
    await db.query(
      "insert into workspaces (id, tenant_id, name, slug, is_default) values ($1, $2, 'Default', 'default', true)",
      [workspaceId, tenantId],
    );
    await db.query(
      "insert into projects (id, tenant_id, workspace_id, name, slug, is_default) values ($1, $2, $3, 'Default', 'default', true)",
      [newId(), tenantId, workspaceId],
    );
    return tenantId;
  });
}
