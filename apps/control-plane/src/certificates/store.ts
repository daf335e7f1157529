import { query, queryOne, transaction, type Queryable } from "@platform/postgres";
import { randomUUID } from "node:crypto";
import type { Platform } from "../platform.ts";
import type { Subject } from "./names.ts";
import { renewalTime } from "./schedule.ts";

export interface CertificateRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly name: string;
  readonly names: string[];
  readonly source: "acme" | "upload";
  readonly chain: string | null;
  readonly key_sealed: Buffer | null;
  readonly not_before: Date | null;
  readonly not_after: Date | null;
  readonly fingerprint: string | null;
  readonly issuer: string | null;
  readonly version: string | null;
  readonly failures: number;
  readonly last_error: Failure | null;
  readonly next_try_at: Date;
  readonly order_url: string | null;
  readonly order_key_sealed: Buffer | null;
  readonly issued_at: Date | null;
  readonly removed_at: Date | null;
  readonly created_at: Date;
  readonly updated_at: Date;
}

/** Why there is no certificate, or no newer one, in words for the name's owner. */
export interface Failure {
  /** Stable, such as `validation_failed`. */
  readonly reason: string;
  readonly message: string;
  readonly next_step: string;
  readonly at: string;
}

export const certificateById = (db: Queryable, id: string) =>
  queryOne<CertificateRow>(db, "select * from certificates where id = $1", [id]);

export const certificateByName = (db: Queryable, name: string) =>
  queryOne<CertificateRow>(
    db,
    "select * from certificates where name = $1 and source = 'acme' and removed_at is null",
    [name],
  );

/** One row for a name, however many ask at once. */
export async function wantCertificate(platform: Platform, subject: Subject): Promise<CertificateRow> {
  await platform.pool.query(
    `insert into certificates (id, tenant_id, name, names, source) values ($1, $2, $3, $4, 'acme') on conflict do nothing`,
    [randomUUID(), subject.tenantId, subject.name, subject.names],
  );
  const row = await certificateByName(platform.pool, subject.name);
  if (!row) throw new Error(`the certificate of ${subject.name} was removed while it was asked for`);
  if (row.tenant_id !== subject.tenantId) {
    // The name has gone from one tenant to another; what was issued is for the name, whoever has it.
    await platform.pool.query("update certificates set tenant_id = $2 where id = $1", [
      row.id,
      subject.tenantId,
    ]);
  }
  if (row.chain === null) {
    await platform.pool.query(
      "update certificates set next_look_at = now() where id = $1 and chain is null",
      [row.id],
    );
    platform.signals.announce("work:certificates");
  }
  return row;
}

/** The next number that edges must acknowledge. Others wait until this transaction ends. */
export async function nextVersion(db: Queryable): Promise<number> {
  const row = await queryOne<{ version: string }>(
    db,
    "update certificate_feed set version = version + 1 returning version",
  );
  return Number(row!.version);
}

export interface Issued {
  readonly chain: string;
  readonly key: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly fingerprint: string;
  readonly issuer: string;
}

/** Puts a new certificate in force; edges learn of it at once and swap it without a pause. */
export async function storeIssued(platform: Platform, id: string, issued: Issued): Promise<void> {
  await transaction(platform.pool, async (db) => {
    const version = await nextVersion(db);
    await db.query(
      `update certificates set chain = $2, key_sealed = $3, not_before = $4, not_after = $5, fingerprint = $6, issuer = $7, version = $8,
         failures = 0, last_error = null, next_try_at = now(), order_url = null, order_key_sealed = null, issued_at = now(), updated_at = now()
       where id = $1`,
      [
        id,
        issued.chain,
        platform.seal.close(issued.key),
        issued.notBefore,
        issued.notAfter,
        issued.fingerprint,
        issued.issuer,
        version,
      ],
    );
  });
  platform.signals.announce("certificates", `certificate:${id}`);
}

/** @param retryAt not before this is another try of any use */
export async function storeFailure(
  platform: Platform,
  id: string,
  failure: Failure,
  retryAt: Date,
  how: { readonly keepsOrder: boolean; readonly counts: boolean },
): Promise<void> {
  await platform.pool.query(
    `update certificates set failures = failures + $5, last_error = $2, next_try_at = $3, updated_at = now(),
       order_url = case when $4 then order_url end, order_key_sealed = case when $4 then order_key_sealed end where id = $1`,
    [id, failure, retryAt, how.keepsOrder, how.counts ? 1 : 0],
  );
  platform.signals.announce(`certificate:${id}`);
}

/** The row stays, without its key, so that every edge learns of it. */
export async function removeCertificate(platform: Platform, id: string): Promise<void> {
  await transaction(platform.pool, async (db) => {
    const version = await nextVersion(db);
    await db.query(
      `update certificates set removed_at = now(), version = $2, chain = null, key_sealed = null, order_url = null,
         order_key_sealed = null, updated_at = now() where id = $1 and removed_at is null`,
      [id, version],
    );
  });
  platform.signals.announce("certificates");
}

export type CertificateState = "pending" | "issued" | "failed" | "expired";

export function stateOf(row: CertificateRow, now = new Date()): CertificateState {
  if (row.chain !== null && row.not_after! > now) return "issued";
  if (row.last_error) return "failed";
  return row.chain === null ? "pending" : "expired";
}

/** What the API shows; never a key. */
export function certificateView(row: CertificateRow) {
  const isAcme = row.source === "acme";
  return {
    id: row.id,
    name: row.name,
    names: row.names,
    source: isAcme ? ("managed" as const) : ("uploaded" as const),
    state: stateOf(row),
    issuer: row.issuer,
    fingerprint_sha256: row.fingerprint,
    not_before: row.not_before?.toISOString() ?? null,
    not_after: row.not_after?.toISOString() ?? null,
    issued_at: row.issued_at?.toISOString() ?? null,
    renews_at:
      isAcme && row.chain !== null
        ? renewalTime(row.id, row.not_before!, row.not_after!).toISOString()
        : null,
    last_error: row.last_error,
    next_try_at: row.last_error ? row.next_try_at.toISOString() : null,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

/** The newest certificate of a host name, its own or a wildcard beside it; null: none was ever wanted. */
export async function certificateFor(
  db: Queryable,
  tenantId: string,
  hostname: string,
): Promise<CertificateRow | null> {
  const rows = await query<CertificateRow>(
    db,
    `select * from certificates where removed_at is null and tenant_id = $1 and names && $2
     order by (source = 'upload' and not_after > now()) desc, (not_after > now()) desc nulls last, name = $3 desc limit 1`,
    [tenantId, [hostname, `*${hostname.slice(hostname.indexOf("."))}`], hostname],
  );
  return rows[0] ?? null;
}
