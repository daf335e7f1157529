import { faultPoint } from "@platform/daemon";
import { randomBytes } from "node:crypto";
import { PlatformError, deploymentRoutes as r, notFound } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { attachDatabase } from "../databases/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import {
  buildView,
  cancelBuild,
  deploymentEnvironment,
  examine,
  loadBuild,
  loadRelease,
  releaseView,
  versionView,
  type BuildRow,
  type ReleaseRow,
  type VersionRow,
} from "../releases/index.ts";
import { maskedPreview } from "../seal.ts";
import { Conditions, isUuid, ownedBy, page } from "../tenants/index.ts";
import { promote, rollback } from "./promote.ts";
import { createDeployment, publishSandbox, publishTo, redeploy, setEnvironment } from "./publish.ts";
import {
  deploymentView,
  instancesOf,
  instanceView,
  loadDeployment,
  ownDeployment,
  wantDeployment,
  type DeploymentRow,
} from "./store.ts";

const settleMs = 60_000;

const settled = (platform: Platform, id: string, done: (row: DeploymentRow) => boolean) =>
  platform.signals.until(`deployment:${id}`, settleMs, async () => {
    const row = await loadDeployment(platform.pool, id);
    return row && done(row) ? row : undefined;
  });

/** New values reach the running release through new instances; the old ones serve until those are healthy. */
export async function configurationChanged(platform: Platform, id: string): Promise<void> {
  await platform.pool.query("update deployments set config_version = config_version + 1 where id = $1", [id]);
  await wantDeployment(platform, id, {});
}

async function envList(platform: Platform, id: string) {
  const rows = await query<{ name: string; preview: string; created_at: Date; updated_at: Date }>(
    platform.pool,
    "select * from deployment_env where deployment_id = $1 order by name",
    [id],
  );
  const { linked } = await deploymentEnvironment(platform, id);
  const own = rows.map((row) => ({
    name: row.name,
    key: row.name,
    preview: row.preview,
    source: "user",
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  }));
  const fromDatabases = Object.entries(linked.env)
    .filter(([name]) => !own.some((row) => row.name === name))
    .map(([name, value]) => ({
      name,
      key: name,
      preview: maskedPreview(value),
      source: "database",
      created_at: null,
      updated_at: null,
    }));
  return [...own, ...fromDatabases];
}

