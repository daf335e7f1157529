import { randomBytes } from "node:crypto";
import { PlatformError, type ClaimDomain } from "@platform/contract";
import type { z } from "zod";
import { ownDeployment } from "../deployments/index.ts";
import { record } from "../events/index.ts";
import type { Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { assertAllowed } from "../policies/index.ts";
import { mayUse, tenantById } from "../tenants/index.ts";
import { assertForeign, companionOf, normalise } from "./hostname.ts";
import { domainById, holderOf, type DomainRow } from "./store.ts";

type Input = z.output<typeof ClaimDomain>;

/** The same words whoever holds it, and whether or not they have proved it. */
const taken = (hostname: string) =>
  new PlatformError(
    "DOMAIN_TAKEN",
    `${hostname} cannot be claimed now. If it is yours, check its DNS records and ask us for help.`,
    { details: { hostname } },
  );

/** Two names that redirect to each other would never answer. */
export async function assertNoLoop(
  platform: Platform,
  tenantId: string,
  hostname: string,
  policy: DomainRow["redirect_policy"],
): Promise<void> {
  const other = await holderOf(platform.pool, companionOf(hostname));
  if (policy === "none" || !other || other.tenant_id !== tenantId || other.redirect_policy === "none") return;
  if (other.redirect_policy !== policy)
    throw new PlatformError(
      "CONFLICT",
      `${other.hostname} has the redirect policy ${other.redirect_policy}: with ${policy} here the two would send visitors round in circles. Use the same policy for both.`,
      { details: { hostname: other.hostname, redirect_policy: other.redirect_policy } },
    );
}

async function deploymentOf(platform: Platform, call: Call, input: Input): Promise<string | null> {
  const isDeployment = (input.resource_type ?? "deployment") === "deployment";
  if (!isDeployment)
    throw new PlatformError("VALIDATION_FAILED", "A custom domain leads to a deployment. Publish first.", {
      errors: { resource_type: ["must be deployment: production never points at a sandbox"] },
    });
  const id = input.deployment_id ?? input.resource_id;
  return id ? (await ownDeployment(platform.pool, call.caller, id)).id : null;
}

/** @throws PlatformError VALIDATION_FAILED, DOMAIN_TAKEN, CONFLICT */
export async function claimDomain(platform: Platform, call: Call, input: Input): Promise<DomainRow> {
  const { pool } = platform;
  const { tenantId, workspaceId, externalUserId } = call.caller;
  await assertAllowed(
    pool,
    { tenantId, workspaceId, externalUserId: input.external_user_id ?? externalUserId },
    "can_use_custom_domains",
  );
  const given = input.hostname ?? input.domain ?? input.fqdn;
  if (!given)
    throw new PlatformError("VALIDATION_FAILED", "hostname: name the host. Send hostname or domain.", {
      errors: { hostname: ["can't be blank"], domain: ["can't be blank"] },
    });
  const hostname = normalise(given);
  await assertForeign(pool, hostname, platform.settings.acme?.dnsZone ?? null);
  const deploymentId = await deploymentOf(platform, call, input);
  const policy = input.redirect_policy ?? "none";
  await assertNoLoop(platform, call.caller.tenantId, hostname, policy);
  // A claim that nobody proved for a week no longer keeps others out.
  await pool.query(
    `update domains set state = 'removed', removed_at = now() where hostname = $1 and tenant_id <> $2 and verified_at is null
       and created_at < now() - interval '7 days' and state <> 'removed'`,
    [hostname, call.caller.tenantId],
  );
  const id = call.idFor("domain");
  const tenant = (await tenantById(pool, call.caller.tenantId))!;
  const inserted = await pool.query(
    `insert into domains (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
       hostname, deployment_id, redirect_policy, verification_target, verification_token)
     select $1, $2, coalesce($3::uuid, d.workspace_id), d.project_id, $4, $5, $6, $7, $8::uuid, $9, $10, $11
       from (select 1) x left join deployments d on d.id = $8::uuid
     on conflict do nothing`,
    [
      id,
      call.caller.tenantId,
      call.caller.workspaceId,
      input.external_workspace_id ?? null,
      input.external_user_id ?? call.caller.externalUserId,
      input.external_project_id ?? null,
      hostname,
      deploymentId,
      policy,
      `${randomBytes(12).toString("hex")}.domains.${tenant.deployment_domain ?? tenant.domain}`,
      randomBytes(24).toString("hex"),
    ],
  );
  const row =
    inserted.rowCount === 1
      ? (await domainById(pool, id))!
      : await existing(platform, call, hostname, deploymentId);
  if (inserted.rowCount === 1) {
    await record(platform, {
      tenantId: row.tenant_id,
      workspaceId: row.workspace_id,
      type: "domain.created",
      resourceType: "domain",
      resourceId: row.id,
      data: { id: row.id, hostname, deployment_id: deploymentId },
    });
  }
  return row;
}

/** Claiming once more what one has already is no failure; moving it takes another call. */
async function existing(
  platform: Platform,
  call: Call,
  hostname: string,
  deploymentId: string | null,
): Promise<DomainRow> {
  const holder = await holderOf(platform.pool, hostname);
  if (!holder || !mayUse(call.caller, holder)) throw taken(hostname);
  if (deploymentId === null || holder.deployment_id === deploymentId) return holder;
  throw new PlatformError(
    "CONFLICT",
    `You have ${hostname} already, for another deployment. Move it with POST /domains/${hostname}/assign.`,
    { details: { domain_id: holder.id, deployment_id: holder.deployment_id } },
  );
}
