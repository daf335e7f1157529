import { pauses, type BoxContent } from "@platform/host-api";
import { sandboxSizes, notFound, PlatformError, type SandboxSize } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import type { SandboxImage } from "../templates/index.ts";
import {
  isUuid,
  mayUse,
  previewDomain,
  previewHostname,
  publicUrl,
  type OwnedRow,
  type Tenant,
} from "../tenants/index.ts";
import { assertMove, type SandboxState } from "./lifecycle.ts";

/** Content of the box at its creation; `temporary` snapshots are removed once all boxes of it run. */
export type SandboxContent = BoxContent & {
  readonly temporary?: boolean;
  /** Box whose files the snapshot shall hold; gone once it does. */
  readonly from?: string;
};

/** A service as it shall be, whatever box the sandbox has: kept with the sandbox's row. */
export interface DesiredService {
  readonly name: string;
  readonly command: string;
  readonly cwd: string;
  /** Base64 of the sealed JSON of its variables, which may hold secrets. */
  readonly env_sealed?: string;
  readonly port?: number;
  readonly health_path?: string;
  /** A client stopped it: known, but not started with the box. */
  readonly stopped?: boolean;
}

export interface SandboxRow extends OwnedRow {
  readonly generation: string;
  readonly name: string | null;
  readonly slug: string;
  readonly tags: unknown;
  readonly state: SandboxState;
  readonly desired: "running" | "paused" | "destroyed";
  readonly template_id: string;
  /** What it boots; `null` until a machine could be asked. */
  readonly image: SandboxImage | null;
  readonly size: string;
  readonly cpu_count: number;
  readonly memory_mb: number;
  readonly disk_size_mb: number;
  readonly persistent: boolean;
  readonly always_on: boolean;
  readonly timeout_sec: number;
  readonly idle_timeout_sec: number;
  readonly expires_at: Date | null;
  readonly last_used_at: Date;
  readonly env_sealed: Buffer;
  /** As they shall be: each box of this sandbox starts those that nobody stopped. */
  readonly services: readonly DesiredService[];
  readonly readiness_probe: { path: string; port: number } | null;
  readonly box_key: string;
  readonly content: SandboxContent;
  readonly isolation: { driver: string; level: string; kernel: string; missing: string[] } | null;
  readonly readiness: Record<string, { status: string; detail?: string }> | null;
  readonly ready: boolean;
  readonly ready_at: Date | null;
  readonly boot_ms: number | null;
  readonly boot_path: string | null;
  readonly last_error: { reason: string; message: string; evidence?: unknown } | null;
  readonly started_at: Date | null;
  readonly destroyed_at: Date | null;
  /** Sandboxes made by one call start at most `group_limit` at a time, in order of `group_index`. */
  readonly group_id: string | null;
  readonly group_index: number | null;
  readonly group_limit: number | null;
  /** The sandbox whose files it was made of. */
  readonly restored_from: string | null;
  readonly run_seconds: number;
  readonly running_since: Date | null;
  readonly setup: {
    status: string;
    error: string | null;
    script?: string;
    clone?: { url: string; branch?: string; path?: string };
  } | null;
}

export const readinessComponents = [
  "command_agent",
  "process_control",
  "resource_contract",
  "clock",
  "identity",
  "durability",
  "filesystem",
  "internal_probe",
] as const;

export const loadSandbox = (db: Queryable, id: string) =>
  queryOne<SandboxRow>(db, "select * from sandboxes where id = $1", [id]);

/** @throws PlatformError INVALID_ID, NOT_FOUND; another tenant's sandbox does not exist */
export async function ownSandbox(db: Queryable, caller: Caller, id: string): Promise<SandboxRow> {
  if (!isUuid(id)) {
    const named = await queryOne<SandboxRow>(
      db,
      "select * from sandboxes where tenant_id = $1 and state <> 'destroyed' and (name = $2 or slug = $2) limit 1",
      [caller.tenantId, id],
    );
    if (named && mayUse(caller, named)) return named;
    throw new PlatformError(
      "INVALID_ID",
      `"${id.slice(0, 100)}" is neither a UUID nor the name of a sandbox. Use an id from GET /sandboxes.`,
    );
  }
  const row = await loadSandbox(db, id);
  if (!row || !mayUse(caller, row) || row.state === "destroyed") throw notFound(`Sandbox ${id}`);
  return row;
}

