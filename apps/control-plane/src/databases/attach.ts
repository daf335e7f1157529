import { query } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { maskedPreview } from "../seal.ts";
import { notReady, ownDatabase } from "./store.ts";

export interface Attached {
  readonly attached: true;
  readonly database_id: string;
  readonly env_vars: { name: string; preview: string }[];
}

export type Owner = { readonly type: "sandbox" | "deployment"; readonly id: string };
type AfterAttach = (platform: Platform, owner: Owner) => Promise<void>;
const after = new Map<Owner["type"], AfterAttach>();

const renewal = new Map<Owner["type"], AfterAttach>();

/** What more a resource needs than on a new link when what it uses already has changed. */
export function onRenewal(type: Owner["type"], act: AfterAttach): void {
  renewal.set(type, act);
}

/** How a resource learns that its links changed; set by the feature that owns it. */
export function onAttach(type: Owner["type"], act: AfterAttach): void {
  after.set(type, act);
}

/** Gives a linked resource the credentials that hold now. */
export async function renewLinked(platform: Platform, owner: Owner): Promise<void> {
  await (renewal.get(owner.type) ?? after.get(owner.type))?.(platform, owner);
}

/** Links a database that is proved to log in; the resource gets it before this answers. */
export async function attachDatabase(
  platform: Platform,
  caller: Caller,
  databaseId: string,
  envName: string,
  owner: Owner,
): Promise<Attached & Record<string, unknown>> {
  const database = await ownDatabase(platform.pool, caller, databaseId);
  if (database.state !== "running") throw notReady(database);
  const credentials = await platform.host.credentials(database.host_key);
  await platform.pool.query(
    `insert into database_links (database_id, resource_type, resource_id, env_name) values ($1, $2, $3, $4)
     on conflict (resource_type, resource_id, env_name) do update set database_id = excluded.database_id`,
    [database.id, owner.type, owner.id, envName],
  );
  await after.get(owner.type)?.(platform, owner);
  return {
    attached: true,
    [`${owner.type}_id`]: owner.id,
    database_id: database.id,
    env_vars: [{ name: envName, preview: maskedPreview(credentials.url) }],
  };
}

/** The database whose URL is in DATABASE_URL of a resource, or the first linked one. */
export async function mainDatabaseOf(platform: Platform, owner: Owner): Promise<string | null> {
  const rows = await query<{ database_id: string }>(
    platform.pool,
    "select database_id from database_links where resource_type = $1 and resource_id = $2 order by (env_name = 'DATABASE_URL') desc, env_name",
    [owner.type, owner.id],
  );
  return rows[0]?.database_id ?? null;
}
