import { PlatformError, notFound } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import { Conditions, isUuid, ownedBy } from "../tenants/index.ts";

export interface PolicyRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly name: string;
  readonly mode: "enforce" | "audit_only";
  readonly default_effect: "allow" | "deny";
  readonly resource_type: string | null;
  readonly resource_id: string | null;
  readonly description: string | null;
  readonly created_at: Date;
  readonly updated_at: Date;
}

export interface RuleRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly policy_id: string | null;
  readonly resource_type: string | null;
  readonly resource_id: string | null;
  readonly host: string;
  readonly effect: "allow" | "deny";
  readonly note: string | null;
  readonly created_at: Date;
}

export const policyView = (row: PolicyRow) => ({
  id: row.id,
  name: row.name,
  mode: row.mode,
  default_effect: row.default_effect,
  default_action: row.default_effect,
  resource_type: row.resource_type,
  resource_id: row.resource_id,
  workspace_id: row.workspace_id,
  description: row.description,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

export const ruleView = (row: RuleRow) => ({
  id: row.id,
  policy_id: row.policy_id,
  resource_type: row.resource_type,
  resource_id: row.resource_id,
  workspace_id: row.workspace_id,
  host: row.host,
  port: null,
  effect: row.effect,
  methods: [],
  path_glob: null,
  note: row.note,
  created_at: row.created_at.toISOString(),
});

/** Rows of the caller's tenant, and of its workspace or user where it is bound to one. */
export function visible(caller: Caller): Conditions {
  const conditions = new Conditions().add("tenant_id = $?", caller.tenantId);
  if (caller.workspaceId) conditions.add("workspace_id = $?", caller.workspaceId);
  if (caller.externalUserId) {
    conditions.add(
      "resource_id in (select id from sandboxes where external_user_id = $?)",
      caller.externalUserId,
    );
  }
  return conditions;
}

async function own<T extends PolicyRow | RuleRow>(
  db: Queryable,
  caller: Caller,
  table: string,
  what: string,
  id: string,
) {
  if (!isUuid(id))
    throw new PlatformError("INVALID_ID", `"${id.slice(0, 100)}" is not a UUID. Use an id from the list.`);
  const conditions = visible(caller).add("id = $?", id);
  const row = await queryOne<T>(db, `select * from ${table} where ${conditions.sql}`, conditions.values);
  if (!row) throw notFound(`${what} ${id}`);
  return row;
}

export const ownPolicy = (db: Queryable, caller: Caller, id: string) =>
  own<PolicyRow>(db, caller, "egress_policies", "Policy", id);
export const ownRule = (db: Queryable, caller: Caller, id: string) =>
  own<RuleRow>(db, caller, "egress_rules", "Rule", id);

/** @throws PlatformError NOT_FOUND for a sandbox that the caller does not see */
export async function ownTarget(db: Queryable, caller: Caller, id: string) {
  const conditions = ownedBy(caller).raw("state <> 'destroyed'").add("id::text = $?", id.toLowerCase());
  const row = await queryOne<{ id: string; workspace_id: string | null }>(
    db,
    `select id, workspace_id from sandboxes where ${conditions.sql}`,
    conditions.values,
  );
  if (!row) throw notFound(`Sandbox ${id.slice(0, 100)}`);
  return row;
}
