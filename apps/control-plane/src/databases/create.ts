import { PlatformError, type CreateDatabase, type DatabaseChoice } from "@platform/contract";
import type { Queryable } from "@platform/postgres";
import type { z } from "zod";
import { recordIn } from "../events/index.ts";
import type { Call, Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { resolvePlacement } from "../tenants/index.ts";
import { loadDatabase, ownDatabase, type DatabaseRow } from "./store.ts";

const engines: Record<string, string> = {
  postgresql: "postgresql",
  postgres: "postgresql",
  pg: "postgresql",
  mysql: "mysql",
  mariadb: "mysql",
  redis: "redis",
  valkey: "redis",
};
const standardVersion: Record<string, string> = { postgresql: "16", mysql: "10.11", redis: "7" };
const offered: Record<string, readonly string[]> = {
  postgresql: ["16", "17", "18"],
  mysql: ["10.11"],
  redis: ["7"],
};
/** Below it no server of the engine starts. */
const leastMemoryMb: Record<string, number> = { postgresql: 64, mysql: 128, redis: 64 };

/** Sizes for `database: {size}` in other create calls. */
const namedSizes: Record<string, { memory_mb: number; storage_mb: number }> = {
  xs: { memory_mb: 256, storage_mb: 1024 },
  small: { memory_mb: 1024, storage_mb: 10_240 },
  medium: { memory_mb: 2048, storage_mb: 20_480 },
  large: { memory_mb: 4096, storage_mb: 40_960 },
};

export function engineOf(name: string): string {
  const engine = engines[name.toLowerCase()];
  if (!engine)
    throw new PlatformError(
      "VALIDATION_FAILED",
      `engine "${name}" is not offered. Use postgresql, mysql or redis.`,
      { errors: { engine: ["is not offered"] } },
    );
  return engine;
}

/** Clients of older releases ask for PostgreSQL 15; it gets the oldest one offered, and the answer says so. */
export function versionOf(engine: string, wanted: string | undefined): string {
  if (!wanted) return standardVersion[engine]!;
  const list = offered[engine]!;
  const found = list.find((version) => wanted === version || wanted.startsWith(`${version}.`));
  if (found) return found;
  if (engine === "postgresql" && Number(wanted.split(".")[0]) < 16) return "16";
  const what = engine === "mysql" ? "MySQL-compatible MariaDB " : "";
  throw new PlatformError(
    "ENGINE_VERSION_UNAVAILABLE",
    `${engine} ${wanted} is not offered. Use one of: ${what}${list.join(", ")}.`,
    { errors: { engine_version: ["is not offered"] } },
  );
}

function assertSize(engine: string, memoryMb: number | undefined): void {
  const least = leastMemoryMb[engine]!;
  if (memoryMb === undefined || memoryMb >= least) return;
  throw new PlatformError(
    "VALIDATION_FAILED",
    `memory_mb is ${memoryMb}, too little for ${engine}. Give it ${least} or more.`,
    { errors: { memory_mb: [`must be at least ${least} for ${engine}`] } },
  );
}

async function assertEngine(platform: Platform, engine: string): Promise<void> {
  const doctor = await platform.host.doctor().catch(() => null);
  const report = doctor?.engines.find((one) => one.engine === engine);
  // Without an answer the reconciler finds out; a machine that says no is believed at once.
  if (doctor && !report?.usable) {
    throw new PlatformError(
      "ENGINE_UNAVAILABLE",
      `The engine ${engine} is not available: ${report?.why ?? "it is not installed on this machine."} Or create a postgresql database.`,
      { details: { engine } },
    );
  }
}

interface Owner {
  readonly workspaceId: string | null;
  readonly projectId: string | null;
}

async function insertDatabase(
  db: Queryable,
  caller: Caller,
  id: string,
  input: CreateInput,
  owner: Owner,
): Promise<void> {
  const engine = engineOf(input.engine);
  const inserted = await db.query(
    `insert into databases (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, metadata, name, engine,
       engine_version, cpu_count, memory_mb, storage_mb, region, environment_id, host_key)
     values ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17) on conflict (id) do nothing`,
    [
      id,
      caller.tenantId,
      owner.workspaceId,
      owner.projectId,
      input.external_workspace_id ?? null,
      input.external_user_id ?? caller.externalUserId,
      input.external_project_id ?? null,
      input.metadata,
      input.name,
      engine,
      versionOf(engine, input.engine_version),
      input.cpu_count ?? 1,
      input.memory_mb ?? 1024,
      input.storage_mb ?? 10_240,
      input.region ?? null,
      input.environment_id ?? null,
      `db-${id}`,
    ],
  );
  if (inserted.rowCount === 1) {
    await recordIn(db, {
      tenantId: caller.tenantId,
      workspaceId: owner.workspaceId,
      type: "database.created",
      resourceType: "database",
      resourceId: id,
      data: { id, name: input.name, engine },
    });
  }
}

type CreateInput = Pick<z.output<typeof CreateDatabase>, "name" | "engine" | "metadata"> &
  Partial<z.output<typeof CreateDatabase>>;

export async function createDatabase(
  platform: Platform,
  call: Call,
  input: z.output<typeof CreateDatabase>,
): Promise<DatabaseRow> {
  const id = call.idFor("database");
  const found = await loadDatabase(platform.pool, id);
  if (found) return found;
  const engine = engineOf(input.engine);
  versionOf(engine, input.engine_version);
  assertSize(engine, input.memory_mb);
  await assertEngine(platform, engine);
  const owner = await resolvePlacement(platform.pool, call.caller, input);
  await insertDatabase(platform.pool, call.caller, id, input, owner);
  platform.signals.announce("work:databases", "events");
  return (await loadDatabase(platform.pool, id))!;
}

export interface LinkOwner extends Owner {
  readonly type: "sandbox" | "deployment";
  readonly id: string;
  readonly name: string;
}

/** `database: true` or `{engine, …}` in another create call: the database and its link, in the caller's transaction. */
export async function createLinkedDatabase(
  db: Queryable,
  call: Call,
  choice: z.output<typeof DatabaseChoice>,
  owner: LinkOwner,
): Promise<void> {
  if (choice === false) return;
  const wanted = choice === true ? {} : choice;
  let databaseId: string;
  if (wanted.existing_database_id)
    databaseId = (await ownDatabase(db, call.caller, wanted.existing_database_id)).id;
  else {
    databaseId = call.idFor("database");
    const size = namedSizes[wanted.size ?? "small"] ?? namedSizes["small"]!;
    await insertDatabase(
      db,
      call.caller,
      databaseId,
      {
        name: `${owner.name}-db`,
        engine: wanted.engine ?? "postgresql",
        metadata: {},
        engine_version: wanted.engine_version,
        ...size,
        ...(wanted.storage_mb ? { storage_mb: wanted.storage_mb } : {}),
      },
      owner,
    );
  }
  await db.query(
    `insert into database_links (database_id, resource_type, resource_id, env_name) values ($1, $2, $3, 'DATABASE_URL') on conflict do nothing`,
    [databaseId, owner.type, owner.id],
  );
}
