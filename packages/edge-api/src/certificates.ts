import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { z } from "zod";

/**
 * What the control plane tells every edge about certificates, beside the routes and in the same way: an
 * edge asks `GET /internal/edge/certificates?edge=ID&applied=V&wait_ms=25000` and gets a
 * CertificateUpdate as soon as something newer than V exists, or 204. Asking with `applied=V`
 * acknowledges V: a challenge is handed to the authority only when every live edge can answer it.
 */

export const CertificateEntry = z.object({
  id: z.string(),
  version: z.int(),
  tenantId: z.string(),
  /** `acme`: serves every name it has. `upload`: the tenant's own, serves that tenant's names alone. */
  source: z.enum(["acme", "upload"]),
  /** Host names, also `*.NAME`. */
  names: z.array(z.string()).min(1),
  /** Milliseconds since 1970. */
  notBefore: z.number(),
  notAfter: z.number(),
  /** Chain and key, by `sealCertificate`; null: the certificate is gone. */
  sealed: z.string().nullable(),
});
export type CertificateEntry = z.output<typeof CertificateEntry>;

export const AcmeChallenge = z.discriminatedUnion("type", [
  /** Served at `http://HOSTNAME/.well-known/acme-challenge/TOKEN`. */
  z.object({
    type: z.literal("http-01"),
    hostname: z.string(),
    token: z.string(),
    keyAuthorization: z.string(),
  }),
  z.object({ type: z.literal("tls-alpn-01"), hostname: z.string(), keyAuthorization: z.string() }),
  /** A TXT record of the zone that `_acme-challenge` names are delegated to. */
  z.object({ type: z.literal("dns-01"), name: z.string(), value: z.string() }),
]);
export type AcmeChallenge = z.output<typeof AcmeChallenge>;

export const CertificateUpdate = z.object({
  version: z.int(),
  /** True: the first part of everything there is; what no part names is gone. */
  full: z.boolean(),
  /** True: ask again at once, there is more. */
  more: z.boolean(),
  certificates: z.array(CertificateEntry),
  /** All that are open now. */
  challenges: z.array(AcmeChallenge),
});
export type CertificateUpdate = z.output<typeof CertificateUpdate>;

/** POST /internal/edge/certificates: a handshake wants a name that the edge has routes but no certificate for. */
export const CertificateWish = z.object({ hostname: z.string().min(1).max(253) });

export const CertificateAnswer = z.discriminatedUnion("status", [
  z.object({ status: z.literal("issued"), certificate: CertificateEntry }),
  z.object({
    status: z.literal("refused"),
    /** Stable code, such as `unknown_name` or `authority_unreachable`. */
    reason: z.string(),
    /** Asking again before is of no use, milliseconds. */
    retryAfterMs: z.number(),
  }),
]);
export type CertificateAnswer = z.output<typeof CertificateAnswer>;

/** Both in PEM. */
export interface CertificatePair {
  readonly certificate: string;
  readonly key: string;
}

const keyOf = (edgeToken: string): Buffer =>
  Buffer.from(hkdfSync("sha256", edgeToken, "", "certificates of an edge", 32));

/**
 * Chain and key, encrypted and authenticated (AES-256-GCM under a key derived from the edge token), bound
 * to the certificate's id: as it travels and as it lies on an edge's disk.
 */
export function sealCertificate(edgeToken: string, id: string, pair: CertificatePair): string {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", keyOf(edgeToken), nonce).setAAD(Buffer.from(id));
  const body = Buffer.concat([cipher.update(JSON.stringify(pair), "utf8"), cipher.final()]);
  return Buffer.concat([nonce, body, cipher.getAuthTag()]).toString("base64");
}

const Pair = z.object({ certificate: z.string(), key: z.string() });

/** @throws Error when it was changed, belongs to another certificate, or was sealed under another token */
export function openCertificate(edgeToken: string, id: string, sealed: string): CertificatePair {
  const bytes = Buffer.from(sealed, "base64");
  const decipher = createDecipheriv("aes-256-gcm", keyOf(edgeToken), bytes.subarray(0, 12));
  decipher.setAAD(Buffer.from(id)).setAuthTag(bytes.subarray(-16));
  const text = Buffer.concat([decipher.update(bytes.subarray(12, -16)), decipher.final()]).toString("utf8");
  return Pair.parse(JSON.parse(text));
}
