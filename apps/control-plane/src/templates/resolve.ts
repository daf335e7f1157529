import { PlatformError } from "@platform/contract";
import { HostError, type ImageReport } from "@platform/host-api";
import type { Platform } from "../platform.ts";
import { builtInTemplates, findBuiltIn, type BuiltInTemplate } from "./built-in.ts";
import { findOwnTemplate, hasEnded, loadTemplateBuild, buildsOf, settingsOf } from "./store.ts";

/** What a sandbox boots; stored with it, so that it boots the same again. */
export interface SandboxImage {
  readonly template: string;
  /** `null`: the machine's own system, read-only. */
  readonly digest: string | null;
  /** Why it is not the template's own image; `null` when it is. */
  readonly fallback: string | null;
}

/** What a template gives to a new sandbox. */
export interface ResolvedTemplate {
  readonly id: string;
  /** `null`: no host could be asked; to be settled before the sandbox starts. */
  readonly image: SandboxImage | null;
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly startCommand: string | null;
  readonly previewPort: number | null;
}

const reportAgeMs = 3_000;
const reports = new WeakMap<Platform, { at: number; report: ImageReport }>();

/** What images the host has, seen a few seconds ago at most; `null` when it does not answer. */
export async function imagesOf(platform: Platform): Promise<ImageReport | null> {
  const known = reports.get(platform);
  if (known && Date.now() - known.at < reportAgeMs) return known.report;
  try {
    const report = await platform.host.images(AbortSignal.timeout(5_000));
    reports.set(platform, { at: Date.now(), report });
    return report;
  } catch (error) {
    if (error instanceof HostError || (error as Error).name === "TimeoutError") return null;
    throw error;
  }
}

const isUsable = (report: ImageReport, name: string) =>
  report.images.find((image) => image.name === name && image.digest !== null && image.certificate !== null);

/** Why a built-in template has no image of its own now, for people. */
export function whyMissing(report: ImageReport, template: BuiltInTemplate): string {
  const build = report.images.find((image) => image.name === template.image)?.build;
  if (build && ["queued", "building", "snapshotting", "certifying"].includes(build.state))
    return "its image is being built";
  if (build?.state === "failed") return "its image could not be built";
  return report.whyNoBuilds === null
    ? "its image was not built yet"
    : "images cannot be built on this machine";
}

function builtInImage(report: ImageReport, template: BuiltInTemplate): SandboxImage {
  if (template.image === null) return { template: template.id, digest: null, fallback: null };
  const image = isUsable(report, template.image);
  if (image) return { template: template.id, digest: image.digest, fallback: null };
  const why = whyMissing(report, template);
  if (template.hostMayServe) return { template: template.id, digest: null, fallback: why };
  throw new PlatformError(
    "TEMPLATE_NOT_READY",
    `Template "${template.id}" cannot be used: ${why}. Ask your operator to build image "${template.image}", or use another template.`,
    { details: { template: template.id, reason: why } },
  );
}

const unknown = (id: string) =>
  new PlatformError(
    "TEMPLATE_NOT_FOUND",
    `There is no template "${id}". List them with GET /sandbox-templates.`,
    { details: { built_in: builtInTemplates.map((template) => template.id) } },
  );

/** @throws PlatformError TEMPLATE_NOT_FOUND, TEMPLATE_NOT_READY */
export async function resolveTemplate(
  platform: Platform,
  tenantId: string,
  id: string,
): Promise<ResolvedTemplate> {
  const builtIn = findBuiltIn(id);
  if (builtIn) {
    const report = await imagesOf(platform);
    return {
      id: builtIn.id,
      image: report ? builtInImage(report, builtIn) : null,
      ...{ env: {}, workdir: "/workspace", startCommand: null, previewPort: builtIn.port },
    };
  }
  const row = await findOwnTemplate(platform.pool, tenantId, id);
  if (!row) throw unknown(id);
  const build = row.active_build_id ? await loadTemplateBuild(platform.pool, row.active_build_id) : null;
  if (!build?.digest) {
    const [last] = await buildsOf(platform.pool, row.id);
    const isUnderWay = last !== undefined && !hasEnded(last.state);
    const next = isUnderWay
      ? `Build ${last.id} is ${last.state}; wait until it is ready.`
      : last?.state === "failed"
        ? `Its last build failed: ${last.failure?.detail ?? last.failure?.reason}. Correct the build spec and build again.`
        : `Build it with POST /sandbox-templates/${row.id}/builds.`;
    throw new PlatformError("TEMPLATE_NOT_READY", `Template "${row.slug}" has no finished build. ${next}`, {
      details: { template: row.id, build_id: last?.id ?? null, state: last?.state ?? null },
      ...(isUnderWay ? { retryAfterMs: 2_000 } : {}),
    });
  }
  return {
    id: row.slug,
    image: { template: row.slug, digest: build.digest, fallback: null },
    ...settingsOf(platform, build),
  };
}
