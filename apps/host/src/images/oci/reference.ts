import { ImageError } from "../image-error.ts";

export interface ImageReferenceParts {
  /** As references name it, such as `ghcr.io`. */
  readonly registry: string;
  readonly repository: string;
  /** A tag, or a digest. */
  readonly reference: string;
}

/** What names without a registry mean, by the custom of all engines. */
const defaultRegistry = "docker.io";
const name = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const tag = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const digest = /^sha256:[0-9a-f]{64}$/;

/**
 * `node:22`, `ghcr.io/owner/app@sha256:…`.
 *
 * @throws ImageError `image_invalid`
 * @see https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
 */
export function parseReference(text: string): ImageReferenceParts {
  const [first = "", ...more] = text.split("/");
  const hasRegistry = more.length > 0 && (/[.:]/.test(first) || first === "localhost");
  const registry = hasRegistry ? first : defaultRegistry;
  let rest = hasRegistry ? more.join("/") : text;
  let reference = "latest";
  const at = rest.indexOf("@");
  const colon = rest.indexOf(":");
  if (at >= 0) {
    reference = rest.slice(at + 1);
    // A tag beside a digest says nothing that the digest does not.
    rest = rest.slice(0, at).split(":")[0]!;
  } else if (colon >= 0) {
    reference = rest.slice(colon + 1);
    rest = rest.slice(0, colon);
  }
  const repository = registry === defaultRegistry && !rest.includes("/") ? `library/${rest}` : rest;
  if (!name.test(repository) || repository.length > 255 || !(tag.test(reference) || digest.test(reference)))
    throw new ImageError(
      "image_invalid",
      `"${text.slice(0, 200)}" is no reference of an image. Write it like node:22 or registry.example/team/app:1.2.`,
    );
  return { registry, repository, reference };
}
