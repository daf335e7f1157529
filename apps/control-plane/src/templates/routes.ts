import { randomUUID } from "node:crypto";
import {
  checkBuildSpec,
  notFound,
  parseBuildSpec,
  PlatformError,
  platformRoutes as p,
  sandboxSizes,
  templateRoutes as r,
} from "@platform/contract";
import { HostError } from "@platform/host-api";
import { queryOne, transaction } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { handler, openEventStream, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { builtInTemplates, findBuiltIn } from "./built-in.ts";
import { imagesOf } from "./resolve.ts";
import {
  buildsOf,
  findOwnTemplate,
  hasEnded,
  listOwnTemplates,
  loadTemplateBuild,
  openSpec,
  ownBuild,
  linesAfter,
  saveBuild,
  saveTemplate,
  type TemplateRow,
} from "./store.ts";
import { storeUpload } from "./uploads.ts";
import { builtInRow, buildView, catalogueRow, contractOf, ownRow, readinessStates, sizes } from "./views.ts";

const mib = 1024 * 1024;

/** Digest (or `host`) and size of the boxes that wait now. */
async function warmSizes(platform: Platform): Promise<Set<string>> {
  const pool = await platform.host.pool(AbortSignal.timeout(2_000)).catch((error: unknown) => {
    if (error instanceof HostError || (error as Error).name === "TimeoutError") return null;
    throw error;
  });
  const found = new Set<string>();
  for (const lane of pool?.lanes ?? [])
    for (const size of sizes)
      if (lane.ready > 0 && lane.limits.memoryBytes === sandboxSizes[size].memory_mb * mib)
        found.add(`${lane.template}/${size}`);
  return found;
}

async function rowOf(platform: Platform, row: TemplateRow) {
  const [last] = await buildsOf(platform.pool, row.id);
  const active = row.active_build_id ? await loadTemplateBuild(platform.pool, row.active_build_id) : null;
  return ownRow(platform, row, active, last);
}

/** @throws PlatformError NOT_FOUND; CONFLICT for a template that is everybody's */
async function ownTemplate(platform: Platform, call: Call, id: string): Promise<TemplateRow> {
  const row = await findOwnTemplate(platform.pool, call.caller.tenantId, id);
  if (row) return row;
  if (findBuiltIn(id))
    throw new PlatformError(
      "CONFLICT",
      `Template "${id}" comes with the platform and cannot be changed. Create one of your own from it.`,
    );
  throw notFound(`Template ${id}`);
}

function catalogueHandlers(platform: Platform): Handler[] {
  return [
    handler(p.templates, async () => {
      const [report, warm] = await Promise.all([imagesOf(platform), warmSizes(platform)]);
      const rows = builtInTemplates.map((template) => catalogueRow(template, report, warm));
      return {
        data: rows,
        templates: rows,
        products: ["sandbox"],
        shape_contracts: { sandbox: sizes.map(contractOf), computer: [] },
        readiness_states: readinessStates,
        images: { can_build: report ? report.whyNoBuilds === null : null },
      };
    }),
    handler(p.sandboxTemplates, async ({ caller }) => {
      const report = await imagesOf(platform);
      const own = await listOwnTemplates(platform.pool, caller.tenantId);
      return {
        data: [
          ...builtInTemplates.map((template) => builtInRow(template, report)),
          ...(await Promise.all(own.map((row) => rowOf(platform, row)))),
        ],
      };
    }),
    handler(p.sandboxTemplate, async ({ caller, params }) => {
      const builtIn = findBuiltIn(params["id"]!);
      if (builtIn) return builtInRow(builtIn, await imagesOf(platform));
      const row = await findOwnTemplate(platform.pool, caller.tenantId, params["id"]!);
      if (!row) throw notFound(`Template ${params["id"]}`);
      return rowOf(platform, row);
    }),
    handler(r.warmPool, async ({ caller, params }) => {
      const id = params["id"]!;
      const builtIn = findBuiltIn(id);
      const own = builtIn ? null : await findOwnTemplate(platform.pool, caller.tenantId, id);
      if (!builtIn && !own) throw notFound(`Template ${id}`);
      const report = builtIn?.image ? await imagesOf(platform) : null;
      const active = own?.active_build_id
        ? await loadTemplateBuild(platform.pool, own.active_build_id)
        : null;
      const digest = builtIn
        ? (report?.images.find(({ name }) => name === builtIn.image)?.digest ?? null)
        : (active?.digest ?? null);
      const pool = await platform.host.pool();
      const lanes = pool.lanes.filter(({ template }) => template === (digest ?? (builtIn ? "host" : "")));
      return {
        template_id: id,
        ready: lanes.reduce((sum, lane) => sum + lane.ready, 0),
        target: lanes.reduce((sum, lane) => sum + lane.target, 0),
        lanes: lanes.map(({ limits, ready, target, claims, misses }) => ({
          memory_mb: limits.memoryBytes / mib,
          cpu_count: limits.cpuMillis / 1000,
          ...{ ready, target, claims, misses },
        })),
      };
    }),
  ];
}

async function createTemplate(platform: Platform, call: Call<typeof r.create>): Promise<TemplateRow> {
  const { body, caller } = call;
  const spec = parseBuildSpec(body.build_spec ?? {});
  const id = call.idFor("template");
  const slug =
    body.slug ??
    (body.name
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, "-")
      .replaceAll(/^-+|-+$/g, "")
      .slice(0, 60) ||
      id.slice(0, 8));
  const taken = () =>
    new PlatformError("NAME_TAKEN", `The slug "${slug}" is in use. Choose another one.`, {
      errors: { slug: ["is in use"] },
    });
  if (findBuiltIn(slug)) throw taken();
  await transaction(platform.pool, async (db) => {
    const { name, description = null, metadata } = body;
    const row = { id, tenant_id: caller.tenantId, slug, name, description, metadata };
    if (await saveTemplate(platform, db, row, spec))
      await recordIn(db, {
        ...{ tenantId: caller.tenantId, workspaceId: null, type: "template.created" },
        ...{ resourceType: "template", resourceId: id, data: { id, slug } },
      });
  }).catch((error: unknown) => {
    throw (error as { code?: string }).code === "23505" ? taken() : error;
  });
  platform.signals.announce("events");
  return (await findOwnTemplate(platform.pool, caller.tenantId, id))!;
}

