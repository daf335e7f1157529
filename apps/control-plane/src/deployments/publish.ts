import { PlatformError, type ProblemCode, type PublishFields } from "@platform/contract";
import { queryOne, transaction } from "@platform/postgres";
import { createLinkedDatabase, loadDatabase } from "../databases/index.ts";
import { recordIn } from "../events/index.ts";
import { derivedId, type Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import {
  loadBuild,
  loadRelease,
  loadVersion,
  releaseView,
  versionView,
  type BuildRow,
} from "../releases/index.ts";
import { liveSandbox, ownSandbox, randomSuffix, type SandboxRow } from "../sandboxes/index.ts";
import { resolvePlacement, slugify } from "../tenants/index.ts";
import { maskedPreview } from "../seal.ts";
import { uploadedSource } from "./uploads/index.ts";
import { promote } from "./promote.ts";
import { deploymentView, loadDeployment, ownDeployment, type DeploymentRow } from "./store.ts";

/** Longer than install, build and start together may take, milliseconds. */
const publishTimeoutMs = 40 * 60_000;

/** Time that a redeploy's build gets to begin before the call answers, milliseconds. */
const redeployBeginMs = 20_000;

interface NewDeployment {
  readonly name: string;
  readonly slug?: string | undefined;
  readonly [field: string]: unknown;
}

/** A slug that reads like the name and is nobody else's: `clinic-intake-x7k2`. */
export async function createDeployment(
  platform: Platform,
  call: Call,
  wanted: NewDeployment & Partial<PublishFields>,
): Promise<DeploymentRow> {
  const id = call.idFor("deployment");
  const found = await loadDeployment(platform.pool, id);
  if (found) {
    // A crash after the row and before its variables: the repeat brings them.
    if (wanted.env) await setEnvironment(platform, id, wanted.env);
    return found;
  }
  const owner = await resolvePlacement(platform.pool, call.caller, wanted);
  const slug = wanted.slug ?? `${slugify(wanted.name)}-${randomSuffix(4)}`;
  await transaction(platform.pool, async (db) => {
    try {
      await db.query(
        `insert into deployments (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, metadata, name, slug,
           repo_url, branch, build_command, run_command, auto_deploy, source_type)
         values ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16)`,
        [
          id,
          call.caller.tenantId,
          owner.workspaceId,
          owner.projectId,
          wanted.external_workspace_id ?? null,
          wanted.external_user_id ?? call.caller.externalUserId,
          wanted.external_project_id ?? null,
          wanted.metadata ?? {},
          wanted.name,
          slug,
          wanted["repo_url"] ?? null,
          wanted["branch"] ?? null,
          wanted.build_command ?? null,
          wanted.run_command ?? null,
          wanted["auto_deploy"] ?? false,
          wanted["repo_url"] ? "repo" : "sandbox",
        ],
      );
    } catch (error) {
      if ((error as { code?: string }).code === "23505") {
        throw new PlatformError(
          "NAME_TAKEN",
          `The slug "${slug}" is in use. Choose another one, or leave it out.`,
          { errors: { slug: ["is in use"] } },
        );
      }
      throw error;
    }
    if (wanted.database)
      await createLinkedDatabase(db, call, wanted.database, {
        type: "deployment",
        id,
        name: wanted.name,
        ...owner,
      });
    await recordIn(db, {
      tenantId: call.caller.tenantId,
      workspaceId: owner.workspaceId,
      type: "deployment.created",
      resourceType: "deployment",
      resourceId: id,
      data: { id, name: wanted.name, slug },
    });
  });
  platform.signals.announce("work:databases", "events");
  if (wanted.env) await setEnvironment(platform, id, wanted.env);
  return (await loadDeployment(platform.pool, id))!;
}

export async function setEnvironment(
  platform: Platform,
  deploymentId: string,
  env: Record<string, string>,
): Promise<void> {
  for (const [name, value] of Object.entries(env)) {
    await platform.pool.query(
      `insert into deployment_env (deployment_id, name, value_sealed, preview) values ($1, $2, $3, $4)
       on conflict (deployment_id, name) do update set value_sealed = excluded.value_sealed, preview = excluded.preview, updated_at = now()`,
      [deploymentId, name, platform.seal.close(value), maskedPreview(value)],
    );
  }
}

/** The deployment to publish to: the one named, the one this sandbox was published to before under that name, or a new one. */
async function targetOf(
  platform: Platform,
  call: Call,
  sandbox: SandboxRow,
  fields: PublishFields,
): Promise<DeploymentRow> {
  if (fields.deployment_id) return ownDeployment(platform.pool, call.caller, fields.deployment_id);
  const same = fields.slug
    ? await queryOne<DeploymentRow>(
        platform.pool,
        "select * from deployments where tenant_id = $1 and slug = $2 and state <> 'deleted' and desired <> 'deleted'",
        [call.caller.tenantId, fields.slug],
      )
    : null;
  if (same) return ownDeployment(platform.pool, call.caller, same.id);
  const name = fields.name ?? sandbox.name ?? `app-${sandbox.slug}`;
  return createDeployment(platform, call, {
    ...fields,
    name,
    external_workspace_id: fields.external_workspace_id ?? sandbox.external_workspace_id ?? undefined,
    external_user_id: fields.external_user_id ?? sandbox.external_user_id ?? undefined,
    external_project_id: fields.external_project_id ?? sandbox.external_project_id ?? undefined,
    workspace_id: fields.workspace_id ?? sandbox.workspace_id ?? undefined,
    project_id: fields.project_id ?? sandbox.project_id ?? undefined,
    run_command: fields.run_command ?? fields.start_command,
  });
}

/** A first publish takes the sandbox's databases along, so that the app finds in production what it had before. */
async function inheritLinks(
  platform: Platform,
  sandbox: SandboxRow,
  deployment: DeploymentRow,
): Promise<void> {
  await platform.pool.query(
    `insert into database_links (database_id, resource_type, resource_id, env_name)
     select database_id, 'deployment', $2, env_name from database_links where resource_type = 'sandbox' and resource_id = $1
       and not exists (select 1 from database_links where resource_type = 'deployment' and resource_id = $2) on conflict do nothing`,
    [sandbox.id, deployment.id],
  );
}

async function waitForDatabases(platform: Platform, deploymentId: string): Promise<void> {
  const rows = await platform.pool.query<{ database_id: string }>(
    "select database_id from database_links where resource_type = 'deployment' and resource_id = $1",
    [deploymentId],
  );
  for (const { database_id } of rows.rows) {
    const row = await platform.signals.until(`database:${database_id}`, 60_000, async () => {
      const now = await loadDatabase(platform.pool, database_id);
      return now && (now.state === "running" || now.state === "failed") ? now : undefined;
    });
    if (row?.state !== "running")
      throw new PlatformError(
        "DATABASE_NOT_READY",
        `The linked database ${database_id} is ${row?.state ?? "not ready"}. Publish again when it runs.`,
        { retryAfterMs: 3000 },
      );
  }
}

/** Rows of one publish; the same Idempotency-Key finds the same ones. */
async function startBuild(
  platform: Platform,
  call: Call,
  deployment: DeploymentRow,
  request: PublishFields & { source_digest?: string },
): Promise<string> {
  const buildId = call.idFor("build");
  const [versionId, releaseId] = [derivedId(buildId, "version"), derivedId(buildId, "release")];
  await transaction(platform.pool, async (db) => {
    await db.query("select 1 from deployments where id = $1 for update", [deployment.id]);
    const found = await db.query("select 1 from builds where id = $1", [buildId]);
    if (found.rowCount === 1) return;
    const kind = request.kind && request.kind !== "auto" ? request.kind : "dynamic";
    const metadata = request.metadata ?? {};
    await db.query(
      `insert into versions (id, deployment_id, version_number, kind, source_sandbox_id, build_id, metadata)
       values ($1, $2, (select coalesce(max(version_number), 0) + 1 from versions where deployment_id = $2), $3, $4, $5, $6)`,
      [versionId, deployment.id, kind, request.source_sandbox_id ?? null, buildId, metadata],
    );
    await db.query(
      "insert into releases (id, deployment_id, deployment_version_id, kind, source_sandbox_id, build_id, metadata) values ($1, $2, $3, $4, $5, $6, $7)",
      [
        releaseId,
        deployment.id,
        versionId,
        kind === "static" ? "static" : "oci",
        request.source_sandbox_id ?? null,
        buildId,
        metadata,
      ],
    );
    await db.query(
      "insert into builds (id, tenant_id, deployment_id, version_id, release_id, request, actor) values ($1, $2, $3, $4, $5, $6, $7)",
      [
        buildId,
        deployment.tenant_id,
        deployment.id,
        versionId,
        releaseId,
        JSON.stringify({ ...request, env: undefined }),
        { key_id: call.caller.keyId, key_name: call.caller.keyName },
      ],
    );
    await db.query(
      "update deployments set state = 'building' where id = $1 and state in ('pending', 'failed')",
      [deployment.id],
    );
    // Visitors are told that something is on its way.
    await db.query("update deployments set next_look_at = now() where id = $1", [deployment.id]);
  });
  platform.signals.announce("work:builds", "work:deployments");
  return buildId;
}

/** @throws PlatformError the stored refusal when the build failed */
async function finishedBuild(platform: Platform, buildId: string): Promise<BuildRow> {
  const build = await platform.signals.until(`build:${buildId}`, publishTimeoutMs, async () => {
    const row = await loadBuild(platform.pool, buildId);
    return row && row.state !== "queued" && row.state !== "building" ? row : undefined;
  });
  if (build?.state === "succeeded") return build;
  if (build?.failure) {
    const deployment = await loadDeployment(platform.pool, build.deployment_id);
    await platform.pool.query(
      "update deployments set state = 'failed', error_message = $2 where id = $1 and state = 'building'",
      [build.deployment_id, build.failure.message],
    );
    throw new PlatformError(build.failure.code as ProblemCode, build.failure.message, {
      details: {
        ...build.failure.details,
        deployment_id: build.deployment_id,
        build_id: build.id,
        still_serving_release_id: deployment?.active_release_id ?? null,
      },
      ...(build.failure.errors ? { errors: build.failure.errors } : {}),
    });
  }
  throw new PlatformError(
    "DEPLOYMENT_BUSY",
    `The build ${buildId} is not over yet. Follow it at its log, then promote the release.`,
    { details: { build_id: buildId }, retryAfterMs: 5000 },
  );
}

/**
 * Builds what serves (or else the last source) again, without holding the call: answers with the build once it began. The rest,
 * the move of traffic included, goes on; its outcome is on the build and on the deployment.
 */
export async function redeploy(platform: Platform, call: Call, row: DeploymentRow): Promise<BuildRow> {
  const last = await queryOne<BuildRow>(
    platform.pool,
    `select * from builds where deployment_id = $1 and source_digest is not null
     order by (release_id = $2) is true desc, created_at desc limit 1`,
    [row.id, row.active_release_id],
  );
  if (!last)
    throw new PlatformError(
      "SOURCE_EMPTY",
      "Nothing was published to this deployment yet. Publish a sandbox first.",
    );
  const buildId = call.idFor("build");
  const pinned: Call = { ...call, idFor: (what) => (what === "build" ? buildId : call.idFor(what)) };
  const whole = publishTo(platform, pinned, row, {
    ...last.request,
    promote: true,
    source_sandbox_id: undefined,
    source_digest: last.source_digest!,
  });
  whole.catch((error: unknown) => {
    platform.log.info({ err: error, deploymentId: row.id, buildId }, "a redeploy was refused");
  });
  const begun = platform.signals.until(`build:${buildId}`, redeployBeginMs, async () => {
    const build = await loadBuild(platform.pool, buildId);
    return build && build.state !== "queued" ? build : undefined;
  });
  const build =
    (await Promise.race([begun, whole.then(() => begun)])) ?? (await loadBuild(platform.pool, buildId));
  if (!build)
    throw new PlatformError("DEPLOYMENT_BUSY", "The build could not begin in time. Retry.", {
      retryAfterMs: 5000,
    });
  return build;
}

export interface Published {
  readonly deployment: Record<string, unknown>;
  readonly version: Record<string, unknown>;
  readonly release: Record<string, unknown>;
  readonly promoted: boolean;
}

/** Freezes a sandbox into a release and, unless told otherwise, moves traffic to it. */
export async function publishSandbox(
  platform: Platform,
  call: Call,
  sandboxId: string,
  fields: PublishFields,
): Promise<Published> {
  const sandbox = await ownSandbox(platform.pool, call.caller, sandboxId);
  const target = await targetOf(platform, call, sandbox, fields);
  return publishTo(platform, call, target, { ...fields, source_sandbox_id: sandbox.id });
}

export async function publishTo(
  platform: Platform,
  call: Call,
  target: DeploymentRow,
  fields: PublishFields & { source_digest?: string },
): Promise<Published> {
  const uploaded = fields.source_upload_id
    ? { source_digest: await uploadedSource(platform.pool, target.id, fields.source_upload_id) }
    : {};
  if (!fields.source_sandbox_id && !fields.source_digest && !fields.source_upload_id) {
    throw new PlatformError(
      "VALIDATION_FAILED",
      "source_sandbox_id is missing. Say which sandbox or upload to publish.",
      { errors: { source_sandbox_id: ["is missing"] } },
    );
  }
  if (fields.source_sandbox_id) {
    const { row } = await liveSandbox(platform, call.caller, fields.source_sandbox_id);
    await inheritLinks(platform, row, target);
  }
  if (fields.env) await setEnvironment(platform, target.id, fields.env);
  if (
    fields.database &&
    !(await queryOne(
      platform.pool,
      "select 1 from database_links where resource_type = 'deployment' and resource_id = $1 limit 1",
      [target.id],
    ))
  ) {
    await transaction(platform.pool, (db) =>
      createLinkedDatabase(db, call, fields.database!, {
        type: "deployment",
        id: target.id,
        name: target.name,
        workspaceId: target.workspace_id,
        projectId: target.project_id,
      }),
    );
    platform.signals.announce("work:databases");
  }
  await waitForDatabases(platform, target.id);
  const request = {
    ...fields,
    ...uploaded,
    build_command: fields.build_command ?? target.build_command ?? undefined,
    run_command: fields.run_command ?? fields.start_command ?? target.run_command ?? undefined,
  };
  const build = await finishedBuild(platform, await startBuild(platform, call, target, request));
  const wanted = fields.promote !== false;
  if (wanted) await promote(platform, call, target.id, build.release_id);
  else
    await platform.pool.query(
      "update deployments set state = 'pending' where id = $1 and state = 'building'",
      [target.id],
    );
  return publishedView(platform, target.id, build, wanted);
}

async function publishedView(
  platform: Platform,
  deploymentId: string,
  build: BuildRow,
  promoted: boolean,
): Promise<Published> {
  const deployment = (await loadDeployment(platform.pool, deploymentId))!;
  return {
    deployment: await deploymentView(platform, deployment),
    version: versionView((await loadVersion(platform.pool, build.version_id))!, deployment),
    release: releaseView((await loadRelease(platform.pool, build.release_id))!, deployment),
    promoted: promoted && deployment.active_release_id === build.release_id,
  };
}
