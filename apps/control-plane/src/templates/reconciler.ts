import { faultPoint } from "@platform/daemon";
import { ImageUploadId, PlatformError } from "@platform/contract";
import { HostError, type ImageBuild, type ImageBuildSpec, type ImageStep } from "@platform/host-api";
import { transaction } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { tenantById } from "../tenants/index.ts";
import { resolveTemplate } from "./resolve.ts";
import {
  findUpload,
  hasEnded,
  loadTemplateBuild,
  openSpec,
  uploadKey,
  type TemplateBuildRow,
} from "./store.ts";

const soonMs = 500;
const restMs = 15_000;
const logBatch = 1_000;
const mib = 1024 * 1024;

export const hostBuildKey = (id: string): string => `tb-${id}`;

/** Brings one build of a template to its end: the host builds, this copies what it saw. Each look may be repeated. */
export function createTemplateBuildStep(platform: Platform) {
  return async (id: string, signal: AbortSignal): Promise<number> => {
    const row = await loadTemplateBuild(platform.pool, id);
    if (!row || hasEnded(row.state)) return restMs;
    faultPoint("control-plane.template.claimed");
    const key = hostBuildKey(id);
    let build = await platform.host.imageBuild(key, signal);
    if (row.cancel_requested) {
      if (build) build = await platform.host.cancelImageBuild(key, signal);
      else return settle(platform, row, null, signal);
    }
    if (!build) {
      let spec: ImageBuildSpec;
      try {
        spec = await hostSpec(platform, row);
      } catch (error) {
        if (!(error instanceof PlatformError) || error.isRetryable) throw error;
        return failBase(platform, row, error);
      }
      build = await platform.host.putImageBuild(key, spec, signal);
      faultPoint("control-plane.template.asked");
    }
    const copied = await copyLogs(platform, row, signal);
    if (hasEnded(build.state)) return settle(platform, row, build, signal);
    if (build.state !== row.state)
      await platform.pool.query(
        "update template_builds set state = $2, started_at = coalesce(started_at, now()) where id = $1",
        [id, build.state],
      );
    if (copied || build.state !== row.state) platform.signals.announce(`template-build:${id}`);
    return soonMs;
  };
}

/** @throws PlatformError when the template to start from cannot be used */
async function hostSpec(platform: Platform, row: TemplateBuildRow): Promise<ImageBuildSpec> {
  const spec = openSpec(platform, row);
  const tenant = await tenantById(platform.pool, row.tenant_id);
  const policy = tenant?.policy["minimum_isolation"];
  const minimumIsolation: ImageBuildSpec["minimumIsolation"] =
    policy === "userspace-kernel" || policy === "microvm-hw" ? policy : "namespaces";
  const rest = {
    limits: {
      ...(spec.memoryMib ? { memoryBytes: spec.memoryMib * mib } : {}),
      ...(spec.diskMib ? { diskBytes: spec.diskMib * mib } : {}),
    },
    minimumIsolation,
  };
  const steps: ImageStep[] = [];
  for (const { run, files } of spec.steps)
    steps.push(files === undefined ? run : { run, upload: await ownUpload(platform, row.tenant_id, files) });
  const check = (env: Record<string, string>) => ({
    ...{ startCommand: spec.startCmd ?? null, readyCommand: spec.readyCmd ?? null },
    ...{ env, workdir: spec.workdir },
  });
  if (spec.image !== undefined) {
    const image = await hostImage(platform, row.tenant_id, spec.image);
    return { source: { type: "oci", image, steps, env: spec.env }, check: check(spec.env), ...rest };
  }
  const base = await resolveTemplate(platform, row.tenant_id, spec.from);
  if (!base.image)
    throw new PlatformError("HOST_UNAVAILABLE", "No machine answers now.", { retryAfterMs: 2_000 });
  if (!base.image.digest)
    throw new PlatformError(
      "TEMPLATE_NOT_READY",
      `Template "${spec.from}" cannot be built upon: ${base.image.fallback ?? "it is the machine's own system"}.`,
    );
  await platform.pool.query("update template_builds set base = $2 where id = $1", [
    row.id,
    base.image.digest,
  ]);
  const env = { ...base.env, ...spec.env };
  return { source: { type: "steps", from: base.image.digest, steps, env }, check: check(env), ...rest };
}

