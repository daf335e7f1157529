import { certificateRoutes as r, notFound, PlatformError } from "@platform/contract";
import { recordIn } from "../events/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { assertWholeTenant, Conditions, isUuid, page } from "../tenants/index.ts";
import { wildcardsOf } from "./delegations.ts";
import type { AcmeSettings } from "./settings.ts";
import { certificateFor, certificateView, removeCertificate, type CertificateRow } from "./store.ts";
import { uploadCertificate, uploadedById } from "./upload.ts";

export function certificateHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const settings: AcmeSettings | null = platform.settings.acme ?? null;
  const own = async (call: Call): Promise<CertificateRow> => {
    assertWholeTenant(call.caller, "Certificates");
    const given = call.params["id"]!.toLowerCase();
    const { tenantId } = call.caller;
    const row = isUuid(given)
      ? await uploadedById(platform, tenantId, given)
      : await certificateFor(pool, tenantId, given);
    if (!row) throw notFound(`Certificate ${given}`);
    return row;
  };
  const wildcards = async (call: Call, mustLook: boolean) => {
    assertWholeTenant(call.caller, "Certificates");
    return { data: await wildcardsOf(platform, settings, call.caller.tenantId, mustLook) };
  };
  return [
    handler(r.list, async (call) => {
      assertWholeTenant(call.caller, "Certificates");
      const conditions = new Conditions()
        .add("tenant_id = $?", call.caller.tenantId)
        .raw("removed_at is null");
      const { rows, next_cursor } = await page<CertificateRow>(pool, "certificates", conditions, call.query);
      return { data: rows.map(certificateView), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.upload, async (call) => {
      assertWholeTenant(call.caller, "Certificates");
      const id = (call as unknown as Call).idFor("certificate");
      return certificateView(await uploadCertificate(platform, call.caller.tenantId, id, call.body));
    }),
    handler(r.wildcards, (call) => wildcards(call as Call, false)),
    handler(r.checkWildcards, (call) => wildcards(call as Call, true)),
    handler(r.get, async (call) => certificateView(await own(call as Call))),
    handler(r.remove, async (call) => {
      const row = await own(call as Call);
      if (row.source === "acme")
        throw new PlatformError(
          "CONFLICT",
          `${row.name} is managed: it is renewed as long as the name is served, and ends by itself. Remove the domain instead.`,
        );
      await removeCertificate(platform, row.id);
      await recordIn(pool, {
        tenantId: row.tenant_id,
        type: "certificate.removed",
        resourceType: "certificate",
        resourceId: row.id,
        data: { id: row.id, names: row.names },
      });
      platform.signals.announce("events");
      return { id: row.id, deleted: true };
    }),
  ];
}
