import { z } from "zod";
import { ListQuery, NoBody } from "./fields.ts";
import { defineRoute } from "./route.ts";

const Failure = z.object({
  reason: z.string().describe("Stable, such as validation_failed, rate_limited, authority_unreachable"),
  message: z.string(),
  next_step: z.string(),
  at: z.string(),
});

export const Certificate = z.looseObject({
  id: z.string(),
  name: z.string(),
  names: z.array(z.string()),
  source: z.enum(["managed", "uploaded"]),
  state: z
    .enum(["pending", "issued", "failed", "expired"])
    .describe("issued: served. A managed one whose renewal fails stays issued until it ends"),
  issuer: z.string().nullable(),
  fingerprint_sha256: z.string().nullable(),
  not_before: z.string().nullable(),
  not_after: z.string().nullable(),
  issued_at: z.string().nullable(),
  renews_at: z.string().nullable(),
  last_error: Failure.nullable(),
  next_try_at: z.string().nullable(),
});
export type Certificate = z.output<typeof Certificate>;

export const UploadCertificate = z.object({
  certificate: z
    .string()
    .min(1)
    .max(64 * 1024)
    .describe("PEM: the server's certificate, then each issuer"),
  private_key: z
    .string()
    .min(1)
    .max(16 * 1024)
    .describe("PEM, without passphrase; never shown again"),
});

export const WildcardCertificate = z.looseObject({
  name: z.string().describe("Such as *.sandbox.example.com"),
  record: z
    .object({
      type: z.literal("CNAME"),
      name: z.string(),
      value: z.string(),
      found: z.array(z.string()),
      verdict: z.enum(["ok", "missing", "differs", "unreachable", "unchecked"]),
    })
    .describe("Delegates the authority's question to us"),
  checked_at: z.string().nullable(),
  certificate: Certificate.nullable(),
});

const tag = "Certificates";
const read = { tag, scope: "domains:read" } as const;
const write = { tag, scope: "domains:write" } as const;
export const certificateRoutes = {
  list: defineRoute({
    id: "listCertificates",
    method: "GET",
    path: "/certificates",
    summary: "Certificates of the tenant's host names",
    envelope: "list",
    query: ListQuery,
    ...read,
  }),
  upload: defineRoute({
    id: "uploadCertificate",
    method: "POST",
    path: "/certificates",
    summary: "Bring a certificate of one's own; it is checked before it is served",
    envelope: "data",
    status: 201,
    body: UploadCertificate,
    response: Certificate,
    idempotent: true,
    problems: ["CERTIFICATE_INVALID", "CERTIFICATE_NAMES_FOREIGN"],
    ...write,
  }),
  wildcards: defineRoute({
    id: "listWildcardCertificates",
    method: "GET",
    path: "/certificates/wildcards",
    summary: "Wildcards below the tenant's own domains, and the DNS record that each needs",
    envelope: "list",
    ...read,
  }),
  checkWildcards: defineRoute({
    id: "checkWildcardCertificates",
    method: "POST",
    path: "/certificates/wildcards/check",
    summary: "Look at the wildcards' DNS records now",
    envelope: "list",
    body: NoBody,
    ...write,
  }),
  get: defineRoute({
    id: "getCertificate",
    method: "GET",
    path: "/certificates/:id",
    summary: "A certificate by id, or by the host name that it serves",
    envelope: "data",
    response: Certificate,
    ...read,
  }),
  remove: defineRoute({
    id: "deleteCertificate",
    method: "DELETE",
    path: "/certificates/:id",
    summary: "Take an uploaded certificate out of service",
    envelope: "data",
    problems: ["CONFLICT"],
    ...write,
  }),
} as const;
