import { z } from "zod";

const flag = z
  .enum(["0", "1"])
  .default("0")
  .transform((value) => value === "1");

/** Settings of the edge, from the environment. */
export const EdgeConfig = z
  .object({
    EDGE_LISTEN_PORT: z.coerce.number().int().min(0).max(65_535).default(0).describe("0: any free port"),
    EDGE_TLS_PORT: z.coerce
      .number()
      .int()
      .min(0)
      .max(65_535)
      .optional()
      .describe("HTTPS beside HTTP; 0: any free port; absent: no HTTPS"),
    TLS_AUTHORITY_DIR: z
      .string()
      .min(1)
      .optional()
      .describe("Folder of an authority that makes certificates for tenants' names; for development"),
    TLS_AUTHORITY_NAME: z.string().min(1).default("Local").describe("Name in the authority's certificate"),
    ACME_DNS_ZONE: z
      .hostname()
      .toLowerCase()
      .optional()
      .describe("Zone that _acme-challenge names are delegated to; this edge answers for it"),
    ACME_DNS_NAMESERVERS: z
      .string()
      .default("")
      .transform((text) => text.split(",").flatMap((one) => one.trim().toLowerCase() || []))
      .pipe(z.array(z.hostname()))
      .describe("Names of the zone's name servers, comma separated, as the parent zone has them"),
    EDGE_DNS_PORT: z.coerce
      .number()
      .int()
      .min(0)
      .max(65_535)
      .optional()
      .describe("UDP and TCP; 0: any free port"),
    EDGE_DNS_ADDRESS: z.union([z.ipv4(), z.ipv6()]).default("127.0.0.1"),
    EDGE_ID: z.string().min(1).max(128),
    EDGE_TOKEN: z.string().min(16).describe("Bearer towards the control plane; signs the local route copy"),
    CONTROL_PLANE_URL: z.url({ protocol: /^http$/ }),
    HOST_TOKEN: z.string().min(1).describe("Bearer towards hosts"),
    EDGE_DATA_DIR: z.string().min(1),
    ARTIFACTS_DIR: z.string().min(1).describe("Bundle store of this machine"),
    PUBLIC_PORT: z.coerce.number().int().min(1).max(65_535).optional(),
    TRUST_FORWARDED: flag.describe("1: a proxy of the operator in front sets X-Forwarded-*"),
    EDGE_MAX_CONNECTIONS: z.coerce.number().int().min(1).max(1_000_000).default(20_000),
    EDGE_DATA_PLANE: z
      .enum(["node", "haproxy"])
      .default("node")
      .describe("haproxy: HAProxy listens in front and answers plain routes by itself"),
    EDGE_METRICS_PORT: z.coerce
      .number()
      .int()
      .min(0)
      .max(65_535)
      .optional()
      .describe("GET /metrics for Prometheus on 127.0.0.1; 0: any free port; absent: none"),
    EDGE_METRICS_TOKEN: z.string().min(16).optional().describe("Bearer that /metrics asks for"),
    EDGE_ACCESS_LOG: z
      .string()
      .min(1)
      .optional()
      .describe("File of the access log; access.log in the data folder if absent"),
    LOG_LEVEL: z.enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"]).default("info"),
  })
  .refine((config) => config.EDGE_METRICS_PORT === undefined || config.EDGE_METRICS_TOKEN !== undefined, {
    path: ["EDGE_METRICS_TOKEN"],
    error: "EDGE_METRICS_PORT needs a token",
  });
export type EdgeConfig = z.output<typeof EdgeConfig>;