/** Sandboxes that would lose their root; those that ended do not count. */
async function assertUnused(platform: Platform, row: TemplateRow): Promise<void> {
  const used = await queryOne<{ count: string }>(
    platform.pool,
    `select count(*) from sandboxes where tenant_id = $1 and state <> 'destroyed'
       and (template_id = $2 or template_id = $3 or image->>'digest' in
            (select digest from template_builds where template_id = $2::uuid and digest is not null))`,
    [row.tenant_id, row.id, row.slug],
  );
  const count = Number(used?.count ?? 0);
  if (count === 0) return;
  throw new PlatformError(
    "TEMPLATE_IN_USE",
    `${count} sandbox${count === 1 ? " uses" : "es use"} template "${row.slug}". Destroy them first.`,
    { details: { sandboxes: count } },
  );
}

export async function deleteTemplate(platform: Platform, row: TemplateRow): Promise<void> {
  await assertUnused(platform, row);
  await platform.pool.query("update sandbox_templates set deleted_at = now() where id = $1", [row.id]);
  await platform.pool.query(
    "update template_builds set cancel_requested = true, next_look_at = now() where template_id = $1 and state not in ('ready', 'failed', 'cancelled')",
    [row.id],
  );
  platform.signals.announce("work:template_builds");
}

function templateRowHandlers(platform: Platform): Handler[] {
  return [
    handler(r.create, async (call) => rowOf(platform, await createTemplate(platform, call))),
    handler(r.delete, async (call) =>
      deleteTemplate(platform, await ownTemplate(platform, call as unknown as Call, call.params["id"]!)),
    ),
    handler(r.buildSpec, async (call) =>
      openSpec(platform, await ownTemplate(platform, call as unknown as Call, call.params["id"]!)),
    ),
    handler(r.validate, async ({ body }) => {
      const { spec, problems } = checkBuildSpec(body.build_spec);
      return { valid: spec !== null, errors: problems };
    }),
    handler(r.promote, async (call) => {
      const row = await ownTemplate(platform, call as unknown as Call, call.params["id"]!);
      const builds = await buildsOf(platform.pool, row.id);
      const wanted = call.body?.build_id
        ? builds.find(({ id }) => id === call.body?.build_id)
        : builds.find(({ state }) => state === "ready");
      if (!wanted) throw notFound(`A finished build of template ${row.slug}`);
      if (wanted.state !== "ready")
        throw new PlatformError(
          "CONFLICT",
          `Build ${wanted.id} is ${wanted.state}; only a ready one can be used.`,
        );
      await platform.pool.query(
        "update sandbox_templates set previous_build_id = active_build_id, active_build_id = $2, updated_at = now() where id = $1 and active_build_id is distinct from $2",
        [row.id, wanted.id],
      );
      return rowOf(platform, (await findOwnTemplate(platform.pool, row.tenant_id, row.id))!);
    }),
    handler(r.rollback, async (call) => {
      const row = await ownTemplate(platform, call as unknown as Call, call.params["id"]!);
      if (!row.previous_build_id)
        throw new PlatformError("CONFLICT", `Template "${row.slug}" has no earlier build to return to.`);
      await platform.pool.query(
        "update sandbox_templates set active_build_id = previous_build_id, previous_build_id = active_build_id, updated_at = now() where id = $1 and previous_build_id = $2",
        [row.id, row.previous_build_id],
      );
      return rowOf(platform, (await findOwnTemplate(platform.pool, row.tenant_id, row.id))!);
    }),
  ];
}

