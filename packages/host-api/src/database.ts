import { z } from "zod";
import { BoxKey } from "./box.ts";

export const DatabaseSpec = z.object({
  engine: z.enum(["postgresql", "mysql", "redis"]),
  /** Major version, such as "16". */
  version: z.string(),
  memoryBytes: z.int().min(16 * 1024 * 1024),
  storageBytes: z.int().min(16 * 1024 * 1024),
  /** Thousandths of a core. */
  cpuMillis: z.int().min(10).default(1000),
  /** Host name that goes into the URL handed out; resolves to the host's loopback or public address. */
  hostname: z.string(),
});
export type DatabaseSpec = z.input<typeof DatabaseSpec>;

/** A login that really happened. */
export const LoginProof = z.object({
  ok: z.boolean(),
  /**
   * `auth_failed`, `unreachable`, `too_many_connections`, `disk_full`, `read_only`, `out_of_memory`,
   * `tls_failed`, `timeout`, `starting`, `query_failed`
   */
  reason: z.string().nullable(),
  detail: z.string().nullable(),
  at: z.string(),
  latencyMs: z.number(),
  serverVersion: z.string().nullable(),
  tls: z.string().nullable().describe("Protocol seen, such as TLSv1.3"),
});
export type LoginProof = z.output<typeof LoginProof>;

/** Shared connections in front of a server, as a login through them showed it. */
export const PoolingSeen = z.object({
  /** `unavailable`: its program is not on this machine. */
  state: z.enum(["running", "failed", "stopped", "unavailable"]),
  mode: z.enum(["transaction"]),
  port: z.int().nullable(),
  reason: z.string().nullable(),
  detail: z.string().nullable(),
  at: z.string(),
});
export type PoolingSeen = z.output<typeof PoolingSeen>;

export const HostedDatabase = z.object({
  key: BoxKey,
  engine: DatabaseSpec.shape.engine,
  version: z.string().describe("Exact server version, such as 16.14"),
  /** What serves it, in words for people, such as "MySQL-compatible (MariaDB 10.11.19)". */
  product: z.string(),
  state: z.enum(["creating", "running", "stopped", "failed"]),
  hostname: z.string(),
  port: z.int(),
  /** Last login with the issued credentials. `running` is never reported without one that is ok. */
  proof: LoginProof.nullable(),
  failure: z.object({ reason: z.string(), detail: z.string() }).nullable(),
  isolation: z.object({ ownUid: z.boolean(), memoryLimit: z.boolean(), diskLimit: z.boolean() }),
  /** Credentials that were handed out before still log in. */
  rotating: z.boolean(),
  /** `null` for engines that have none. */
  pooling: PoolingSeen.nullable(),
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
  /** By the pooler; `null` unless the last login through it succeeded. */
  pooledUrl: z.string().nullable(),
  pooledPort: z.int().nullable(),
});
export type DatabaseCredentials = z.output<typeof DatabaseCredentials>;

export const DatabaseStats = z.object({
  memoryBytes: z.number().nullable(),
  storageBytes: z.number().nullable(),
  /** Where writes stop; `null` where disks are not limited. */
  storageLimitBytes: z.number().nullable(),
  connections: z.number().nullable(),
  uptimeSec: z.number().nullable(),
});
export type DatabaseStats = z.output<typeof DatabaseStats>;

export const DatabaseUser = z.object({
  name: z.string().regex(/^[a-z][a-z0-9-]{0,31}$/),
  username: z.string(),
  access: z.enum(["owner", "read"]),
});
export type DatabaseUser = z.output<typeof DatabaseUser>;

/** Body of `PUT /databases/:key/users`. */
export const DatabaseUserSpec = DatabaseUser.pick({ name: true, access: true });

/** What a server gave away of its log, so that it can be stored elsewhere. */
export const LogStock = z.object({
  /** Whatever was acknowledged until then is in segments that are listed or were before. By the server's clock. */
  through: z.string(),
  /** The segment that is being written. */
  current: z.string(),
  segments: z.array(z.string()),
  /** Segments were thrown away because nobody stored them for too long. */
  hasGap: z.boolean(),
});
export type LogStock = z.output<typeof LogStock>;
/** Body of `POST /databases/:key/forgotten-log`. */
export const ForgottenLog = z.object({ names: z.array(z.string()) });

/** What is asked for with the stream of a backup. */
export const RestoreSpec = z.object({
  spec: DatabaseSpec,
  /** Nothing later shall be in the new database; `null`: everything that the stream holds. */
  targetTime: z.iso.datetime().nullable(),
});
export type RestoreSpec = z.input<typeof RestoreSpec>;
export const CopySpec = z.object({ from: BoxKey, spec: DatabaseSpec });
