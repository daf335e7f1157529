import { PlatformError } from "@platform/contract";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { lookAtDns, type Seen } from "./dns.ts";
import { routeDomain } from "./routing.ts";
import { domainById, type DomainRow } from "./store.ts";

function problem(row: DomainRow, seen: Seen): PlatformError {
  const wanted = {
    cname: { name: row.hostname, value: row.verification_target },
    txt: { name: `_verify.${row.hostname}`, value: row.verification_token },
  };
  const add = `Add the record ${row.hostname} CNAME ${row.verification_target}`;
  const details = { hostname: row.hostname, wanted, seen: { cname: seen.cnames, txt: seen.texts } };
  if (seen.cnames.length === 0 && seen.texts.length === 0 && seen.failures.length > 0) {
    const next_step = "Check that the domain's name servers answer, then verify again.";
    return new PlatformError("DNS_LOOKUP_FAILED", `DNS gave no answer for ${row.hostname}. ${next_step}`, {
      details: { ...details, reason: "dns_unreachable", dns_codes: seen.failures, next_step },
    });
  }
  if (seen.cnames.length === 0 && seen.texts.length === 0) {
    const next_step = `${add}, wait until it is published, then verify again.`;
    return new PlatformError("DNS_LOOKUP_FAILED", `${row.hostname} has no CNAME record. ${next_step}`, {
      details: { ...details, reason: "dns_record_missing", next_step },
    });
  }
  const next_step = `${add} in place of what is there, wait until it is published, then verify again.`;
  const found = seen.cnames.at(0) ?? `the TXT record "${seen.texts.at(0)?.slice(0, 100)}"`;
  return new PlatformError("CNAME_MISMATCH", `${row.hostname} points to ${found}. ${next_step}`, {
    details: { ...details, reason: "dns_record_differs", next_step },
  });
}

/**
 * Looks at DNS and, when the name's owner has put our record there, routes the name.
 *
 * @throws PlatformError CNAME_MISMATCH, DNS_LOOKUP_FAILED with what was wanted and seen
 */
export async function verifyDomain(platform: Platform, row: DomainRow): Promise<DomainRow> {
  const seen = await lookAtDns(row.hostname, platform.settings.dnsResolver ?? null);
  const isProved =
    seen.cnames.includes(row.verification_target) || seen.texts.includes(row.verification_token);
  if (!isProved) {
    const refusal = problem(row, seen);
    // A name that was proved before stays served: an outage of its DNS shall not become one of the app.
    await platform.pool.query(
      `update domains set checked_at = now(), updated_at = now(), last_error = $2,
         state = case when state = 'verified' then state else 'failed' end where id = $1 and state <> 'removed'`,
      [row.id, { code: refusal.code, message: refusal.message, ...refusal.details }],
    );
    throw refusal;
  }
  const stored = await platform.pool.query(
    `update domains set state = 'verified', verified_at = coalesce(verified_at, now()), checked_at = now(), last_error = null,
       updated_at = now() where id = $1 and state <> 'removed'`,
    [row.id],
  );
  await routeDomain(platform, row.id);
  if (stored.rowCount === 1 && row.state !== "verified")
    await record(platform, {
      tenantId: row.tenant_id,
      workspaceId: row.workspace_id,
      type: "domain.verified",
      resourceType: "domain",
      resourceId: row.id,
      data: { id: row.id, hostname: row.hostname, deployment_id: row.deployment_id },
    });
  return (await domainById(platform.pool, row.id))!;
}
