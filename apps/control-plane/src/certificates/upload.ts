import { CertificateRefused, inspectCertificate, type Inspected } from "@platform/certificates";
import { PlatformError } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { tenantById } from "../tenants/index.ts";
import { certificateById, storeIssued, type CertificateRow } from "./store.ts";

function inspect(certificate: string, key: string): Inspected {
  try {
    return inspectCertificate(certificate, key);
  } catch (error) {
    if (!(error instanceof CertificateRefused)) throw error;
    throw new PlatformError("CERTIFICATE_INVALID", `The certificate cannot be served: ${error.message}.`, {
      details: { reason: error.fault },
      errors: { [error.fault.startsWith("key_") ? "private_key" : "certificate"]: [error.message] },
    });
  }
}

/** Whether a name of a certificate, perhaps a wildcard, serves the host name. */
const serves = (name: string, hostname: string): boolean =>
  name === hostname || (name.startsWith("*.") && hostname.slice(hostname.indexOf(".")) === name.slice(1));

/** Names of the certificate that lead to something of this tenant's: proved custom domains, or its own domains. */
async function ownNames(platform: Platform, tenantId: string, names: readonly string[]): Promise<string[]> {
  const tenant = (await tenantById(platform.pool, tenantId))!;
  const own = [tenant.domain, tenant.preview_domain, tenant.deployment_domain].filter((one) => one !== null);
  const proved = await query<{ hostname: string }>(
    platform.pool,
    `select hostname from domains where tenant_id = $1 and state <> 'removed' and verified_at is not null
     union select hostname from routes where tenant_id = $1 and kind = 'custom' and target is not null`,
    [tenantId],
  );
  return names.filter((name) => {
    const bare = name.replace(/^\*\./, "");
    if (own.some((domain) => bare === domain || bare.endsWith(`.${domain}`))) return true;
    return proved.some(({ hostname }) => serves(name, hostname));
  });
}

/**
 * Stores a certificate that the tenant brings. Edges serve it for this tenant's host names alone, whatever
 * else it names.
 *
 * @throws PlatformError CERTIFICATE_INVALID, CERTIFICATE_NAMES_FOREIGN
 */
export async function uploadCertificate(
  platform: Platform,
  tenantId: string,
  id: string,
  input: { certificate: string; private_key: string },
): Promise<CertificateRow> {
  const found = inspect(input.certificate, input.private_key);
  const own = await ownNames(platform, tenantId, found.names);
  if (own.length === 0)
    throw new PlatformError(
      "CERTIFICATE_NAMES_FOREIGN",
      `The certificate is for ${found.names.slice(0, 5).join(", ")}: none of these is a domain that you have proved. Add and verify the domain first.`,
      { details: { names: found.names.slice(0, 100) } },
    );
  const { rowCount } = await platform.pool.query(
    `insert into certificates (id, tenant_id, name, names, source) values ($1, $2, $3, $4, 'upload') on conflict do nothing`,
    [id, tenantId, own[0], found.names],
  );
  if (rowCount === 1) {
    await storeIssued(platform, id, { ...found, chain: found.certificate });
    await recordIn(platform.pool, {
      tenantId,
      type: "certificate.uploaded",
      resourceType: "certificate",
      resourceId: id,
      data: { id, names: found.names, not_after: found.notAfter.toISOString() },
    });
    platform.signals.announce("events");
  }
  return (await certificateById(platform.pool, id))!;
}

const warnDays = 21;

/** Chore: nobody renews what a tenant brought, so it hears of the end in time, once. */
export async function warnOfExpiry(platform: Platform): Promise<void> {
  const rows = await query<CertificateRow>(
    platform.pool,
    `update certificates set last_error = jsonb_build_object('reason', 'expires_soon', 'message', 'It ends on ' || to_char(not_after, 'YYYY-MM-DD') || '.',
         'next_step', 'Upload its successor.', 'at', to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
     where source = 'upload' and removed_at is null and last_error is null and not_after < now() + interval '${warnDays} days' returning *`,
  );
  for (const row of rows)
    await recordIn(platform.pool, {
      tenantId: row.tenant_id,
      type: "certificate.expiring",
      resourceType: "certificate",
      resourceId: row.id,
      data: { id: row.id, names: row.names, not_after: row.not_after!.toISOString() },
    });
  if (rows.length > 0) platform.signals.announce("events");
}

export const uploadedById = (platform: Platform, tenantId: string, id: string) =>
  queryOne<CertificateRow>(
    platform.pool,
    "select * from certificates where id = $1 and tenant_id = $2 and removed_at is null",
    [id, tenantId],
  );
