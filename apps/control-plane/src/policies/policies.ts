import { PlatformError, type Policy } from "@platform/contract";
import { query, queryOne, type Queryable } from "@platform/postgres";
import type { Prices } from "../prices.ts";
import { Conditions } from "../tenants/index.ts";
import { spent } from "../usage/index.ts";

export type PolicyScope = "tenant" | "workspace" | "user";

/** Whom a policy is asked for. */
export interface Subject {
  readonly tenantId: string;
  readonly workspaceId: string | null;
  readonly externalUserId: string | null;
}

export const subjectOf = (row: {
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly external_user_id: string | null;
}): Subject => ({
  tenantId: row.tenant_id,
  workspaceId: row.workspace_id,
  externalUserId: row.external_user_id,
});

/** What holds where no policy says anything: no limit, and everything that this installation can do. */
const platform = {
  quotas: { max_sandboxes: null, max_concurrent: null, max_storage_gb: null, max_credit_cents: null },
  permissions: {
    can_create_sandbox: true,
    can_use_gpu: false,
    can_use_custom_domains: true,
    can_use_forge: false,
  },
  features: { snapshot_enabled: true, port_forwarding_enabled: true },
  billing: { enforce_credit_limit: false },
} as const;

type Section = keyof typeof platform;
export interface Effective {
  readonly value: boolean | number | null;
  readonly source: PolicyScope | "platform";
}
export type EffectivePolicy = Record<Section, Record<string, Effective>>;

/** From the nearest to the widest. */
const scopes = ["user", "workspace", "tenant"] as const;

/** What holds for the subject: of each field, what the nearest policy says. */
export async function effectivePolicy(db: Queryable, subject: Subject): Promise<EffectivePolicy> {
  const rows = await query<{ scope: PolicyScope; policy: Policy }>(
    db,
    `select scope, policy from policies where tenant_id = $1
       and (scope = 'tenant' or (scope = 'workspace' and subject = $2) or (scope = 'user' and subject = $3))`,
    [subject.tenantId, subject.workspaceId, subject.externalUserId],
  );
  const byScope = new Map(rows.map(({ scope, policy }) => [scope, policy]));
  const sections = Object.entries(platform).map(([section, standard]) => {
    const fields = Object.entries(standard).map(([name, value]): [string, Effective] => {
      for (const source of scopes) {
        const said = (byScope.get(source)?.[section as Section] as Record<string, boolean | number | null>)?.[
          name
        ];
        if (said !== undefined && said !== null) return [name, { value: said, source }];
      }
      return [name, { value, source: "platform" }];
    });
    return [section, Object.fromEntries(fields)];
  });
  return Object.fromEntries(sections) as EffectivePolicy;
}

const permissions = {
  can_create_sandbox: ["permissions", "Sandboxes may not be created"],
  can_use_custom_domains: ["permissions", "Domains may not be added"],
  snapshot_enabled: ["features", "Snapshots may not be taken"],
  port_forwarding_enabled: ["features", "Ports may not be exposed"],
} as const;

/** @throws PlatformError FORBIDDEN when a policy takes this away */
export async function assertAllowed(
  db: Queryable,
  subject: Subject,
  what: keyof typeof permissions,
): Promise<void> {
  const [section, sentence] = permissions[what];
  const { value, source } = (await effectivePolicy(db, subject))[section][what]!;
  if (value === true) return;
  throw new PlatformError(
    "FORBIDDEN",
    `${sentence} here: the policy of the ${source} says ${section}.${what} = false. Ask who manages it.`,
    { details: { policy: `${section}.${what}`, source } },
  );
}

/** Sandboxes that a limit of this source counts: those of the user, of the workspace, or of the tenant. */
function counted(subject: Subject, source: Effective["source"]): Conditions {
  const conditions = new Conditions().add("tenant_id = $?", subject.tenantId);
  // A limit of a wider policy is the default of each user by themselves.
  if (subject.externalUserId !== null) return conditions.add("external_user_id = $?", subject.externalUserId);
  return source === "workspace" ? conditions.add("workspace_id = $?", subject.workspaceId) : conditions;
}

