import { domainToUnicode } from "node:url";
import { notFound } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import { certificateFor, certificateView } from "../certificates/index.ts";
import type { Caller } from "../http/index.ts";
import { isUuid, mayUse } from "../tenants/index.ts";
import { normalise } from "./hostname.ts";
import { wantedRecords, type CheckedRecord } from "./records.ts";

export interface DomainRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly project_id: string | null;
  readonly external_workspace_id: string | null;
  readonly external_user_id: string | null;
  readonly external_project_id: string | null;
  readonly created_at: Date;
  readonly updated_at: Date;
  readonly hostname: string;
  /** Removed rows stay: a target or token is never given out twice. */
  readonly state: "pending" | "failed" | "verified" | "removed";
  readonly deployment_id: string | null;
  readonly redirect_policy: "none" | "www_to_apex" | "apex_to_www";
  readonly verification_target: string;
  readonly verification_token: string;
  readonly verified_at: Date | null;
  readonly checked_at: Date | null;
  readonly last_error: Record<string, unknown> | null;
  /** As DNS said at the last look; null before the first. */
  readonly records: readonly CheckedRecord[] | null;
  readonly next_check_at: Date;
  /** Proved before, but since then DNS leads elsewhere. */
  readonly away_since: Date | null;
}

export const domainById = (db: Queryable, id: string) =>
  queryOne<DomainRow>(db, "select * from domains where id = $1", [id]);
/** Whoever has the name now. */
export const holderOf = (db: Queryable, hostname: string) =>
  queryOne<DomainRow>(db, "select * from domains where hostname = $1 and state <> 'removed'", [hostname]);

/** By host name or id. @throws PlatformError NOT_FOUND, VALIDATION_FAILED; another tenant's domain does not exist */
export async function ownDomain(db: Queryable, caller: Caller, given: string): Promise<DomainRow> {
  const row = isUuid(given) ? await domainById(db, given) : await holderOf(db, normalise(given));
  if (!row || row.state === "removed" || !mayUse(caller, row)) throw notFound(`Domain ${given}`);
  return row;
}

/** What to set, and what was seen there at the last look. */
function recordsOf(row: DomainRow) {
  return wantedRecords(row).map((record) => {
    const seen = row.records?.find(({ type }) => type === record.type);
    return { ...record, found: seen?.found ?? [], verdict: seen?.verdict ?? "unchecked" };
  });
}

export async function domainView(db: Queryable, row: DomainRow) {
  const route = await queryOne<{ routed: boolean }>(
    db,
    "select true as routed from routes where hostname = $1 and kind = 'custom' and deployment_id = $2 and target is not null",
    [row.hostname, row.deployment_id],
  );
  const certificate = row.verified_at ? await certificateFor(db, row.tenant_id, row.hostname) : null;
  const verified = row.state === "verified";
  const state = verified && route ? "active" : row.state;
  return {
    id: row.id,
    tenant_id: row.tenant_id,
    external_workspace_id: row.external_workspace_id,
    external_user_id: row.external_user_id,
    external_project_id: row.external_project_id,
    hostname: row.hostname,
    fqdn: row.hostname,
    domain: row.hostname,
    status: state,
    state,
    verified,
    display_name: domainToUnicode(row.hostname),
    dns_records: recordsOf(row),
    dns_state: row.away_since
      ? "moved_away"
      : row.checked_at === null
        ? "unchecked"
        : verified
          ? "ok"
          : "pending",
    moved_away_at: row.away_since?.toISOString() ?? null,
    next_check_at: row.next_check_at.toISOString(),
    certificate: certificate ? certificateView(certificate) : null,
    verification_target: row.verification_target,
    verification_token: row.verification_token,
    instructions: `Add the record ${row.hostname} CNAME ${row.verification_target}, then verify. Where a CNAME is not possible, add _verify.${row.hostname} TXT "${row.verification_token}" and let the name lead here by other means.`,
    deployment_id: row.deployment_id,
    sandbox_id: null,
    resource_type: row.deployment_id ? "deployment" : null,
    resource_id: row.deployment_id,
    redirect_policy: row.redirect_policy,
    verified_at: row.verified_at?.toISOString() ?? null,
    tls_issued_at: certificate?.issued_at?.toISOString() ?? null,
    last_checked_at: row.checked_at?.toISOString() ?? null,
    last_error: row.last_error,
    created_at: row.created_at.toISOString(),
    inserted_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}
