import { isIP } from "node:net";
import { PlatformError, egressRoutes as r, notFound } from "@platform/contract";
import { query, queryOne, transaction } from "@platform/postgres";
import { handler, type Call, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { assertWholeTenant } from "../tenants/index.ts";
import { egressAudit } from "./audit.ts";
import {
  ownPolicy,
  ownRule,
  ownTarget,
  policyView,
  ruleView,
  visible,
  type PolicyRow,
  type RuleRow,
} from "./store.ts";
import { enforce, markPendingIn, type Reach } from "./sync.ts";

const reachOf = (row: PolicyRow | RuleRow): Reach => ({
  tenantId: row.tenant_id,
  workspaceId: row.resource_id ? null : row.workspace_id,
  resourceId: row.resource_id,
});

/** Where a policy or rule applies: one sandbox, the key's workspace, or the whole tenant. */
async function placeOf(platform: Platform, caller: Caller, resourceId: string | undefined) {
  if (resourceId === undefined) {
    if (caller.externalUserId !== null) assertWholeTenant(caller, "A policy without resource_id");
    return { type: null, id: null, workspaceId: caller.workspaceId };
  }
  const target = await ownTarget(platform.pool, caller, resourceId);
  return { type: "sandbox", id: target.id, workspaceId: target.workspace_id };
}

async function createPolicy(platform: Platform, call: Call<typeof r.createPolicy>): Promise<PolicyRow> {
  const { caller, body } = call;
  const place = await placeOf(platform, caller, body.resource_id);
  const id = call.idFor("policy");
  const { row, affected } = await transaction(platform.pool, async (db) => {
    await db.query(
      `insert into egress_policies (id, tenant_id, workspace_id, name, mode, default_effect, resource_type, resource_id, description)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing`,
      [
        id,
        caller.tenantId,
        place.workspaceId,
        body.name,
        body.mode ?? "enforce",
        body.default_effect ?? body.default_action ?? "deny",
        place.type,
        place.id,
        body.description ?? null,
      ],
    );
    const stored = await queryOne<PolicyRow>(
      db,
      "select * from egress_policies where id = $1 and tenant_id = $2",
      [id, caller.tenantId],
    );
    if (!stored)
      throw new PlatformError(
        "CONFLICT",
        "There is a policy for this already. Change that one: PATCH /egress/policies/:id.",
      );
    return { row: stored, affected: await markPendingIn(db, reachOf(stored)) };
  });
  await enforce(platform, affected);
  return row;
}

type PolicyChange = Call<typeof r.updatePolicy>["body"];

async function updatePolicy(platform: Platform, row: PolicyRow, body: PolicyChange): Promise<PolicyRow> {
  const { updated, affected } = await transaction(platform.pool, async (db) => {
    const changed = await queryOne<PolicyRow>(
      db,
      "update egress_policies set name = $2, mode = $3, default_effect = $4, description = $5, updated_at = now() where id = $1 returning *",
      [
        row.id,
        body.name ?? row.name,
        body.mode ?? row.mode,
        body.default_effect ?? body.default_action ?? row.default_effect,
        body.description ?? row.description,
      ],
    );
    if (!changed) throw notFound(`Policy ${row.id}`);
    return { updated: changed, affected: await markPendingIn(db, reachOf(changed)) };
  });
  await enforce(platform, affected);
  return updated;
}

const invalid = (field: string, message: string) =>
  new PlatformError("VALIDATION_FAILED", `${field}: ${message}.`, { errors: { [field]: [message] } });

/**
 * Rules are enforced on connections, most of which are encrypted: what cannot be seen there is refused
 * rather than stored without effect.
 */
function assertEnforceable(body: Call<typeof r.addRule>["body"]): void {
  if (body.methods?.length)
    throw invalid("methods", "cannot be enforced on encrypted connections. Leave it out");
  if (body.path_glob !== undefined && !/^\/?\*{1,2}$/.test(body.path_glob))
    throw invalid("path_glob", "cannot be enforced on encrypted connections. Leave it out");
  if (body.port !== undefined)
    throw invalid("port", "cannot be enforced: a rule covers every port of a host. Leave it out");
  const [address, bits] = body.host.split("/");
  const family = isIP(address!);
  const looksLikeAddress = body.host.includes("/") || body.host.includes(":") || /^[\d.]+$/.test(body.host);
  if (looksLikeAddress && (family === 0 || (bits !== undefined && Number(bits) > (family === 4 ? 32 : 128))))
    throw invalid("host", "is neither a name nor an address range");
}

async function addRule(platform: Platform, call: Call<typeof r.addRule>): Promise<RuleRow> {
  const { caller, body } = call;
  assertEnforceable(body);
  const policy = body.policy_id === undefined ? null : await ownPolicy(platform.pool, caller, body.policy_id);
  const place = policy
    ? { type: policy.resource_type, id: policy.resource_id, workspaceId: policy.workspace_id }
    : await placeOf(platform, caller, body.resource_id);
  const id = call.idFor("rule");
  const { row, affected } = await transaction(platform.pool, async (db) => {
    await db.query(
      `insert into egress_rules (id, tenant_id, workspace_id, policy_id, resource_type, resource_id, host, effect, note)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (id) do nothing`,
      [
        id,
        caller.tenantId,
        place.workspaceId,
        policy?.id ?? null,
        place.type,
        place.id,
        body.host,
        body.effect,
        body.note ?? null,
      ],
    );
    const stored = (await queryOne<RuleRow>(db, "select * from egress_rules where id = $1", [id]))!;
    return { row: stored, affected: await markPendingIn(db, reachOf(stored)) };
  });
  await enforce(platform, affected);
  return row;
}

async function removeRule(platform: Platform, row: RuleRow): Promise<void> {
  const affected = await transaction(platform.pool, async (db) => {
    await db.query("delete from egress_rules where id = $1", [row.id]);
    return markPendingIn(db, reachOf(row));
  });
  await enforce(platform, affected);
}

export function egressHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.policies, async ({ caller, query: filter }) => {
      const conditions = visible(caller);
      if (filter.resource_type) conditions.add("resource_type = $?", filter.resource_type);
      if (filter.resource_id) conditions.add("resource_id::text = $?", filter.resource_id);
      const rows = await query<PolicyRow>(
        pool,
        `select * from egress_policies where ${conditions.sql} order by created_at desc limit 1000`,
        conditions.values,
      );
      return rows.map(policyView);
    }),
    handler(r.createPolicy, async (call) => policyView(await createPolicy(platform, call))),
    handler(r.policy, async ({ caller, params }) => policyView(await ownPolicy(pool, caller, params["id"]!))),
    handler(r.updatePolicy, async ({ caller, params, body }) =>
      policyView(await updatePolicy(platform, await ownPolicy(pool, caller, params["id"]!), body)),
    ),
    handler(r.updatePolicyOf, async ({ caller, body }) => {
      const target = await ownTarget(pool, caller, body.resource_id);
      const row = await queryOne<PolicyRow>(
        pool,
        "select * from egress_policies where tenant_id = $1 and resource_id = $2",
        [caller.tenantId, target.id],
      );
      if (!row) throw notFound(`A policy of sandbox ${target.id}`);
      return policyView(await updatePolicy(platform, row, body));
    }),
    handler(r.rules, async ({ caller, query: filter }) => {
      const conditions = visible(caller);
      if (filter.policy_id) conditions.add("policy_id::text = $?", filter.policy_id);
      if (filter.resource_type) conditions.add("resource_type = $?", filter.resource_type);
      if (filter.resource_id) conditions.add("resource_id::text = $?", filter.resource_id);
      const rows = await query<RuleRow>(
        pool,
        `select * from egress_rules where ${conditions.sql} order by created_at desc limit 1000`,
        conditions.values,
      );
      return rows.map(ruleView);
    }),
    handler(r.addRule, async (call) => ruleView(await addRule(platform, call))),
    handler(r.removeRule, async ({ caller, params }) => {
      const row = await ownRule(pool, caller, params["id"]!);
      await removeRule(platform, row);
      return { id: row.id, deleted: true };
    }),
    handler(r.audit, async ({ caller, query: filter }) => egressAudit(platform, caller, filter)),
  ];
}
