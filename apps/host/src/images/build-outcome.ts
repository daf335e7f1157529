import type { ImageConfig, ImageFailure, ImageInfo, ResolvedImageBuildSpec } from "@platform/host-api";
import { ImageError } from "./image-error.ts";
import type { StoredImage } from "./image-store.ts";

/** What an imported image says counts where the build does not say otherwise. */
export const withConfig = (
  spec: ResolvedImageBuildSpec,
  config: ImageConfig | null,
): ResolvedImageBuildSpec =>
  config === null
    ? spec
    : {
        ...spec,
        check: {
          ...spec.check,
          env: { ...config.env, ...spec.check.env },
          startCommand: spec.check.startCommand ?? config.startCommand,
          workdir:
            spec.check.workdir === "/workspace" ? (config.workdir ?? "/workspace") : spec.check.workdir,
        },
      };

export function infoOf(image: StoredImage | null): ImageInfo {
  return {
    ...{ name: null, digest: image?.digest ?? null, isOutdated: false },
    sizeBytes: image?.sizeBytes ?? null,
    createdAt: image?.createdAt ?? null,
    release: image?.release ?? null,
    ...{ certificate: null, build: null, tools: [] },
  };
}

export const tookTooLong = (timeoutMs: number): ImageFailure => ({
  reason: "timeout",
  detail: `The build took longer than ${Math.round(timeoutMs / 1000)} s and was ended.`,
  evidence: { timeoutMs },
});

export function failureOf(error: unknown): ImageFailure {
  if (error instanceof ImageError) return error.failure;
  if ((error as NodeJS.ErrnoException).code === "ENOSPC") {
    const detail = "The machine's disk is full. Free space, then build again.";
    return { reason: "disk_full", detail, evidence: {} };
  }
  const detail = "The build failed unexpectedly; the host's log says why.";
  return { reason: "internal", detail, evidence: {} };
}
