import { notFound, parseBuildSpec, type TemplateBuildSpec } from "@platform/contract";
import type { ImageCertificate, ImageFailure } from "@platform/host-api";
import { query, queryOne, type Queryable } from "@platform/postgres";
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
  readonly failure: ImageFailure | null;
  readonly cancel_requested: boolean;
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

/** Holds secrets of its author: sealed in the database. */
export const openSpec = (platform: Platform, row: { build_spec_sealed: Buffer }): TemplateBuildSpec =>
  parseBuildSpec(JSON.parse(platform.seal.open(row.build_spec_sealed)));

export const sealSpec = (platform: Platform, spec: TemplateBuildSpec): Buffer =>
  platform.seal.close(JSON.stringify(spec));
