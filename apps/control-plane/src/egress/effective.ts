import type { EgressPolicy } from "@platform/host-api";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { isIP } from "node:net";
import { z } from "zod";

const NetworkPolicy = z.object({
  mode: z.enum(["allow-all", "deny-all"]).default("allow-all"),
  allowed_domains: z.array(z.string()).catch([]).default([]),
  allowed_cidrs: z.array(z.string()).catch([]).default([]),
  denied_cidrs: z.array(z.string()).default([]),
});

const closed: EgressPolicy = { mode: "deny-all", allowedDomains: [], allowedCidrs: [], deniedCidrs: [] };
const open: EgressPolicy = { ...closed, mode: "allow-all" };

/** The policy that clients set as `metadata.network_policy`; without one, the internet may be reached. */
export function egressOf(metadata: Record<string, unknown>): EgressPolicy {
  const parsed = NetworkPolicy.safeParse(metadata["network_policy"] ?? {});
  // A policy that cannot be read closes everything: it was meant to restrict.
  if (!parsed.success) return closed;
  const { mode, allowed_domains, allowed_cidrs, denied_cidrs } = parsed.data;
  return { mode, allowedDomains: allowed_domains, allowedCidrs: allowed_cidrs, deniedCidrs: denied_cidrs };
}

interface PolicyParts {
  readonly mode: "enforce" | "audit_only";
  readonly default_effect: "allow" | "deny";
}

interface RuleParts {
  readonly host: string;
  readonly effect: "allow" | "deny";
}

export const isRange = (host: string): boolean => isIP(host.split("/")[0]!) !== 0;

/** A stored policy with its rules as hosts understand it. Without a policy only denials count. */
export function toEgress(policy: PolicyParts | null, rules: readonly RuleParts[]): EgressPolicy {
  if (policy?.mode === "audit_only") return open;
  const pick = (effect: string, ranges: boolean) =>
    rules.filter((rule) => rule.effect === effect && isRange(rule.host) === ranges).map(({ host }) => host);
  return {
    mode: policy?.default_effect === "deny" ? "deny-all" : "allow-all",
    allowedDomains: pick("allow", false),
    allowedCidrs: pick("allow", true),
    deniedCidrs: pick("deny", true),
    deniedDomains: pick("deny", false),
  };
}

function covers(pattern: string, name: string): boolean {
  const [wide, narrow] = [pattern.toLowerCase(), name.toLowerCase()];
  return wide === "*" || wide === narrow || (wide.startsWith("*.") && narrow.endsWith(wide.slice(1)));
}

const inBoth = (
  first: readonly string[],
  second: readonly string[],
  isWithin: (wide: string, narrow: string) => boolean,
) => [
  ...new Set([
    ...first.filter((one) => second.some((other) => isWithin(other, one))),
    ...second.filter((one) => first.some((other) => isWithin(other, one))),
  ]),
];

/** Only what both allow: neither can widen the other. */
export function mergeEgress(first: EgressPolicy, second: EgressPolicy): EgressPolicy {
  const denied = {
    deniedCidrs: [...new Set([...first.deniedCidrs, ...second.deniedCidrs])],
    deniedDomains: [...new Set([...(first.deniedDomains ?? []), ...(second.deniedDomains ?? [])])],
  };
  if (first.mode === "allow-all") return { ...second, ...denied };
  if (second.mode === "allow-all") return { ...first, ...denied };
  return {
    mode: "deny-all",
    allowedDomains: inBoth(first.allowedDomains, second.allowedDomains, covers),
    allowedCidrs: inBoth(first.allowedCidrs, second.allowedCidrs, (wide, narrow) => wide === narrow),
    ...denied,
  };
}

export interface Restricted {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly metadata: Record<string, unknown>;
}

/** What is to be in force for a sandbox: its own network policy and the stored one that is nearest to it. */
export async function effectiveEgress(db: Queryable, sandbox: Restricted): Promise<EgressPolicy> {
  const policy = await queryOne<PolicyParts & { id: string }>(
    db,
    `select id, mode, default_effect from egress_policies where tenant_id = $1
       and (resource_id = $2 or (resource_id is null and (workspace_id is null or workspace_id = $3)))
     order by resource_id is null, workspace_id is null limit 1`,
    [sandbox.tenant_id, sandbox.id, sandbox.workspace_id],
  );
  const rules = await query<RuleParts>(
    db,
    `select host, effect from egress_rules where tenant_id = $1 and (policy_id = $4 or (policy_id is null
       and (resource_id = $2 or (resource_id is null and (workspace_id is null or workspace_id = $3))))) order by host`,
    [sandbox.tenant_id, sandbox.id, sandbox.workspace_id, policy?.id ?? null],
  );
  return mergeEgress(egressOf(sandbox.metadata), toEgress(policy, rules));
}
