import type { PublishFields } from "@platform/contract";
import { query, queryOne, type Queryable } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import type { Plan } from "./detect/index.ts";
import { createMasking, type Masking } from "./masking.ts";

/** A refusal as it is stored with a build: becomes the 422 of the publish call. */
export interface BuildFailure {
  readonly code: string;
  readonly message: string;
  readonly details: Record<string, unknown>;
  readonly errors?: Record<string, string[]>;
}

export interface BuildRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly deployment_id: string;
  readonly version_id: string;
  readonly release_id: string;
  readonly state: "queued" | "building" | "succeeded" | "failed" | "cancelled";
  readonly step: string;
  readonly request: PublishFields & { source_digest?: string };
  readonly plan: Plan | null;
  readonly source_digest: string | null;
  readonly bundle_digest: string | null;
  readonly failure: BuildFailure | null;
  readonly actor: { key_id: string; key_name: string };
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
  readonly created_at: Date;
  readonly generation: string;
}

export interface ReleaseRow {
  readonly id: string;
  readonly deployment_id: string;
  readonly deployment_version_id: string;
  readonly kind: string;
  readonly state: "pending" | "ready" | "active" | "failed" | "archived";
  readonly artifact_sha256: string | null;
  readonly size_bytes: string | null;
  readonly artifact_manifest: Record<string, unknown>;
  readonly start_command: string | null;
  readonly port: number | null;
  readonly health_check_path: string | null;
  readonly source_sandbox_id: string | null;
  readonly build_id: string | null;
  readonly metadata: Record<string, unknown>;
  /** DSSE envelope of the signed provenance; set when the release became ready. */
  readonly attestation: unknown;
  readonly pinned_at: Date | null;
  readonly pin_reason: string | null;
  readonly ready_at: Date | null;
  readonly archived_at: Date | null;
  readonly created_at: Date;
}

export interface VersionRow {
  readonly id: string;
  readonly deployment_id: string;
  readonly version_number: number;
  readonly kind: string;
  readonly state: string;
  readonly source_sandbox_id: string | null;
  readonly build_id: string | null;
  readonly artifact_sha256: string | null;
  readonly artifact_manifest: Record<string, unknown>;
  readonly runtime_command: string | null;
  readonly runtime_port: number | null;
  readonly health_check_path: string | null;
  readonly metadata: Record<string, unknown>;
  readonly promoted_at: Date | null;
  /** Why it does not serve any more, where it died. */
  readonly verdict: Record<string, unknown> | null;
  readonly archived_at: Date | null;
  readonly created_at: Date;
}

export const loadBuild = (db: Queryable, id: string) =>
  queryOne<BuildRow>(db, "select * from builds where id = $1", [id]);
export const loadRelease = (db: Queryable, id: string) =>
  queryOne<ReleaseRow>(db, "select * from releases where id = $1", [id]);
export const loadVersion = (db: Queryable, id: string) =>
  queryOne<VersionRow>(db, "select * from versions where id = $1", [id]);

const iso = (date: Date | null) => date?.toISOString() ?? null;

/** Whose version or release it is: clients demand `tenant_id` on each. */
export interface ViewOwner {
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly project_id: string | null;
  readonly external_workspace_id: string | null;
  readonly external_user_id: string | null;
  readonly external_project_id: string | null;
}

const ownerView = (owner: ViewOwner) => ({
  tenant_id: owner.tenant_id,
  workspace_id: owner.workspace_id,
  project_id: owner.project_id,
  external_workspace_id: owner.external_workspace_id,
  external_user_id: owner.external_user_id,
  external_project_id: owner.external_project_id,
});

export const versionView = (row: VersionRow, owner: ViewOwner) => ({
  id: row.id,
  ...ownerView(owner),
  deployment_id: row.deployment_id,
  version_number: row.version_number,
  kind: row.kind,
  state: row.state,
  source_sandbox_id: row.source_sandbox_id,
  build_id: row.build_id,
  artifact_uri: row.artifact_sha256 ? `sha256:${row.artifact_sha256}` : null,
  artifact_sha256: row.artifact_sha256,
  artifact_manifest: row.artifact_manifest ?? {},
  runtime_image: null,
  runtime_command: row.runtime_command,
  runtime_port: row.runtime_port,
  health_check_path: row.health_check_path,
  build_log_uri: row.build_id ? `/deployments/${row.deployment_id}/builds/${row.build_id}/logs` : null,
  metadata: row.metadata,
  promoted_at: iso(row.promoted_at),
  verdict: row.verdict,
  archived_at: iso(row.archived_at),
  created_at: row.created_at.toISOString(),
  inserted_at: row.created_at.toISOString(),
});