export function deploymentHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = (call: Call) => ownDeployment(pool, call.caller, call.params["id"]!);
  const viewById = async (id: string) => deploymentView(platform, (await loadDeployment(pool, id))!);
  const belongs = async <T extends { deployment_id: string }>(
    call: Call,
    what: string,
    id: string,
    load: (id: string) => Promise<T | null>,
  ) => {
    const deployment = await own(call);
    const row = isUuid(id) ? await load(id) : null;
    if (!row || row.deployment_id !== deployment.id) throw notFound(`${what} ${id}`);
    return { deployment, row };
  };
  const version = (call: Call) =>
    belongs(call, "Version", call.params["vid"]!, (id) =>
      queryOne<VersionRow>(pool, "select * from versions where id = $1", [id]),
    );
  const release = (call: Call) =>
    belongs(call, "Release", call.params["rid"]!, (id) => loadRelease(pool, id));
  const ofDeployment = (id: string) => new Conditions().add("deployment_id = $?", id);

  return [
    handler(r.list, async ({ caller, query: filter }) => {
      const conditions = ownedBy(caller, filter).raw("state <> 'deleted' and desired <> 'deleted'");
      if (filter.state) conditions.add("state = $?", filter.state);
      const { rows, next_cursor } = await page<DeploymentRow>(pool, "deployments", conditions, filter);
      return {
        data: await Promise.all(rows.map((row) => deploymentView(platform, row))),
        ...(next_cursor ? { next_cursor } : {}),
      };
    }),
    handler(r.create, async (call) => {
      const row = await createDeployment(platform, call as unknown as Call, call.body);
      const secret = `whsec_${randomBytes(24).toString("base64url")}`;
      await pool.query("update deployments set webhook_secret_sealed = $2 where id = $1", [
        row.id,
        platform.seal.close(secret),
      ]);
      return { data: await deploymentView(platform, row), webhook_secret: secret };
    }),
    handler(r.get, async (call) => deploymentView(platform, await own(call as Call))),
    handler(r.update, async (call) => {
      const row = await own(call as Call);
      const { instances, settings, ...plain } = call.body;
      const set: Record<string, unknown> = Object.fromEntries(
        Object.entries(plain).filter(([, value]) => value !== undefined),
      );
      if (set["metadata"]) set["metadata"] = { ...row.metadata, ...(set["metadata"] as object) };
      const run = { ...settings, ...(instances === undefined ? {} : { instances }) };
      if (Object.keys(run).length > 0) set["settings"] = { ...row.settings, ...run };
      if (Object.keys(set).length > 0) await wantDeployment(platform, row.id, set);
      return viewById(row.id);
    }),
    handler(r.remove, async (call) => {
      const row = await own(call as Call);
      await wantDeployment(platform, row.id, { desired: "deleted" });
      const gone = await settled(platform, row.id, (now) => now.state === "deleted");
      if (!gone)
        throw new PlatformError(
          "HOST_UNAVAILABLE",
          "The deployment is still being removed. It will be; ask again to see.",
          { retryAfterMs: 5000 },
        );
      return { id: row.id, deleted: true };
    }),
    handler(r.publish, async (call) => {
      const row = await own(call as unknown as Call);
      return publishTo(platform, call as unknown as Call, row, call.body);
    }),
    handler(r.sandboxDeploy, async (call) => {
      const published = await publishSandbox(
        platform,
        call as unknown as Call,
        call.params["id"]!,
        call.body ?? {},
      );
      const url = published.deployment["public_url"];
      return {
        url,
        public_url: url,
        id: published.deployment["id"],
        deployment_id: published.deployment["id"],
        ...published,
      };
    }),
    handler(r.sandboxPublish, async (call) => {
      const published = await publishSandbox(
        platform,
        call as unknown as Call,
        call.params["id"]!,
        call.body ?? {},
      );
      const { deployment, version: madeVersion, release: madeRelease, promoted } = published;
      const url = deployment["public_url"];
      return {
        deployment_id: deployment["id"],
        version_id: madeVersion["id"],
        release_id: madeRelease["id"],
        url,
        state: deployment["state"],
        deployment_product: "miosa_deploy",
        data: {
          deployment,
          version: madeVersion,
          release: madeRelease,
          url,
          promotion_pending: !promoted,
          app_consistency_pending: false,
        },
      };
    }),
    handler(r.versions, async (call) => {
      const row = await own(call as Call);
      const conditions = ofDeployment(row.id);
      if (call.query.state) conditions.add("state = $?", call.query.state);
      const { rows, next_cursor } = await page<VersionRow>(pool, "versions", conditions, call.query);
      return { data: rows.map((one) => versionView(one, row)), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.version, async (call) => {
      const { deployment, row } = await version(call as Call);
      return versionView(row, deployment);
    }),
    handler(r.promoteVersion, async (call) => {
      const { deployment, row } = await version(call as Call);
      const target = await queryOne<ReleaseRow>(
        pool,
        "select * from releases where deployment_version_id = $1",
        [row.id],
      );
      return deploymentView(
        platform,
        await promote(platform, call as unknown as Call, deployment.id, target!.id, call.body),
      );
    }),
    handler(r.releases, async (call) => {
      const row = await own(call as Call);
      const conditions = ofDeployment(row.id);
      if (call.query.state && call.query.state !== "active") conditions.add("state = $?", call.query.state);
      if (call.query.state === "active") conditions.add("id = $?", row.active_release_id);
      const { rows, next_cursor } = await page<ReleaseRow>(pool, "releases", conditions, call.query);
      return {
        data: rows.map((one) => releaseView(one, row)),
        ...(next_cursor ? { next_cursor } : {}),
      };
    }),
    handler(r.release, async (call) => {
      const { deployment, row } = await release(call as Call);
      return releaseView(row, deployment);
    }),
    handler(r.releaseProvenance, async (call) => {
      const { row } = await release(call as Call);
      const { verified, why, differs, statement, publicKey } = await examine(platform, row);
      return {
        release_id: row.id,
        verified,
        reason: why,
        differs: [...differs],
        statement,
        envelope: row.attestation,
        public_key: publicKey,
      };
    }),
    handler(r.promoteRelease, async (call) => {
      const { deployment, row } = await release(call as Call);
      return deploymentView(
        platform,
        await promote(platform, call as unknown as Call, deployment.id, row.id, call.body),
      );
    }),
    handler(r.rollback, async (call) => {
      const row = await own(call as Call);
      const moved = await rollback(platform, call as unknown as Call, row, call.body ?? {});
      faultPoint("control-plane.rollback.before-answer");
      return deploymentView(platform, moved);
    }),
    handler(r.instances, async (call) => {
      const row = await own(call as Call);
      return (await instancesOf(pool, row.id)).map((one) => instanceView(one, row, platform.settings));
    }),
    handler(r.instance, async (call) => {
      const row = await own(call as Call);
      const found = (await instancesOf(pool, row.id)).find((one) => one.id === call.params["iid"]);
      if (!found) throw notFound(`Instance ${call.params["iid"]}`);
      return instanceView(found, row, platform.settings);
    }),
    handler(r.stop, async (call) => {
      const row = await own(call as Call);
      await wantDeployment(platform, row.id, { desired: "stopped" });
      return deploymentView(
        platform,
        (await settled(platform, row.id, (now) => now.state === "stopped")) ??
          (await loadDeployment(pool, row.id))!,
      );
    }),
    handler(r.env, async (call) => envList(platform, (await own(call as Call)).id)),
    handler(r.setEnv, async (call) => {
      const row = await own(call as Call);
      await setEnvironment(platform, row.id, call.body.env);
      await configurationChanged(platform, row.id);
      return envList(platform, row.id);
    }),
    handler(r.deleteEnv, async (call) => {
      const row = await own(call as Call);
      await pool.query("delete from deployment_env where deployment_id = $1 and name = $2", [
        row.id,
        call.params["key"],
      ]);
      await configurationChanged(platform, row.id);
      return { name: call.params["key"], deleted: true };
    }),
    handler(r.attachDatabase, async (call) => {
      const row = await own(call as Call);
      return attachDatabase(platform, call.caller, call.body.database_id, call.body.env, {
        type: "deployment",
        id: row.id,
      });
    }),
    handler(r.redeploy, async (call) => {
      const row = await own(call as Call);
      const build = await redeploy(platform, call as unknown as Call, row);
      // Clients of one line read a build here, of another a deployment: both find their fields.
      const { name, slug, public_url } = await deploymentView(platform, row);
      return { name, slug, public_url, tenant_id: row.tenant_id, ...buildView(build) };
    }),
    handler(r.builds, async (call) => {
      const row = await own(call as Call);
      const { rows, next_cursor } = await page<BuildRow>(pool, "builds", ofDeployment(row.id), call.query);
      return { data: rows.map(buildView), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.cancelBuild, async (call) => {
      const { row } = await belongs(call as Call, "Build", call.params["bid"]!, (id) => loadBuild(pool, id));
      return buildView(await cancelBuild(platform, row));
    }),
    handler(r.build, async (call) =>
      buildView((await belongs(call as Call, "Build", call.params["bid"]!, (id) => loadBuild(pool, id))).row),
    ),
  ];
}
