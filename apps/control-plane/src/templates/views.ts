import { sandboxSizes } from "@platform/contract";
import type { ImageReport } from "@platform/host-api";
import type { BuiltInTemplate } from "./built-in.ts";
import { whyMissing } from "./resolve.ts";
import type { TemplateBuildRow, TemplateRow } from "./store.ts";
import type { Platform } from "../platform.ts";
import { openSpec, settingsOf } from "./store.ts";

export const readinessStates = ["fast_ready", "cold_boot_only", "missing"] as const;
export const sizes = Object.keys(sandboxSizes) as (keyof typeof sandboxSizes)[];

export const contractOf = (size: keyof typeof sandboxSizes) => {
  const { vcpus, memory_mb, disk_size_mb } = sandboxSizes[size];
  return {
    id: `sandbox/${size}@v1`,
    product: "sandbox",
    size,
    version: "v1",
    vcpus,
    memory_mb,
    disk_size_mb,
  };
};

/** What can be said of a built-in template's image now. */
interface BuiltInState {
  readonly digest: string | null;
  readonly tools: readonly string[];
  /** Why its own image does not serve it; `null` when it does. */
  readonly why: string | null;
  readonly isUsable: boolean;
  readonly build: { readonly state: string; readonly id: string } | null;
  readonly sizeBytes: number | null;
}

function stateOf(template: BuiltInTemplate, report: ImageReport | null): BuiltInState {
  const none = { digest: null, tools: [...template.runtimes], build: null, sizeBytes: null };
  if (template.image === null) return { ...none, why: null, isUsable: true };
  if (!report) return { ...none, why: "no machine answers now", isUsable: template.hostMayServe };
  const image = report.images.find(({ name }) => name === template.image);
  const isThere = image !== undefined && image.digest !== null && image.certificate !== null;
  return {
    digest: isThere ? image.digest : null,
    tools: isThere ? image.tools : none.tools,
    why: isThere ? null : whyMissing(report, template),
    isUsable: isThere || template.hostMayServe,
    build: image?.build ? { state: image.build.state, id: image.build.key } : null,
    sizeBytes: isThere ? image.sizeBytes : null,
  };
}

/** Sizes of which boxes wait now: creating one is a claim. */
export type WarmSizes = ReadonlySet<string>;

export function catalogueRow(template: BuiltInTemplate, report: ImageReport | null, warm: WarmSizes) {
  const state = stateOf(template, report);
  const readinessOf = (size: string) =>
    !state.isUsable
      ? "missing"
      : warm.has(`${state.digest ?? "host"}/${size}`)
        ? "fast_ready"
        : "cold_boot_only";
  return {
    id: template.id,
    name: template.name,
    product: "sandbox",
    default_size: "small",
    primitive: "sandbox",
    sdk_name: template.id,
    cli_name: template.id,
    installed_tools: state.tools,
    aliases: template.aliases,
    sizes: sizes.map((size) => ({ size, state: readinessOf(size), resource_contract: contractOf(size) })),
    readiness: readinessOf("small"),
    readiness_contract: "eight components, each seen to work",
    benchmark_lane: null,
    image: { digest: state.digest, fallback: state.why, build: state.build },
  };
}

const common = {
  disk_mb: sandboxSizes.small.disk_size_mb,
  default_cpu: sandboxSizes.small.vcpus,
  default_memory_mb: sandboxSizes.small.memory_mb,
};

export function builtInRow(template: BuiltInTemplate, report: ImageReport | null) {
  const state = stateOf(template, report);
  return {
    id: template.id,
    slug: template.id,
    name: template.name,
    description: template.description,
    image_id: state.digest ?? "host",
    default: template.id === "miosa-sandbox",
    built_in: true,
    status: state.isUsable ? "ready" : "draft",
    ...common,
    workdir: "/workspace",
    preview_port: template.port,
    install_command: template.install,
    start_command: template.start,
    readiness_probe: template.port === null ? null : { path: "/", port: template.port },
    runtimes: template.runtimes,
    artifact_paths: [],
    tags: [],
    categories: template.categories,
    aliases: template.aliases,
    installed_tools: state.tools,
    image: { digest: state.digest, fallback: state.why, build: state.build, size_bytes: state.sizeBytes },
  };
}

/** `ready`: its only build that worked is in use. `active`: one was chosen among several. */
function statusOf(row: TemplateRow, last: TemplateBuildRow | undefined): string {
  if (row.active_build_id) return row.previous_build_id ? "active" : "ready";
  return last?.state === "failed" ? "failed" : "draft";
}

export function ownRow(
  platform: Platform,
  row: TemplateRow,
  active: TemplateBuildRow | null,
  last: TemplateBuildRow | undefined,
) {
  const spec = openSpec(platform, active ?? row);
  const settings = active ? settingsOf(platform, active) : null;
  return {
    id: row.id,
    slug: row.slug,
    name: row.name,
    description: row.description,
    metadata: row.metadata,
    image_id: active?.digest ?? null,
    default: false,
    built_in: false,
    status: statusOf(row, last),
    ...common,
    ...(spec.vcpu ? { default_cpu: spec.vcpu } : {}),
    workdir: settings?.workdir ?? spec.workdir,
    preview_port: settings?.previewPort ?? spec.previewPort ?? null,
    install_command: null,
    start_command: settings?.startCommand ?? spec.startCmd ?? null,
    readiness_probe: spec.readyCmd ? { command: spec.readyCmd } : null,
    runtimes: [],
    artifact_paths: spec.artifactPaths,
    tags: [],
    categories: [],
    aliases: [row.slug],
    from: spec.image === undefined ? spec.from : null,
    image: spec.image ?? null,
    active_build_id: row.active_build_id,
    previous_build_id: row.previous_build_id,
    last_build: last ? buildView(last) : null,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

export function buildView(row: TemplateBuildRow) {
  const { failure, certificate } = row;
  return {
    id: row.id,
    template_id: row.template_id,
    state: row.state,
    status: row.state,
    image_id: row.digest,
    base_image_id: row.base,
    size_bytes: row.size_bytes === null ? null : Number(row.size_bytes),
    error_code: failure ? failure.reason.toUpperCase() : null,
    error: failure
      ? { code: failure.reason.toUpperCase(), message: failure.detail, details: failure.evidence }
      : null,
    // The driver's name is the operator's business.
    certified: certificate
      ? { at: certificate.at, boot_ms: certificate.bootMs, isolation: certificate.level }
      : null,
    created_at: row.created_at.toISOString(),
    started_at: row.started_at?.toISOString() ?? null,
    finished_at: row.finished_at?.toISOString() ?? null,
  };
}
