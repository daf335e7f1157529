import { PlatformError } from "@platform/contract";
import { queryOne } from "@platform/postgres";
import { subjectOf, wantCertificate } from "../certificates/index.ts";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { inspectDns, type Inspection } from "./records.ts";
import { routeDomain } from "./routing.ts";
import { checkAgainMs } from "./schedule.ts";
import { domainById, type DomainRow } from "./store.ts";

function problem(row: DomainRow, seen: Inspection): PlatformError {
  const [routing, ownership] = seen.records;
  const wanted = {
    cname: { name: routing.name, value: routing.value },
    txt: { name: ownership.name, value: ownership.value },
  };
  const add = `Add the record ${row.hostname} CNAME ${row.verification_target}`;
  const details = {
    hostname: row.hostname,
    wanted,
    seen: { cname: routing.found, txt: ownership.found },
    records: seen.records,
  };
  const isEmpty = routing.found.length === 0 && ownership.found.length === 0;
  if (isEmpty && seen.failures.length > 0) {
    const next_step = "Check that the domain's name servers answer, then verify again.";
    return new PlatformError("DNS_LOOKUP_FAILED", `DNS gave no answer for ${row.hostname}. ${next_step}`, {
      details: { ...details, reason: "dns_unreachable", dns_codes: seen.failures, next_step },
    });
  }
  if (isEmpty) {
    const next_step = `${add}, wait until it is published, then verify again.`;
    return new PlatformError("DNS_LOOKUP_FAILED", `${row.hostname} has no CNAME record. ${next_step}`, {
      details: { ...details, reason: "dns_record_missing", next_step },
    });
  }
  const next_step = `${add} in place of what is there, wait until it is published, then verify again.`;
  const found = routing.found.at(0) ?? `the TXT record "${ownership.found.at(0)?.slice(0, 100)}"`;
  return new PlatformError("CNAME_MISMATCH", `${row.hostname} points to ${found}. ${next_step}`, {
    details: { ...details, reason: "dns_record_differs", next_step },
  });
}

/** The name still leads to what an earlier claim of it was given: it is not handed on before that is gone. */
async function staleTarget(platform: Platform, row: DomainRow, seen: Inspection): Promise<string | null> {
  const other = await queryOne<{ target: string }>(
    platform.pool,
    "select verification_target as target from domains where verification_target = any($1) and id <> $2 limit 1",
    [seen.records[0].found, row.id],
  );
  return other?.target ?? null;
}

async function refusalOf(
  platform: Platform,
  row: DomainRow,
  seen: Inspection,
): Promise<PlatformError | null> {
  if (!seen.isProved) return problem(row, seen);
  const stale = await staleTarget(platform, row, seen);
  if (stale === null) return null;
  const next_step = `Replace it by ${row.hostname} CNAME ${row.verification_target}, then verify again.`;
  return new PlatformError(
    "CNAME_MISMATCH",
    `${row.hostname} still points to the target of an earlier claim. ${next_step}`,
    { details: { hostname: row.hostname, reason: "dns_record_stale", records: seen.records, next_step } },
  );
}

const note = (platform: Platform, row: DomainRow, type: string) =>
  record(platform, {
    tenantId: row.tenant_id,
    workspaceId: row.workspace_id,
    type,
    resourceType: "domain",
    resourceId: row.id,
    data: { id: row.id, hostname: row.hostname, deployment_id: row.deployment_id },
  });

/** So that the first visitor does not wait for an order. */
export async function orderCertificate(platform: Platform, hostname: string): Promise<void> {
  const { acme } = platform.settings;
  if (!acme) return;
  const subject = await subjectOf(platform.pool, hostname, acme.dnsZone !== null);
  if (subject) await wantCertificate(platform, subject);
}

/** After this long away the name is served no longer, milliseconds. */
const awayMs = 7 * 86_400_000;

/** Stores what was seen. A proved name stays served when DNS is silent, and for a week when it leads elsewhere. */
async function store(
  platform: Platform,
  row: DomainRow,
  seen: Inspection,
  refusal: PlatformError | null,
): Promise<DomainRow | null> {
  const isAway = refusal !== null && !seen.isUnreachable && row.verified_at !== null;
  const hasLeft = isAway && row.away_since !== null && Date.now() - row.away_since.getTime() > awayMs;
  const waitMs = checkAgainMs({
    isProved: refusal === null,
    isAway,
    ageMs: Date.now() - row.created_at.getTime(),
  });
  const stored = await queryOne<DomainRow>(
    platform.pool,
    `update domains set checked_at = now(), updated_at = now(), records = $2, last_error = $3, next_check_at = now() + $4 * interval '1 ms',
       away_since = case when $5 then coalesce(away_since, now()) when $6 then away_since end,
       verified_at = case when $7 then coalesce(verified_at, now()) when $8 then null else verified_at end,
       state = case when $7 then 'verified' when $8 or state <> 'verified' then 'failed' else state end
     where id = $1 and state <> 'removed' returning *`,
    [
      row.id,
      JSON.stringify(seen.records),
      refusal ? { code: refusal.code, message: refusal.message, ...refusal.details } : null,
      waitMs,
      isAway,
      seen.isUnreachable,
      refusal === null,
      hasLeft,
    ],
  );
  if (!stored) return null;
  if (row.state !== "verified" && stored.state === "verified")
    await note(platform, stored, "domain.verified");
  if (row.away_since === null && stored.away_since !== null)
    await note(platform, stored, "domain.moved_away");
  if (row.away_since !== null && stored.away_since === null && refusal === null)
    await note(platform, stored, "domain.returned");
  return stored;
}

/** One look at DNS, and what follows from it. @returns why the name is not proved; null: it is */
export async function checkDomain(platform: Platform, row: DomainRow): Promise<PlatformError | null> {
  const seen = await inspectDns(row, platform.settings.dnsResolver ?? null);
  const refusal = await refusalOf(platform, row, seen);
  const stored = await store(platform, row, seen, refusal);
  if (!stored) return refusal;
  if (refusal === null || stored.state !== row.state) await routeDomain(platform, row.id);
  if (refusal === null && stored.deployment_id !== null) await orderCertificate(platform, row.hostname);
  return refusal;
}

/**
 * Looks at DNS and, when the name's owner has put our record there, routes the name.
 *
 * @throws PlatformError CNAME_MISMATCH, DNS_LOOKUP_FAILED with what was wanted and seen
 */
export async function verifyDomain(platform: Platform, row: DomainRow): Promise<DomainRow> {
  const refusal = await checkDomain(platform, row);
  if (refusal) throw refusal;
  return (await domainById(platform.pool, row.id))!;
}
