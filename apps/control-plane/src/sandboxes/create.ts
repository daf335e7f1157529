import { randomBytes } from "node:crypto";
import {
  PlatformError,
  notFound,
  sandboxSizes,
  type CreateSandbox,
  type SandboxSize,
} from "@platform/contract";
import { query, queryOne, transaction, type Queryable } from "@platform/postgres";
import { branchLinks, createLinkedDatabase } from "../databases/index.ts";
import { recordIn } from "../events/index.ts";
import type { Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { assertWithin } from "../policies/index.ts";
import { resolveTemplate, type ResolvedTemplate, type SandboxImage } from "../templates/index.ts";
import { mayUse, resolvePlacement } from "../tenants/index.ts";
import { toDesired } from "./desired-services.ts";
import { loadSandbox, type SandboxContent, type SandboxRow, type DesiredService } from "./store.ts";

const order: readonly SandboxSize[] = ["xs", "small", "medium", "large", "xl"];

interface Shape {
  readonly size: string;
  readonly cpu_count: number;
  readonly memory_mb: number;
  readonly disk_size_mb: number;
}

/** A named size, or a triple that equals one, or one's cpu and memory with a larger disk, or any other triple (size "custom"). */
export function shapeOf(input: CreateSandbox): Shape {
  const disk = input.disk_size_mb ?? input.disk_mb;
  const named =
    input.size ??
    order.find(
      (size) =>
        sandboxSizes[size].vcpus === input.cpu_count && sandboxSizes[size].memory_mb === input.memory_mb,
    );
  if (named || (input.cpu_count === undefined && input.memory_mb === undefined)) {
    const size = named ?? "small";
    const base = sandboxSizes[size];
    return {
      size,
      cpu_count: input.cpu_count ?? base.vcpus,
      memory_mb: input.memory_mb ?? base.memory_mb,
      disk_size_mb: disk ?? base.disk_size_mb,
    };
  }
  return {
    size: "custom",
    cpu_count: input.cpu_count ?? 2,
    memory_mb: input.memory_mb ?? 4096,
    disk_size_mb: disk ?? 10_240,
  };
}

async function contentOf(platform: Platform, call: Call, input: CreateSandbox): Promise<SandboxContent> {
  const id =
    input.snapshot_id ??
    (input.source?.startsWith("snapshot:") ? input.source.slice("snapshot:".length) : undefined);
  if (!id) return { type: "empty" };
  return snapshotContent(platform, call, id);
}

export async function snapshotContent(platform: Platform, call: Call, id: string): Promise<SandboxContent> {
  const row = await queryOne<{ snapshot_key: string; status: string; sandbox_id: string }>(
    platform.pool,
    "select snapshot_key, status, sandbox_id from snapshots where tenant_id = $1 and id::text = $2",
    [call.caller.tenantId, id],
  );
  if (!row) throw notFound(`Snapshot ${id}`);
  if (call.caller.workspaceId || call.caller.externalUserId) {
    // Its files are those of its sandbox: who may not see the one may not have the other.
    const source = await loadSandbox(platform.pool, row.sandbox_id);
    if (!source || !mayUse(call.caller, source)) throw notFound(`Snapshot ${id}`);
  }
  if (row.status !== "ready")
    throw new PlatformError(
      "SNAPSHOT_NOT_READY",
      `Snapshot ${id} is ${row.status}. Wait until it is ready.`,
      { retryAfterMs: 1000 },
    );
  await platform.pool.query("update snapshots set last_used_at = now() where id::text = $1", [id]);
  return { type: "snapshot", snapshotKey: row.snapshot_key };
}

function setupOf(input: CreateSandbox): SandboxRow["setup"] {
  const git =
    input.github_repo_url ??
    (input.source?.startsWith("git:") ? input.source.slice("git:".length) : undefined);
  if (input.source && !/^(git|snapshot|tarball):/.test(input.source)) {
    throw new PlatformError("VALIDATION_FAILED", "source starts with git:, tarball: or snapshot:.", {
      errors: { source: ["starts with git:, tarball: or snapshot:"] },
    });
  }
  const tarball = input.source?.startsWith("tarball:") ? input.source.slice("tarball:".length) : undefined;
  const script = [
    tarball ? `curl -fsSL -- '${tarball.replaceAll("'", "")}' | tar -xz -C /workspace` : null,
    input.setup_file ?? null,
  ]
    .filter((part) => part !== null)
    .join("\n");
  if (!git && !script) return null;
  return {
    status: "pending",
    error: null,
    ...(script ? { script } : {}),
    ...(git
      ? {
          clone: {
            url: git,
            ...((input.github_branch ?? input.revision)
              ? { branch: input.github_branch ?? input.revision }
              : {}),
            ...(input.github_clone_path ? { path: input.github_clone_path } : {}),
          },
        }
      : {}),
  };
}

/** One sandbox to be stored. What is not given comes from `input`. */
export interface Plan {
  /** The same id again finds the same row. */
  readonly id: string;
  readonly input: CreateSandbox;
  readonly content?: SandboxContent;
  readonly env?: Record<string, string>;
  readonly services?: readonly DesiredService[];
  /** Boots what this sandbox does, and gets links to the same databases. */
  readonly linksOf?: string;
  /** To a branch of each instead, or to none. */
  readonly links?: "share" | "branch" | "none";
  readonly restoredFrom?: string;
  readonly group?: { readonly id: string; readonly index: number; readonly limit: number };
}

/** Stores the sandbox as wanted; the reconciler makes it. The same Idempotency-Key finds the same row. */
export async function createSandbox(
  platform: Platform,
  call: Call,
  input: CreateSandbox,
): Promise<SandboxRow> {
  const id = call.idFor("sandbox");
  // Without a key the id was drawn just now.
  const found = call.request.headers["idempotency-key"] ? await loadSandbox(platform.pool, id) : null;
  if (found) return found;
  const content = await contentOf(platform, call, input);
  return (await storeSandboxes(platform, call, [{ id, input, content }]))[0]!;
}

/** Stores all of them or none. Those that are stored already stay as they are. */
export async function storeSandboxes(
  platform: Platform,
  call: Call,
  plans: readonly Plan[],
  alsoIn: (db: Queryable) => Promise<void> = async () => undefined,
): Promise<SandboxRow[]> {
  const templates = new Map<string, ResolvedTemplate>();
  for (const { input } of plans)
    if (!templates.has(input.template_id))
      templates.set(
        input.template_id,
        await resolveTemplate(platform, call.caller.tenantId, input.template_id),
      );
  // One that has no turn to wait for is begun by this very process, if it has room.
  const place = plans.length === 1 && !plans[0]!.group ? platform.signals.reserve("sandboxes") : null;
  const lease = place && { holder: platform.holder, seconds: place.leaseSeconds };
  let stored: (SandboxRow | null)[];
  try {
    stored = await transaction(platform.pool, async (db) => {
      await alsoIn(db);
      const rows: (SandboxRow | null)[] = [];
      for (const plan of plans)
        rows.push(
          await insertSandbox(platform, db, call, plan, templates.get(plan.input.template_id)!, lease),
        );
      return rows;
    });
  } catch (error) {
    place?.free();
    throw error;
  }
  const [first] = stored;
  if (first) place?.run(first);
  else place?.free();
  platform.signals.announce(
    ...(place ? [] : ["work:sandboxes"]),
    ...(plans.some(({ input, links }) => input.database || links === "branch") ? ["work:databases"] : []),
    "events",
    ...plans.map(({ id }) => `events:${id}`),
  );
  const rows = stored.filter((row) => row !== null);
  if (rows.length === plans.length) return rows;
  const ids = plans.map(({ id }) => id);
  return query<SandboxRow>(
    platform.pool,
    "select * from sandboxes where id = any($1) order by array_position($1, id)",
    [ids],
  );
}

/** A copy boots what its source does. */
async function imageOf(db: Queryable, plan: Plan, template: ResolvedTemplate): Promise<SandboxImage | null> {
  if (plan.linksOf === undefined) return template.image;
  const source = await queryOne<{ image: SandboxImage | null }>(
    db,
    "select image from sandboxes where id = $1",
    [plan.linksOf],
  );
  return source?.image ?? template.image;
}

/** The template's own start command runs as a service, beside what the caller asks for. */
function withStart(
  platform: Platform,
  services: readonly DesiredService[],
  { startCommand, workdir }: ResolvedTemplate,
): readonly DesiredService[] {
  if (startCommand === null || services.some(({ name }) => name === "start")) return services;
  return [...services, toDesired(platform, { name: "start", command: startCommand, cwd: workdir, env: {} })];
}

/** Said aloud: the sandbox does not have the template's own image. */
export const imageFallback = (
  tenantId: string,
  workspaceId: string | null,
  id: string,
  image: SandboxImage,
) => ({
  ...{ tenantId, workspaceId, type: "sandbox.image_fallback", resourceType: "sandbox", resourceId: id },
  data: { id, template: image.template, image: "host", reason: image.fallback },
});

async function insertSandbox(
  platform: Platform,
  db: Queryable,
  call: Call,
  plan: Plan,
  template: ResolvedTemplate,
  lease: { readonly holder: string; readonly seconds: number } | null,
): Promise<SandboxRow | null> {
  const { id, input, group } = plan;
  const setup = setupOf(input);
  const shape = shapeOf(input);
  const slug = input.slug ?? id.slice(0, 8);
  const services =
    plan.services ??
    withStart(
      platform,
      input.services.map((one) => toDesired(platform, one)),
      template,
    );
  const image = await imageOf(db, plan, template);
  const { workspaceId, projectId } = await resolvePlacement(db, call.caller, input);
  const externalUserId = input.external_user_id ?? call.caller.externalUserId;
  await assertWithin(
    db,
    { tenantId: call.caller.tenantId, workspaceId, externalUserId },
    { id, diskMb: shape.disk_size_mb, prices: platform.settings.prices },
  );
  const inserted = await db
    .query<SandboxRow>(
      `insert into sandboxes (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, metadata, name, slug, tags,
         template_id, size, cpu_count, memory_mb, disk_size_mb, persistent, always_on, timeout_sec, idle_timeout_sec, expires_at, env_sealed, services,
         readiness_probe, box_key, content, setup, group_id, group_index, group_limit, restored_from, image, lease_holder, lease_until)
       values ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,now() + interval '1 second' * $19::integer,$21,$22,$23,$24,$25,$26,$27,$28,$29,$30,$31,$32,now() + interval '1 second' * $33::integer)
       on conflict (id) do nothing returning *`,
      [
        id,
        call.caller.tenantId,
        workspaceId,
        projectId,
        input.external_workspace_id ?? null,
        externalUserId,
        input.external_project_id ?? null,
        {
          ...input.metadata,
          ...(input.agents_md === undefined ? {} : { agents_md: input.agents_md }),
          ...(input.browser_console === undefined ? {} : { browser_console: input.browser_console }),
        },
        input.name ?? null,
        slug,
        JSON.stringify(input.tags ?? {}),
        input.template_id,
        shape.size,
        shape.cpu_count,
        shape.memory_mb,
        shape.disk_size_mb,
        input.persistent,
        input.always_on,
        input.timeout_sec,
        input.idle_timeout_sec,
        platform.seal.close(JSON.stringify({ ...template.env, ...(plan.env ?? input.env) })),
        JSON.stringify(services),
        input.readiness_probe ? JSON.stringify(input.readiness_probe) : null,
        `sb-${id}`,
        JSON.stringify(plan.content ?? { type: "empty" }),
        setup ? JSON.stringify(setup) : null,
        group?.id ?? null,
        group?.index ?? null,
        group?.limit ?? null,
        plan.restoredFrom ?? null,
        image ? JSON.stringify(image) : null,
        lease?.holder ?? null,
        lease?.seconds ?? null,
      ],
    )
    .catch((error: unknown) => {
      throw nameProblem(error, input.name, slug);
    });
  const row = inserted.rows[0];
  if (!row) return null;
  if (input.database)
    await createLinkedDatabase(db, call, input.database, {
      type: "sandbox",
      id,
      name: input.name ?? slug,
      workspaceId,
      projectId,
    });
  const { links = "share" } = plan;
  if (plan.linksOf && links === "branch") await branchLinks(db, plan.linksOf, { id, slug });
  else if (plan.linksOf && links === "share")
    await db.query(
      `insert into database_links (database_id, resource_type, resource_id, env_name)
       select database_id, resource_type, $2, env_name from database_links where resource_type = 'sandbox' and resource_id = $1
       on conflict do nothing`,
      [plan.linksOf, id],
    );
  if (image?.fallback) await recordIn(db, imageFallback(call.caller.tenantId, workspaceId, id, image));
  await recordIn(db, {
    tenantId: call.caller.tenantId,
    workspaceId,
    type: "sandbox.created",
    resourceType: "sandbox",
    resourceId: id,
    data: { id, name: input.name ?? null },
  });
  return row;
}

export function nameProblem(error: unknown, name: string | undefined, slug: string | undefined): unknown {
  const { code, constraint } = error as { code?: string; constraint?: string };
  if (code !== "23505") return error;
  const field = constraint?.endsWith("_name") ? "name" : "slug";
  return new PlatformError(
    "NAME_TAKEN",
    `The ${field} "${field === "name" ? name : slug}" is in use. Choose another one.`,
    { errors: { [field]: ["is in use"] } },
  );
}

/** Eight characters that make a public slug unguessable enough to be no collision. */
export const randomSuffix = (length: number): string =>
  [...randomBytes(length)].map((byte) => "abcdefghjkmnpqrstuvwxyz23456789"[byte % 31]).join("");
