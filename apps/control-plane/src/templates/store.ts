import { notFound, parseBuildSpec, type TemplateBuildSpec } from "@platform/contract";
import { ImageConfig, type ImageCertificate, type ImageFailure } from "@platform/host-api";
import { query, queryOne, transaction, type Queryable } from "@platform/postgres";
import type { Platform } from "../platform.ts";

export interface TemplateRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly slug: string;
  readonly name: string;
  readonly description: string | null;
  readonly metadata: Record<string, unknown>;
  readonly build_spec_sealed: Buffer;
  readonly active_build_id: string | null;
  readonly previous_build_id: string | null;
  readonly created_at: Date;
  readonly updated_at: Date;
}

export type TemplateBuildState =
  "queued" | "building" | "snapshotting" | "certifying" | "ready" | "failed" | "cancelled";

export interface TemplateBuildRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly template_id: string;
  readonly state: TemplateBuildState;
  readonly build_spec_sealed: Buffer;
  /** Digest that it was started from. */
  readonly base: string | null;
  readonly digest: string | null;
  readonly size_bytes: string | null;
  readonly certificate: ImageCertificate | null;
  /** What an imported image says of itself; sealed, as its variables may be secrets. */
  readonly config_sealed: Buffer | null;
  readonly failure: ImageFailure | null;
  readonly cancel_requested: boolean;
  readonly promote_when_ready: boolean;
  readonly log_seq: number;
  readonly created_at: Date;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
}

export const hasEnded = (state: TemplateBuildState): boolean =>
  state === "ready" || state === "failed" || state === "cancelled";

/** By id or by slug; another tenant's template does not exist. */
export const findOwnTemplate = (db: Queryable, tenantId: string, id: string) =>
  queryOne<TemplateRow>(
    db,
    "select * from sandbox_templates where tenant_id = $1 and deleted_at is null and (id::text = $2 or slug = $2)",
    [tenantId, id],
  );

export const listOwnTemplates = (db: Queryable, tenantId: string) =>
  query<TemplateRow>(
    db,
    "select * from sandbox_templates where tenant_id = $1 and deleted_at is null order by created_at",
    [tenantId],
  );

export const loadTemplate = (db: Queryable, id: string) =>
  queryOne<TemplateRow>(db, "select * from sandbox_templates where id = $1", [id]);

export const loadTemplateBuild = (db: Queryable, id: string) =>
  queryOne<TemplateBuildRow>(db, "select * from template_builds where id = $1", [id]);

export const buildsOf = (db: Queryable, templateId: string) =>
  query<TemplateBuildRow>(
    db,
    "select * from template_builds where template_id = $1 order by created_at desc limit 200",
    [templateId],
  );

/** @throws PlatformError NOT_FOUND */
export async function ownBuild(db: Queryable, tenantId: string, id: string): Promise<TemplateBuildRow> {
  const row = await queryOne<TemplateBuildRow>(
    db,
    "select * from template_builds where tenant_id = $1 and id::text = $2",
    [tenantId, id],
  );
  if (!row) throw notFound(`Template build ${id}`);
  return row;
}

/** Name of an uploaded image on its host. */
export const uploadKey = (id: string): string => `iu-${id}`;

export const findUpload = (db: Queryable, tenantId: string, id: string) =>
  queryOne<{ id: string }>(
    db,
    "select id from template_image_uploads where tenant_id = $1 and id = $2 and created_at > now() - interval '23 hours'",
    [tenantId, id],
  );

/** Long enough from now for a build that begins with it. */
export const hasUpload = async (db: Queryable, tenantId: string, id: string): Promise<boolean> =>
  (await queryOne(
    db,
    "select 1 from template_image_uploads where tenant_id = $1 and id = $2 and created_at > now() - interval '12 hours'",
    [tenantId, id],
  )) !== null;

/** Holds secrets of its author: sealed in the database. */
export const openSpec = (platform: Platform, row: { build_spec_sealed: Buffer }): TemplateBuildSpec =>
  parseBuildSpec(JSON.parse(platform.seal.open(row.build_spec_sealed)));

export const openConfig = (platform: Platform, row: { config_sealed: Buffer | null }): ImageConfig | null =>
  row.config_sealed === null ? null : ImageConfig.parse(JSON.parse(platform.seal.open(row.config_sealed)));

/** What sandboxes of a finished build get: the build's own words, else the imported image's. */
export function settingsOf(platform: Platform, build: TemplateBuildRow) {
  const [spec, config] = [openSpec(platform, build), openConfig(platform, build)];
  const workdir = spec.workdir === standardWorkdir ? (config?.workdir ?? spec.workdir) : spec.workdir;
  return {
    env: { ...config?.env, ...spec.env },
    workdir,
    startCommand: spec.startCmd ?? config?.startCommand ?? null,
    previewPort: spec.previewPort ?? config?.ports[0] ?? null,
  };
}

const standardWorkdir = "/workspace";

export const sealSpec = (platform: Platform, spec: TemplateBuildSpec): Buffer =>
  platform.seal.close(JSON.stringify(spec));

export interface BuildLine {
  readonly seq: number;
  readonly stream: string;
  readonly line: string;
  readonly at: Date;
}

export const linesAfter = (db: Queryable, buildId: string, after: number, limit: number) =>
  query<BuildLine>(
    db,
    "select seq, stream, line, at from template_build_logs where build_id = $1 and seq > $2 order by seq limit $3",
    [buildId, after, limit],
  );

/** Stores a template; the same id again changes nothing. @throws the store's own error for a slug in use */
export async function saveTemplate(
  platform: Platform,
  db: Queryable,
  row: Pick<TemplateRow, "id" | "tenant_id" | "slug" | "name" | "description" | "metadata">,
  spec: TemplateBuildSpec,
): Promise<boolean> {
  const { rowCount } = await db.query(
    `insert into sandbox_templates (id, tenant_id, slug, name, description, metadata, build_spec_sealed)
     values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do nothing`,
    [row.id, row.tenant_id, row.slug, row.name, row.description, row.metadata, sealSpec(platform, spec)],
  );
  return rowCount === 1;
}

/** Queues a build with a spec that is the template's own from now on; the same id again changes nothing. */
export async function saveBuild(
  platform: Platform,
  id: string,
  row: TemplateRow,
  spec: TemplateBuildSpec | null,
  mustPromote = false,
): Promise<void> {
  const sealed = spec === null ? row.build_spec_sealed : sealSpec(platform, spec);
  await transaction(platform.pool, async (db) => {
    if (spec !== null)
      await db.query(
        "update sandbox_templates set build_spec_sealed = $2, updated_at = now() where id = $1",
        [row.id, sealed],
      );
    await db.query(
      `insert into template_builds (id, tenant_id, template_id, build_spec_sealed, promote_when_ready)
       values ($1, $2, $3, $4, $5) on conflict (id) do nothing`,
      [id, row.tenant_id, row.id, sealed, mustPromote],
    );
  });
  platform.signals.announce("work:template_builds");
}