/** Records an observed state. Returns false when the row was changed meanwhile: look again. */
export async function moveTo(
  platform: Platform,
  row: SandboxRow,
  to: SandboxState,
  set: Record<string, unknown> = {},
): Promise<boolean> {
  if (row.state !== to) assertMove(row.state, to);
  const running =
    to === "running" && row.state !== "running"
      ? ", running_since = now()"
      : to !== "running" && row.running_since
        ? ", run_seconds = run_seconds + extract(epoch from now() - running_since), running_since = null"
        : "";
  const names = Object.keys(set);
  const assignments = names.map((name, index) => `, ${name} = $${index + 4}`).join("");
  const result = await platform.pool.query(
    `update sandboxes set state = $3, updated_at = now()${running}${assignments} where id = $1 and generation = $2`,
    [row.id, row.generation, to, ...Object.values(set)],
  );
  platform.signals.announce(`sandbox:${row.id}`);
  return result.rowCount === 1;
}

/** Changes what is wanted; the reconciler does the rest. */
export async function want(platform: Platform, id: string, set: Record<string, unknown>): Promise<void> {
  await wantIn(platform.pool, id, set);
  platform.signals.announce("work:sandboxes");
}

/** The same within a transaction; announce it once that has ended. */
export async function wantIn(db: Queryable, id: string, set: Record<string, unknown>): Promise<void> {
  const names = Object.keys(set);
  await db.query(
    `update sandboxes set generation = generation + 1, next_look_at = now(), updated_at = now()${names.map((name, index) => `, ${name} = $${index + 2}`).join("")} where id = $1`,
    [id, ...Object.values(set)],
  );
}

export const sizeOf = (size: string) => sandboxSizes[size as SandboxSize];

/** The sandbox as clients see it. */
/** Whether its machine can hold it still. One that cannot goes on when its time is over. */
export const canPause = ({ isolation }: Pick<SandboxRow, "isolation">): boolean =>
  !isolation?.missing.includes(pauses);

export function sandboxView(platform: Platform, tenant: Tenant, row: SandboxRow): Record<string, unknown> {
  const remaining = row.expires_at ? Math.max(0, row.expires_at.getTime() - Date.now()) : null;
  const shown = row.state === "running" && row.ready;
  const runSeconds =
    row.run_seconds + (row.running_since ? (Date.now() - row.running_since.getTime()) / 1000 : 0);
  return {
    id: row.id,
    slug: row.slug,
    name: row.name,
    tags: row.tags,
    metadata: { ...row.metadata, ...(row.last_error ? { last_error: row.last_error } : {}) },
    tenant_id: row.tenant_id,
    owner_id: row.external_user_id,
    workspace_id: row.workspace_id,
    project_id: row.project_id,
    external_workspace_id: row.external_workspace_id,
    external_user_id: row.external_user_id,
    external_project_id: row.external_project_id,
    state: row.state,
    ready: shown,
    ready_at: row.ready_at?.toISOString() ?? null,
    boot_path: row.boot_path,
    boot_ms: row.boot_ms,
    created_at: row.created_at.toISOString(),
    inserted_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
    started_at: row.started_at?.toISOString() ?? null,
    destroyed_at: row.destroyed_at?.toISOString() ?? null,
    size: row.size,
    template_id: row.template_id,
    image_id: row.image?.digest ?? row.template_id,
    image: {
      template: row.image?.template ?? row.template_id,
      digest: row.image?.digest ?? null,
      // Said, never silent: what serves in place of the template's own image, and why.
      source: row.image === null ? null : row.image.digest === null ? "host" : "image",
      fallback: row.image?.fallback ?? null,
    },
    cpu_count: row.cpu_count,
    memory_mb: row.memory_mb,
    disk_size_mb: row.disk_size_mb,
    disk_mb: row.disk_size_mb,
    resource_contract: {
      id: `sandbox/${row.size}@v1`,
      product: "sandbox",
      size: row.size,
      version: "v1",
      vcpus: row.cpu_count,
      memory_mb: row.memory_mb,
      disk_size_mb: row.disk_size_mb,
    },
    persistent: row.persistent,
    always_on: row.always_on,
    timeout_sec: row.timeout_sec,
    timeout_remaining_ms: remaining,
    idle_timeout_sec: row.idle_timeout_sec,
    total_runtime_sec: Math.round(runSeconds),
    preview_url: publicUrl(platform.settings, previewHostname(tenant, row.slug, null)),
    preview_domain: previewDomain(tenant),
    url_class: row.always_on ? "always_on_preview" : "temporary_preview",
    url_info: {
      class: row.always_on ? "always_on_preview" : "temporary_preview",
      stable_for_embedding: row.always_on,
    },
    stable_for_embedding: row.always_on,
    recommended_next_action: "publish_when_ready",
    isolation: row.isolation,
    restored_from: row.restored_from,
    setup_status: row.setup?.status ?? null,
    setup_error: row.setup?.error ?? null,
    environment_id: null,
    agent_runtime_profile_id: null,
  };
}
