import { sandboxRoutes as r } from "@platform/contract";
import { guestOf } from "../guests.ts";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { maskedPreview } from "../seal.ts";
import { environmentOf, ownEnvironment } from "./box-spec.ts";
import { startedServices } from "./desired-services.ts";
import { listenHints } from "./environment.ts";
import { loadSandbox, ownSandbox, type SandboxRow } from "./store.ts";

/** Brings the environment as it should be now to the running box: processes started later see it. */
export async function syncEnvironment(platform: Platform, row: SandboxRow): Promise<string[]> {
  const { env, linked } = await environmentOf(platform, row);
  if (row.state === "running" || row.state === "paused")
    await platform.host.patchBox(row.box_key, { env, links: linked.links });
  return Object.keys(env)
    .filter((name) => listenHints[name] !== env[name])
    .sort();
}

/** As above, and what runs is started again with it: a process keeps the variables that it was started with. */
export async function renewEnvironment(platform: Platform, row: SandboxRow): Promise<void> {
  await syncEnvironment(platform, row);
  if (row.state !== "running") return;
  const { services } = guestOf(platform.host, row.box_key);
  for (const { name } of startedServices(row)) {
    await services.restart(name).catch((error: unknown) => {
      platform.log.warn(
        { err: error, sandbox: row.id, service: name },
        "a service could not be started again",
      );
    });
  }
}

export function sandboxEnvHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const list = async (id: string) => {
    const row = (await loadSandbox(pool, id))!;
    const { env } = await environmentOf(platform, row);
    return Object.entries(env)
      .filter(([name, value]) => listenHints[name] !== value)
      .sort(([a], [b]) => a.localeCompare(b))
      .map(([name, value]) => ({ key: name, name, encrypted: true, preview: maskedPreview(value) }));
  };
  const change = async (row: SandboxRow, edit: (env: Record<string, string>) => void) => {
    const client = await pool.connect();
    try {
      await client.query("begin");
      const locked = (
        await client.query<SandboxRow>("select * from sandboxes where id = $1 for update", [row.id])
      ).rows[0]!;
      const env = ownEnvironment(platform, locked);
      edit(env);
      await client.query("update sandboxes set env_sealed = $2, updated_at = now() where id = $1", [
        row.id,
        platform.seal.close(JSON.stringify(env)),
      ]);
      await client.query("commit");
    } catch (error) {
      await client.query("rollback");
      throw error;
    } finally {
      client.release();
    }
    await syncEnvironment(platform, (await loadSandbox(pool, row.id))!);
  };
  return [
    handler(r.env, async ({ caller, params }) => list((await ownSandbox(pool, caller, params["id"]!)).id)),
    handler(r.putEnv, async ({ caller, params, body }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      await change(row, (env) => {
        for (const { key, value } of body.vars) env[key] = value;
      });
      return list(row.id);
    }),
    handler(r.deleteEnv, async ({ caller, params }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      await change(row, (env) => {
        delete env[params["key"]!];
      });
      return { key: params["key"], deleted: true };
    }),
    handler(r.syncEnv, async ({ caller, params }) => ({
      status: "synced",
      env_keys: await syncEnvironment(platform, await ownSandbox(pool, caller, params["id"]!)),
    })),
  ];
}
