import { z } from "zod";
import { BoxKey } from "./box.ts";

export const DatabaseSpec = z.object({
  engine: z.enum(["postgresql", "mysql", "redis"]),
  /** Major version, such as "16". */
  version: z.string(),
  memoryBytes: z.int().min(16 * 1024 * 1024),
  storageBytes: z.int().min(16 * 1024 * 1024),
  /** Host name that goes into the URL handed out; resolves to the host's loopback or public address. */
  hostname: z.string(),
});
export type DatabaseSpec = z.input<typeof DatabaseSpec>;

/** A login that really happened. */
export const LoginProof = z.object({
  ok: z.boolean(),
  /** `auth_failed`, `unreachable`, `too_many_connections`, `disk_full`, `tls_failed`, `timeout`, `starting` */
  reason: z.string().nullable(),
  detail: z.string().nullable(),
  at: z.string(),
  latencyMs: z.number(),
  serverVersion: z.string().nullable(),
  tls: z.string().nullable().describe("Protocol seen, such as TLSv1.3"),
});
export type LoginProof = z.output<typeof LoginProof>;

export const HostedDatabase = z.object({
  key: BoxKey,
  engine: DatabaseSpec.shape.engine,
  version: z.string().describe("Exact server version, such as 16.14"),
  state: z.enum(["creating", "running", "stopped", "failed"]),
  hostname: z.string(),
  port: z.int(),
  /** Last login with the issued credentials. `running` is never reported without one that is ok. */
  proof: LoginProof.nullable(),
  failure: z.object({ reason: z.string(), detail: z.string() }).nullable(),
  isolation: z.object({ ownUid: z.boolean(), memoryLimit: z.boolean() }),
});
export type HostedDatabase = z.output<typeof HostedDatabase>;

export const DatabaseCredentials = z.object({
  url: z.string(),
  host: z.string(),
  port: z.int(),
  username: z.string(),
  password: z.string(),
  database: z.string(),
  /** PEM of the authority that signed the server's certificate. */
  caCertificate: z.string().nullable(),
});
export type DatabaseCredentials = z.output<typeof DatabaseCredentials>;

export const DatabaseStats = z.object({
  memoryBytes: z.number().nullable(),
  storageBytes: z.number().nullable(),
  connections: z.number().nullable(),
  uptimeSec: z.number().nullable(),
});
export type DatabaseStats = z.output<typeof DatabaseStats>;
