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
   * `tls_failed`, `timeout`, `starting`, `query_failed`, `upgrading`
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
  /** The server that waits since an upgrade: its major version. */
  wayBack: z.object({ version: z.string() }).nullable(),
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
  /** Reads that memory answered, of all, 0 to 1, since the server began; `null` without any. */
  cacheHitRatio: z.number().min(0).max(1).nullable(),
  slowQueries: z
    .object({
      longerThanMs: z.number(),
      /** How often since the server began; `null` where only the statements are counted. */
      count: z.number().nullable(),
      /** The slowest by mean time, without the values in them; `null` where the server keeps no texts. */
      statements: z
        .object({ text: z.string(), calls: z.number(), meanMs: z.number(), maxMs: z.number() })
        .array()
        .nullable(),
    })
    .nullable(),
});
export type DatabaseStats = z.output<typeof DatabaseStats>;

/** One statement by the issued login, in a session of its own. */
export const QueryRequest = z.object({
  sql: z.string().min(1),
  params: z.unknown().array().default([]),
  readOnly: z.boolean().default(false),
  maxRows: z.int().min(1).max(10_000).default(1_000),
  /** Of the rows as JSON. */
  maxBytes: z
    .int()
    .min(1)
    .default(4 * 1024 * 1024),
  timeoutMs: z.int().min(1).max(60_000).default(10_000),
});
export type QueryRequest = z.output<typeof QueryRequest>;

export const QueryAnswer = z.discriminatedUnion("ok", [
  z.object({
    ok: z.literal(true),
    /** The server's word for what it did, such as `SELECT`; `null` where it has none. */
    command: z.string().nullable(),
    columns: z.object({ name: z.string(), type: z.string() }).array(),
    rows: z.unknown().array().array(),
    /** Rows sent, or those changed by a statement that sends none. */
    rowCount: z.number().nullable(),
    /** Which limit left rows out. */
    cutBy: z.enum(["rows", "bytes"]).nullable(),
    ms: z.number(),
  }),
  z.object({
    ok: z.literal(false),
    /** `statement`: the server refused it; `timeout`; `connection`: no session. */
    reason: z.enum(["statement", "timeout", "connection"]),
    /** The server's own: SQLSTATE, or an error number. */
    code: z.string().nullable(),
    message: z.string(),
    detail: z.string().nullable(),
    hint: z.string().nullable(),
    /** In the statement, from 1, in characters. */
    position: z.int().nullable(),
  }),
]);
export type QueryAnswer = z.output<typeof QueryAnswer>;

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
/** Recorded with a release, in their order. */
export const MigrationsSpec = z.object({
  files: z.object({ name: z.string(), sha256: z.string(), sql: z.string() }).array(),
  /** Of each file, milliseconds. */
  timeoutMs: z.int().min(1_000).max(3_600_000).default(600_000),
});
export type MigrationsSpec = z.input<typeof MigrationsSpec>;
export const MigrationsDone = z.object({
  applied: z.string().array(),
  /** Those before it are in force, this one is not. */
  failed: z
    .object({
      name: z.string(),
      /** `changed`: it ran before with other content; `ended_transaction`: it holds a COMMIT or ROLLBACK of its own. */
      reason: z.enum(["statement", "changed", "ended_transaction", "connection"]),
      code: z.string().nullable(),
      message: z.string(),
      /** Characters from the beginning of the file; `null` where the server names none. */
      position: z.int().nullable(),
    })
    .nullable(),
});
export type MigrationsDone = z.output<typeof MigrationsDone>;

export const UpgradeSpec = z.object({ version: z.string() });
export const CopySpec = z.object({ from: BoxKey, spec: DatabaseSpec });