/** @throws PlatformError TEMPLATE_NOT_READY for an upload that is not there, or is another tenant's */
async function hostImage(platform: Platform, tenantId: string, image: string) {
  const id = ImageUploadId.exec(image)?.[1];
  if (id === undefined) return { type: "registry" as const, reference: image };
  return { type: "upload" as const, key: await ownUpload(platform, tenantId, id) };
}

async function ownUpload(platform: Platform, tenantId: string, id: string): Promise<string> {
  if (await findUpload(platform.pool, tenantId, id)) return uploadKey(id);
  throw new PlatformError(
    "TEMPLATE_NOT_READY",
    `There is no upload ${id}: it is kept for a day. Upload it again with POST /sandbox-template-images.`,
  );
}

async function copyLogs(platform: Platform, row: TemplateBuildRow, signal: AbortSignal): Promise<boolean> {
  let after = row.log_seq;
  for (;;) {
    const lines = await platform.host.imageBuildLogs(hostBuildKey(row.id), after, logBatch, signal);
    if (lines.length === 0) return after > row.log_seq;
    after = lines.at(-1)!.seq;
    await transaction(platform.pool, async (db) => {
      await db.query(
        `insert into template_build_logs (build_id, seq, stream, line, at)
         select $1, * from unnest($2::int[], $3::text[], $4::text[], $5::timestamptz[]) on conflict do nothing`,
        [
          row.id,
          lines.map(({ seq }) => seq),
          lines.map(({ stream }) => stream),
          lines.map(({ line }) => line.replaceAll("\0", "")),
          lines.map(({ at }) => at),
        ],
      );
      await db.query("update template_builds set log_seq = greatest(log_seq, $2) where id = $1", [
        row.id,
        after,
      ]);
    });
    if (lines.length < logBatch) return true;
  }
}

async function failBase(platform: Platform, row: TemplateBuildRow, error: PlatformError): Promise<number> {
  const failure = { reason: "base_missing", detail: error.message, evidence: {} };
  await end(platform, row, "failed", { failure: JSON.stringify(failure) });
  return 0;
}

async function settle(
  platform: Platform,
  row: TemplateBuildRow,
  build: ImageBuild | null,
  signal: AbortSignal,
): Promise<number> {
  const state = build?.state === "ready" ? "ready" : build?.state === "failed" ? "failed" : "cancelled";
  await end(platform, row, state, {
    digest: build?.digest ?? null,
    size_bytes: build?.sizeBytes ?? null,
    certificate: build?.certificate ? JSON.stringify(build.certificate) : null,
    config_sealed: build?.config ? platform.seal.close(JSON.stringify(build.config)) : null,
    failure: build?.failure ? JSON.stringify(build.failure) : null,
  });
  // Everything of it is here now; the image stays.
  await platform.host.deleteImageBuild(hostBuildKey(row.id), signal).catch((error: unknown) => {
    if (!(error instanceof HostError)) throw error;
    platform.log.warn({ err: error, build: row.id }, "the host keeps the record of a finished build");
  });
  return 0;
}

async function end(
  platform: Platform,
  row: TemplateBuildRow,
  state: "ready" | "failed" | "cancelled",
  values: Record<string, unknown>,
): Promise<void> {
  const names = Object.keys(values);
  await transaction(platform.pool, async (db) => {
    const { rowCount } = await db.query(
      `update template_builds set state = $2, finished_at = now(), generation = generation + 1${names.map((name, index) => `, ${name} = $${index + 3}`).join("")}
       where id = $1 and state not in ('ready', 'failed', 'cancelled')`,
      [row.id, state, ...Object.values(values)],
    );
    if (rowCount !== 1) return;
    // The first build that works is used at once; later ones wait until they are promoted.
    if (state === "ready" && row.promote_when_ready)
      await db.query(
        `update sandbox_templates set previous_build_id = active_build_id, active_build_id = $2, updated_at = now()
         where id = $1 and active_build_id is distinct from $2`,
        [row.template_id, row.id],
      );
    else if (state === "ready")
      await db.query(
        "update sandbox_templates set active_build_id = $2, updated_at = now() where id = $1 and active_build_id is null",
        [row.template_id, row.id],
      );
    await recordIn(db, {
      tenantId: row.tenant_id,
      workspaceId: null,
      type: `template.build_${state}`,
      resourceType: "template",
      resourceId: row.template_id,
      data: { id: row.template_id, build_id: row.id, state },
    });
  });
  platform.signals.announce(`template-build:${row.id}`, "events");
}
