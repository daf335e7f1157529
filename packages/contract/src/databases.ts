import { z } from "zod";
import { External, ListQuery, Metadata, Name, NoBody, Placement, queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";

export const CreateDatabase = z.object({
  name: Name,
  engine: z.string().default("postgresql"),
  engine_version: z.coerce.string().optional(),
  cpu_count: z.coerce.number().int().min(1).max(64).optional(),
  memory_mb: z.coerce.number().int().min(64).max(262_144).optional(),
  storage_mb: z.coerce.number().int().min(64).max(1_048_576).optional(),
  region: z.string().optional(),
  environment_id: z.string().optional(),
  metadata: Metadata.default({}),
  ...External.shape,
  ...Placement.shape,
});
export const Database = z.looseObject({
  id: z.uuid(),
  name: z.string(),
  engine: z.string(),
  engine_version: z.string(),
  state: z.string(),
  status: z.string(),
  host: z.string().nullable(),
  port: z.int().nullable(),
  connection_test: z
    .looseObject({ status: z.string(), reason: z.string().nullable() })
    .nullable()
    .optional()
    .describe("From a real login with the issued credentials"),
});
export const Credentials = z.looseObject({
  url: z.string(),
  recommended_url: z.string(),
  pooled_url: z
    .string()
    .optional()
    .describe("Through the pooler, in transaction mode; absent unless a login through it just succeeded"),
  host: z.string(),
  port: z.int(),
  user: z.string(),
  username: z.string(),
  password: z.string(),
  database: z.string(),
});

export const RotateCredentials = z
  .looseObject({
    overlap_sec: z
      .int()
      .min(0)
      .max(86_400)
      .default(0)
      .describe("Old and new credentials both log in at least for so long"),
  })
  .prefault({});
export const CreateDatabaseUser = z.object({
  name: z.string().regex(/^[a-z][a-z0-9-]{0,31}$/, "starts with a letter; letters, digits and - only"),
  access: z.enum(["read", "owner"]).default("read"),
});

export const RestoreBackup = z
  .object({
    backup_id: z.uuid().optional(),
    target_time: z.iso
      .datetime({ offset: true })
      .optional()
      .describe("A moment within what GET …/point-in-time tells; PostgreSQL only"),
    name: Name.optional(),
  })
  .refine((body) => (body.backup_id === undefined) !== (body.target_time === undefined), {
    message: "give either backup_id or target_time",
    path: ["backup_id"],
  });
export const BranchDatabase = z.object({ name: Name.optional() }).prefault({});
export const BackupPolicy = z.object({
  enabled: z.boolean().default(true),
  every_hours: z.int().min(1).max(720).default(24),
  keep: z.int().min(1).max(100).default(7).describe("Scheduled backups that stay"),
  final_days: z
    .int()
    .min(0)
    .max(365)
    .default(7)
    .describe("How long a last backup stays when the database is deleted; 0: none is made"),
  point_in_time: z
    .boolean()
    .default(false)
    .describe("Also store the log, so that any moment can be restored; PostgreSQL only"),
  window_days: z.int().min(1).max(35).default(7).describe("How far back a moment may lie"),
});
export const UpgradeDatabase = z.object({
  engine_version: z.coerce.string().describe("The major version wanted"),
  keep_days: z
    .int()
    .min(0)
    .max(30)
    .default(7)
    .describe("How long the server of the earlier version waits as the way back"),
});

const tag = "Databases";
const d = { tag, envelope: "data" } as const;
const base = "/databases/:id";
const backup = {
  method: "POST",
  summary: "Back up now: encrypted, into object storage, then restored once to prove it",
  ...d,
  scope: "databases:write",
  status: 201,
  body: NoBody,
  idempotent: true,
  problems: ["DATABASE_NOT_READY"],
} as const;
const restore = {
  method: "POST",
  summary: "Restore a backup into a new database; this one stays as it is",
  ...d,
  scope: "databases:write",
  status: 201,
  body: RestoreBackup,
  idempotent: true,
  problems: ["RESTORE_POINT_UNAVAILABLE", "DATABASE_NOT_READY"],
} as const;
export const databaseRoutes = {
  list: defineRoute({
    id: "listDatabases",
    method: "GET",
    path: "/databases",
    summary: "List databases",
    tag,
    envelope: "list",
    scope: "databases:read",
    query: ListQuery,
  }),
  create: defineRoute({
    id: "createDatabase",
    method: "POST",
    path: "/databases",
    summary: "Create a database",
    ...d,
    scope: "databases:write",
    status: 201,
    body: CreateDatabase,
    response: Database,
    idempotent: true,
    problems: ["ENGINE_UNAVAILABLE", "ENGINE_VERSION_UNAVAILABLE"],
  }),
  get: defineRoute({
    id: "getDatabase",
    method: "GET",
    path: base,
    summary: "A database",
    ...d,
    scope: "databases:read",
    response: Database,
  }),
  remove: defineRoute({
    id: "deleteDatabase",
    method: "DELETE",
    path: base,
    summary: "Delete a database and everything in it",
    ...d,
    scope: "databases:write",
  }),
  start: defineRoute({
    id: "startDatabase",
    method: "POST",
    path: `${base}/start`,
    summary: "Start",
    ...d,
    scope: "databases:write",
    body: NoBody,
  }),
  stop: defineRoute({
    id: "stopDatabase",
    method: "POST",
    path: `${base}/stop`,
    summary: "Stop",
    ...d,
    scope: "databases:write",
    body: NoBody,
  }),
  restart: defineRoute({
    id: "restartDatabase",
    method: "POST",
    path: `${base}/restart`,
    summary: "Restart",
    ...d,
    scope: "databases:write",
    body: NoBody,
  }),
  credentials: defineRoute({
    id: "getCredentials",
    method: "GET",
    path: `${base}/credentials`,
    summary: "Credentials that were proved to log in",
    ...d,
    scope: "databases:read",
    response: Credentials,
    problems: ["DATABASE_NOT_READY"],
  }),
  rotate: defineRoute({
    id: "rotateCredentials",
    method: "POST",
    path: `${base}/rotate`,
    summary: "New credentials; the old ones hold until whatever is linked has the new ones",
    ...d,
    scope: "databases:write",
    body: RotateCredentials,
    response: Credentials,
  }),
  users: defineRoute({
    id: "listDatabaseUsers",
    method: "GET",
    path: `${base}/users`,
    summary: "Users beside the main one",
    ...d,
    scope: "databases:read",
  }),
  createUser: defineRoute({
    id: "createDatabaseUser",
    method: "POST",
    path: `${base}/users`,
    summary: "A further user, with credentials of its own; the same name again gives the same ones",
    ...d,
    scope: "databases:write",
    status: 201,
    body: CreateDatabaseUser,
  }),
  removeUser: defineRoute({
    id: "deleteDatabaseUser",
    method: "DELETE",
    path: `${base}/users/:name`,
    summary: "Remove a user and end its sessions",
    ...d,
    scope: "databases:write",
  }),
  logs: defineRoute({
    id: "getDatabaseLogs",
    method: "GET",
    path: `${base}/logs`,
    summary: "Server log",
    tag,
    envelope: "top",
    scope: "databases:read",
    query: z.object({ lines: queryInt(1, 500, 100), since: z.string().optional() }),
  }),
  logsStream: defineRoute({
    id: "streamDatabaseLogs",
    method: "GET",
    path: `${base}/logs/stream`,
    summary: "Follow the server log",
    tag,
    envelope: "raw",
    scope: "databases:read",
    stream: true,
    query: z.looseObject({}),
  }),
  metrics: defineRoute({
    id: "getDatabaseMetrics",
    method: "GET",
    path: `${base}/metrics`,
    summary: "Metrics",
    ...d,
    scope: "databases:read",
    query: z.object({ window: z.string().default("1h") }),
  }),
  backups: defineRoute({
    id: "listBackups",
    method: "GET",
    path: `${base}/backups`,
    summary: "Backups",
    ...d,
    scope: "databases:read",
  }),
  createBackup: defineRoute({ id: "createBackup", path: `${base}/backups`, ...backup }),
  createBackupOld: defineRoute({ id: "createBackupOld", path: `${base}/backup`, ...backup }),
  restore: defineRoute({ id: "restoreBackup", path: `${base}/restores`, ...restore }),
  restoreOld: defineRoute({ id: "restoreBackupOld", path: `${base}/restore`, ...restore }),
  backupPolicy: defineRoute({
    id: "setBackupPolicy",
    method: "PUT",
    path: `${base}/backup-policy`,
    summary: "How often backups are made, how many stay, and how long the last one of a deleted database",
    ...d,
    scope: "databases:write",
    body: BackupPolicy,
    response: Database,
  }),
  pointInTime: defineRoute({
    id: "getPointInTime",
    method: "GET",
    path: `${base}/point-in-time`,
    summary: "Which moments can be restored",
    ...d,
    scope: "databases:read",
  }),
  branch: defineRoute({
    id: "branchDatabase",
    method: "POST",
    path: `${base}/branches`,
    summary: "A new database with the content of this moment",
    ...d,
    scope: "databases:write",
    status: 201,
    body: BranchDatabase,
    response: Database,
    idempotent: true,
    problems: ["DATABASE_NOT_READY"],
  }),
  upgrade: defineRoute({
    id: "upgradeDatabase",
    method: "POST",
    path: `${base}/upgrade`,
    summary: "A newer major version: same address, accounts and content, which is compared before it counts",
    ...d,
    scope: "databases:write",
    status: 202,
    body: UpgradeDatabase,
    response: Database,
    problems: ["DATABASE_NOT_READY", "ENGINE_VERSION_UNAVAILABLE", "CONFLICT"],
  }),
  goBack: defineRoute({
    id: "undoDatabaseUpgrade",
    method: "POST",
    path: `${base}/upgrade/undo`,
    summary: "The server of the earlier version again, without what was written since",
    ...d,
    scope: "databases:write",
    status: 202,
    body: NoBody,
    response: Database,
    problems: ["DATABASE_NOT_READY", "CONFLICT"],
  }),
  forgetWayBack: defineRoute({
    id: "endDatabaseUpgrade",
    method: "DELETE",
    path: `${base}/upgrade`,
    summary: "Remove the server of the earlier version that waits",
    ...d,
    scope: "databases:write",
    response: Database,
    problems: ["CONFLICT"],
  }),
} as const;