/** The release that serves traffic reads `active`. */
export const releaseView = (
  row: ReleaseRow,
  owner: ViewOwner & { readonly active_release_id: string | null },
) => ({
  id: row.id,
  ...ownerView(owner),
  deployment_id: row.deployment_id,
  deployment_version_id: row.deployment_version_id,
  environment_id: null,
  service_id: null,
  kind: row.kind,
  state: row.state === "ready" && row.id === owner.active_release_id ? "active" : row.state,
  artifact_uri: row.artifact_sha256 ? `sha256:${row.artifact_sha256}` : null,
  artifact_sha256: row.artifact_sha256,
  sha256: row.artifact_sha256,
  size_bytes: row.size_bytes === null ? null : Number(row.size_bytes),
  artifact_manifest: row.artifact_manifest ?? {},
  storage_backend: "blob",
  storage_uri: row.artifact_sha256 ? `sha256:${row.artifact_sha256}` : null,
  start_command: row.start_command,
  port: row.port,
  health_check_path: row.health_check_path,
  source_sandbox_id: row.source_sandbox_id,
  build_id: row.build_id,
  metadata: row.metadata,
  pinned_at: iso(row.pinned_at),
  pin_reason: row.pin_reason,
  ready_at: iso(row.ready_at),
  archived_at: iso(row.archived_at),
  created_at: row.created_at.toISOString(),
  inserted_at: row.created_at.toISOString(),
});

export const buildView = (row: BuildRow) => ({
  id: row.id,
  deployment_id: row.deployment_id,
  version_id: row.version_id,
  release_id: row.release_id,
  state: row.state,
  status: row.state,
  step: row.step,
  plan: row.plan,
  source_digest: row.source_digest,
  error: row.failure,
  error_message: row.failure?.message ?? null,
  duration_ms:
    row.started_at && row.finished_at ? row.finished_at.getTime() - row.started_at.getTime() : null,
  started_at: iso(row.started_at),
  finished_at: iso(row.finished_at),
  created_at: row.created_at.toISOString(),
  inserted_at: row.created_at.toISOString(),
});

/** One writer per build, in order; lines are masked before they get here. */
export class BuildLog {
  readonly #platform: Platform;
  readonly #buildId: string;
  readonly masking: Masking;
  #pending: { stream: string; line: string }[] = [];
  #writing: Promise<void> = Promise.resolve();

  /** @param secrets values that must not appear; those under six characters would mask ordinary text */
  constructor(platform: Platform, buildId: string, secrets: readonly string[]) {
    this.#platform = platform;
    this.#buildId = buildId;
    this.masking = createMasking(secrets);
  }

  mask(text: string): string {
    return this.masking.mask(text);
  }

  add(stream: "stdout" | "stderr" | "system", line: string): void {
    this.#pending.push({ stream, line: this.mask(line).slice(0, 8192).replaceAll("\0", "") });
    this.#writing = this.#writing.then(() => this.#write());
  }

  async flush(): Promise<void> {
    await this.#writing;
    await this.#write();
  }

  async #write(): Promise<void> {
    const lines = this.#pending.splice(0);
    if (lines.length === 0) return;
    await this.#platform.pool.query(
      "insert into build_logs (build_id, stream, line) select $1, * from unnest($2::text[], $3::text[])",
      [this.#buildId, lines.map((line) => line.stream), lines.map((line) => line.line)],
    );
    this.#platform.signals.announce(`build-log:${this.#buildId}`);
  }

  async tail(count: number): Promise<string[]> {
    await this.flush();
    const rows = await query<{ line: string }>(
      this.#platform.pool,
      "select line from (select line, seq from build_logs where build_id = $1 order by seq desc limit $2) t order by seq",
      [this.#buildId, count],
    );
    return rows.map((row) => row.line);
  }
}

/** Notes how far a build is; one that has ended is left as it is. */
export const setBuild = async (platform: Platform, id: string, values: Record<string, unknown>) => {
  const names = Object.keys(values);
  await platform.pool.query(
    `update builds set ${names.map((name, index) => `${name} = $${index + 2}`).join(", ")} where id = $1 and state in ('queued', 'building')`,
    [id, ...Object.values(values)],
  );
  platform.signals.announce(`build:${id}`);
};
