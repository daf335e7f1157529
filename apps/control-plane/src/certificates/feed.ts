import {
  CertificateWish,
  sealCertificate,
  type CertificateAnswer,
  type CertificateEntry,
  type CertificateUpdate,
} from "@platform/edge-api";
import { query, queryOne } from "@platform/postgres";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { z } from "zod";
import type { Platform } from "../platform.ts";
import { openChallenges } from "./challenges.ts";
import { subjectOf } from "./names.ts";
import type { AcmeSettings } from "./settings.ts";
import { certificateById, stateOf, wantCertificate, type CertificateRow } from "./store.ts";

/** Certificates in one answer; about half a megabyte. */
const pageSize = 100;
/** Longest time that a handshake waits for an order. */
const wishMs = 20_000;
const unknownMs = 5_000;
const idleMs = 60_000;

function toEntry(platform: Platform, edgeToken: string, row: CertificateRow): CertificateEntry {
  const isThere = row.chain !== null && row.key_sealed !== null && row.removed_at === null;
  return {
    id: row.id,
    version: Number(row.version),
    tenantId: row.tenant_id,
    source: row.source,
    names: row.names,
    notBefore: row.not_before?.getTime() ?? 0,
    notAfter: row.not_after?.getTime() ?? 0,
    sealed: isThere
      ? sealCertificate(edgeToken, row.id, {
          certificate: row.chain,
          key: platform.seal.open(row.key_sealed),
        })
      : null,
  };
}

async function updateAfter(
  platform: Platform,
  edgeToken: string,
  applied: number,
): Promise<CertificateUpdate | null> {
  const feed = await queryOne<{ version: string }>(platform.pool, "select version from certificate_feed");
  const newest = Number(feed!.version);
  // An edge from another life of this database knows more than there is: start it afresh.
  const full = applied <= 0 || applied > newest;
  // Also where nothing was ever there: who got that told would ask at once again.
  if (newest === applied) return null;
  const rows = await query<CertificateRow>(
    platform.pool,
    `select * from certificates where version > $1 and version <= $2 and ($3 = false or removed_at is null)
     order by version limit ${pageSize + 1}`,
    [full ? 0 : applied, newest, full],
  );
  const more = rows.length > pageSize;
  const part = rows.slice(0, pageSize);
  return {
    version: more ? Number(part.at(-1)!.version) : newest,
    full,
    more,
    certificates: part.map((row) => toEntry(platform, edgeToken, row)),
    challenges: await openChallenges(platform),
  };
}

/** What a handshake gets: the certificate, as soon as it is there, or why there is none. */
async function grant(
  platform: Platform,
  settings: AcmeSettings | null,
  edgeToken: string,
  hostname: string,
): Promise<CertificateAnswer> {
  if (!settings) return { status: "refused", reason: "not_configured", retryAfterMs: idleMs };
  const subject = await subjectOf(platform.pool, hostname, settings.dnsZone !== null);
  if (!subject) return { status: "refused", reason: "unknown_name", retryAfterMs: unknownMs };
  const { id } = await wantCertificate(platform, subject);
  const found = await platform.signals.until(`certificate:${id}`, wishMs, async () => {
    const row = await certificateById(platform.pool, id);
    if (!row || row.removed_at) return null;
    if (stateOf(row) === "issued") return row;
    return row.last_error && row.next_try_at > new Date() ? row : undefined;
  });
  if (!found) return { status: "refused", reason: "still_pending", retryAfterMs: 1_000 };
  if (stateOf(found) === "issued")
    return { status: "issued", certificate: toEntry(platform, edgeToken, found) };
  const waitMs = found.next_try_at.getTime() - Date.now();
  return {
    status: "refused",
    reason: found.last_error!.reason,
    retryAfterMs: Math.min(idleMs, Math.max(1_000, waitMs)),
  };
}

const Poll = z.object({
  edge: z.string().min(1).max(100),
  applied: z.coerce.number().int().default(0),
  wait_ms: z.coerce.number().int().min(0).max(30_000).default(0),
});

export interface CertificateFeedOptions {
  readonly edgeToken: string;
  readonly acme: AcmeSettings | null;
  /** @throws PlatformError unless the request comes from an edge */
  readonly assertEdge: (request: FastifyRequest) => void;
}

/** What edges ask about certificates; on the control plane's own address only. */
export function registerCertificateFeed(
  app: FastifyInstance,
  platform: Platform,
  { edgeToken, acme, assertEdge }: CertificateFeedOptions,
): void {
  app.get("/internal/edge/certificates", async (request, reply) => {
    assertEdge(request);
    const poll = Poll.parse(request.query);
    const seen = () =>
      platform.pool.query(
        `insert into edges (id, certificates_applied, certificates_seen_at, last_seen_at) values ($1, $2, now(), '-infinity')
         on conflict (id) do update set certificates_applied = excluded.certificates_applied, certificates_seen_at = now()`,
        [poll.edge, poll.applied],
      );
    await seen();
    platform.signals.announce("edge-certificates");
    const alive = setInterval(() => void seen().catch(() => undefined), 2_000); // The next one tells again.
    const gone = new AbortController();
    reply.raw.on("close", () => gone.abort());
    try {
      const update = await platform.signals.until(
        "certificates",
        poll.wait_ms,
        async () => (await updateAfter(platform, edgeToken, poll.applied)) ?? undefined,
        gone.signal,
      );
      return update ? await reply.send(update) : await reply.status(204).send();
    } finally {
      clearInterval(alive);
    }
  });

  app.post("/internal/edge/certificates", async (request) => {
    assertEdge(request);
    const { hostname } = CertificateWish.parse(request.body);
    return grant(platform, acme, edgeToken, hostname);
  });
}
