import type { ImageFailure } from "@platform/host-api";

/** Why an image cannot be made; becomes the failure of its build. */
export class ImageError extends Error {
  readonly failure: ImageFailure;
  constructor(
    reason: ImageFailure["reason"],
    detail: string,
    evidence: Record<string, unknown> = {},
    options?: ErrorOptions,
  ) {
    super(detail, options);
    this.name = "ImageError";
    this.failure = { reason, detail, evidence };
  }
}