export interface Used {
  readonly total_sandboxes: number;
  readonly concurrent: number;
  readonly storage_gb: number;
}

/** @param except a sandbox that is not counted */
export async function usedBy(
  db: Queryable,
  conditions: Conditions,
  except: string | null = null,
): Promise<Used> {
  const row = await queryOne<{ total: number; concurrent: number; mb: number }>(
    db,
    `select count(*)::int as total, count(*) filter (where desired = 'running' and state <> 'error')::int as concurrent,
       coalesce(sum(disk_size_mb), 0)::float8 as mb
     from sandboxes where state <> 'destroyed' and desired <> 'destroyed' and id is distinct from $${conditions.values.length + 1}::uuid and ${conditions.sql}`,
    [...conditions.values, except],
  );
  return {
    total_sandboxes: row!.total,
    concurrent: row!.concurrent,
    storage_gb: Math.round((row!.mb / 1024) * 100) / 100,
  };
}

interface Addition {
  /** Of a new one; absent: a sandbox that is there already starts again. */
  readonly diskMb?: number;
  /** The sandbox itself, which may be counted already. */
  readonly id: string;
  readonly prices: Prices | undefined;
}

/**
 * Holds the subject to its limits. Call inside the transaction that adds the sandbox: until it ends, nobody else
 * adds one for the same subject, so that many at once do not pass together.
 *
 * @throws PlatformError QUOTA_EXCEEDED, INSUFFICIENT_CREDITS or FORBIDDEN, naming limit, use and policy
 */
export async function assertWithin(db: Queryable, subject: Subject, addition: Addition): Promise<void> {
  const any = await queryOne(db, "select 1 from policies where tenant_id = $1 limit 1", [subject.tenantId]);
  if (!any) return;
  const isNew = addition.diskMb !== undefined;
  if (isNew) await assertAllowed(db, subject, "can_create_sandbox");
  const { quotas, billing } = await effectivePolicy(db, subject);
  if (Object.values(quotas).every(({ value }) => value === null)) return;
  await db.query("select pg_advisory_xact_lock(hashtextextended($1, 0))", [
    `quota ${subject.tenantId} ${subject.externalUserId ?? ""}`,
  ]);
  for (const [name, { value: limit, source }] of Object.entries(quotas)) {
    if (typeof limit !== "number") continue;
    const conditions = counted(subject, source);
    if (name === "max_credit_cents") {
      if (billing["enforce_credit_limit"]!.value === true)
        await assertCredit(db, conditions, limit, addition.prices);
      continue;
    }
    const used = await usedBy(db, conditions, addition.id);
    const wanted = {
      max_sandboxes: used.total_sandboxes + 1,
      max_concurrent: used.concurrent + 1,
      max_storage_gb: used.storage_gb + (addition.diskMb ?? 0) / 1024,
    }[name as "max_sandboxes" | "max_concurrent" | "max_storage_gb"];
    if ((!isNew && name !== "max_concurrent") || wanted <= limit) continue;
    const advice = name === "max_concurrent" ? "Pause or delete one" : "Delete one";
    throw new PlatformError(
      "QUOTA_EXCEEDED",
      `The limit ${name} = ${limit} of the ${source}'s policy would be passed. ${advice}, or have the limit raised.`,
      { details: { quota: name, limit, used, source } },
    );
  }
}

/** Whether a limit was the reason. */
export const isLimit = (error: unknown): boolean =>
  error instanceof PlatformError &&
  (error.code === "QUOTA_EXCEEDED" || error.code === "INSUFFICIENT_CREDITS");

async function assertCredit(
  db: Queryable,
  conditions: Conditions,
  limit: number,
  prices: Prices | undefined,
): Promise<void> {
  const now = new Date();
  const start = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth()));
  const cents = await spent(db, conditions, { start, end: now }, prices);
  if (cents < limit) return;
  throw new PlatformError(
    "INSUFFICIENT_CREDITS",
    `${cents} cents of ${limit} are spent since ${start.toISOString().slice(0, 10)}. Have the limit raised, or wait for the next month.`,
    { details: { quota: "max_credit_cents", limit, used: cents } },
  );
}