async function streamLog(platform: Platform, call: Call): Promise<void> {
  const { id } = await ownBuild(platform.pool, call.caller.tenantId, call.params["bid"]!);
  const stream = openEventStream(call.reply);
  let after = 0;
  while (!stream.signal.aborted) {
    const heard = platform.signals.next(`template-build:${id}`, 1_000, stream.signal);
    const build = await loadTemplateBuild(platform.pool, id);
    const lines = await linesAfter(platform.pool, id, after, 1_000);
    for (const { seq, stream: name, line, at } of lines) {
      after = seq;
      stream.send("log_line", { stream: name, line, ts: at.toISOString(), seq }, String(seq));
    }
    if (lines.length === 0 && (!build || hasEnded(build.state))) {
      stream.send("done", { result: build ? buildView(build) : { state: "cancelled" } });
      break;
    }
    if (lines.length === 0) await heard;
  }
  stream.close();
}

async function uploadImage(platform: Platform, { caller, request, signal }: Call) {
  const id = randomUUID();
  const sizeBytes = await storeUpload(platform, caller.tenantId, id, request.body, signal);
  return { id, image: `upload:${id}`, size_bytes: sizeBytes };
}

function buildHandlers(platform: Platform): Handler[] {
  return [
    handler(r.builds, async (call) => {
      const row = await ownTemplate(platform, call as unknown as Call, call.params["id"]!);
      return (await buildsOf(platform.pool, row.id)).map(buildView);
    }),
    handler(r.build, async (call) => {
      const row = await ownTemplate(platform, call as unknown as Call, call.params["id"]!);
      const given = call.body?.build_spec;
      const id = call.idFor("template-build");
      await saveBuild(platform, id, row, given === undefined ? null : parseBuildSpec(given));
      return buildView((await loadTemplateBuild(platform.pool, id))!);
    }),
    handler(r.getBuild, async ({ caller, params }) =>
      buildView(await ownBuild(platform.pool, caller.tenantId, params["bid"]!)),
    ),
    handler(r.cancelBuild, async ({ caller, params, signal }) => {
      const { id } = await ownBuild(platform.pool, caller.tenantId, params["bid"]!);
      await platform.pool.query(
        "update template_builds set cancel_requested = true, next_look_at = now() where id = $1 and state not in ('ready', 'failed', 'cancelled')",
        [id],
      );
      platform.signals.announce("work:template_builds");
      await platform.signals.until(
        `template-build:${id}`,
        30_000,
        async () => {
          const build = await loadTemplateBuild(platform.pool, id);
          return !build || hasEnded(build.state) ? true : undefined;
        },
        signal,
      );
      return buildView((await loadTemplateBuild(platform.pool, id))!);
    }),
    handler(r.buildLogs, async ({ caller, params, query: { after, limit } }) => {
      const { id, state } = await ownBuild(platform.pool, caller.tenantId, params["bid"]!);
      const lines = await linesAfter(platform.pool, id, after, limit);
      return {
        lines: lines.map(({ seq, stream, line, at }) => ({ seq, t: at.toISOString(), stream, line })),
        state,
      };
    }),
    handler(r.uploadImage, async (call) => uploadImage(platform, call as unknown as Call)),
    handler(r.buildLogStream, (call) => streamLog(platform, call as unknown as Call)),
  ];
}

export const templateHandlers = (platform: Platform): Handler[] => [
  ...catalogueHandlers(platform),
  ...templateRowHandlers(platform),
  ...buildHandlers(platform),
];
