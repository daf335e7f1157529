import { readFile } from "node:fs/promises";
import type { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { request, type Dispatcher } from "undici";
import { z } from "zod";
import { ImageError } from "../image-error.ts";
import { digestOf, indexTypes, manifestTypes, type ImageParts } from "./document.ts";
import { parseReference } from "./reference.ts";

/** A registry that images may be taken from, as the operator configured it. */
export const Registry = z.object({
  /** As references name it. */
  name: z.string().min(1),
  /** Where it is reached; a mirror may serve another one's name. */
  url: z.url({ protocol: /^https?$/ }),
  username: z.string().optional(),
  password: z.string().optional(),
});
export type Registry = z.output<typeof Registry>;

/** @throws Error when the file cannot be read or is not valid; it never quotes the file, which may hold passwords */
export async function readRegistries(path: string | undefined): Promise<readonly Registry[]> {
  if (path === undefined) return [];
  const text = await readFile(path, "utf8");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(`${path} is not JSON: write [{"name": "docker.io", "url": "https://…"}].`);
  }
  const parsed = Registry.array().safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new Error(`${path} is not valid: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`);
}

const headersTimeoutMs = 30_000;
const bodyTimeoutMs = 60_000;
const maxRedirects = 4;
const attempts = 3;
const pauseMs = 500;
const maxDocumentBytes = 4 * 1024 * 1024;
const accept = [...indexTypes, ...manifestTypes].join(", ");

/**
 * Pulls an image by the distribution protocol.
 *
 * @throws ImageError `registry_unavailable` when no configured registry has the reference's name
 * @see https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pull
 */
export function openRegistry(text: string, registries: readonly Registry[]): ImageParts {
  const { registry: name, repository, reference } = parseReference(text);
  const registry = registries.find((one) => one.name === name);
  if (!registry) {
    const known = registries.map((one) => one.name);
    throw new ImageError(
      "registry_unavailable",
      known.length === 0
        ? "No registry is configured here. Upload the image instead, or ask your operator to configure one."
        : `The registry ${name} is not among those configured here (${known.join(", ")}). Use one of them, or upload the image.`,
      { registry: name, configured: known },
    );
  }
  const pull = new Pull(registry, repository, text);
  return {
    root: async (signal) => {
      const response = await pull.get(`manifests/${reference}`, accept, signal);
      const bytes = await readBounded(response.body);
      const digest = reference.startsWith("sha256:") ? reference : null;
      if (digest !== null && digestOf(bytes) !== digest)
        throw new ImageError("image_invalid", `The registry answered another image than ${digest}.`);
      const [mediaType = ""] = String(response.headers["content-type"] ?? "").split(";");
      return { mediaType: mediaType.trim(), bytes };
    },
    open: async ({ digest }, kind, signal) =>
      kind === "manifest"
        ? (await pull.get(`manifests/${digest}`, accept, signal)).body
        : (await pull.get(`blobs/${digest}`, "*/*", signal)).body,
  };
}

async function readBounded(body: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += (chunk as Buffer).length;
    if (size > maxDocumentBytes)
      throw new ImageError("image_invalid", `The image's manifest is over ${maxDocumentBytes} bytes.`);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks);
}

/** One image's way through one registry: the token that it gave lasts for the pull. */
class Pull {
  readonly #registry: Registry;
  readonly #repository: string;
  readonly #text: string;
  #authorization: string | null = null;

  constructor(registry: Registry, repository: string, text: string) {
    this.#registry = registry;
    this.#repository = repository;
    this.#text = text;
  }

  /** @throws ImageError */
  async get(path: string, types: string, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    const url = new URL(`/v2/${this.#repository}/${path}`, this.#registry.url);
    for (let attempt = 1; ; attempt += 1) {
      try {
        const response = await this.#follow(url, types, signal);
        if (response.statusCode === 200) return response;
        await response.body.dump();
        if (response.statusCode < 500 && response.statusCode !== 429)
          throw this.#refused(response.statusCode);
        if (attempt === attempts) throw this.#silent(`it answered ${response.statusCode}`);
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof ImageError) throw error;
        if (attempt === attempts)
          throw this.#silent((error as NodeJS.ErrnoException).code ?? "no answer", error);
      }
      await delay(pauseMs * attempt, undefined, { signal });
    }
  }

  async #follow(start: URL, types: string, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    let url = start;
    let hasLoggedIn = false;
    for (let hop = 0; ; hop += 1) {
      const isOwn = url.origin === start.origin;
      const response = await request(url, {
        ...{ method: "GET", signal, headersTimeout: headersTimeoutMs, bodyTimeout: bodyTimeoutMs },
        headers: {
          accept: types,
          // Blobs often lie elsewhere: what this registry gave is for this registry alone.
          ...(isOwn && this.#authorization !== null ? { authorization: this.#authorization } : {}),
        },
      });
      if (response.statusCode === 401 && isOwn && !hasLoggedIn) {
        await response.body.dump();
        hasLoggedIn = true;
        await this.#logIn(String(response.headers["www-authenticate"] ?? ""), signal);
        continue;
      }
      const location = response.headers["location"];
      if (response.statusCode < 300 || response.statusCode >= 400 || typeof location !== "string")
        return response;
      await response.body.dump();
      if (hop >= maxRedirects) throw this.#silent("it redirects in a circle");
      url = this.#next(new URL(location, url), start);
    }
  }

  /** A registry may send elsewhere, but not from an encrypted connection to a plain one. */
  #next(url: URL, start: URL): URL {
    if (url.protocol === "https:" || url.origin === start.origin) return url;
    throw this.#silent("it redirects to an address that is not https");
  }

  /** @see https://distribution.github.io/distribution/spec/auth/token/ */
  async #logIn(challenge: string, signal: AbortSignal): Promise<void> {
    const { username, password } = this.#registry;
    const basic =
      username === undefined
        ? null
        : `Basic ${Buffer.from(`${username}:${password ?? ""}`).toString("base64")}`;
    if (/^basic\b/i.test(challenge)) {
      if (basic === null) throw this.#refused(401);
      this.#authorization = basic;
      return;
    }
    const fields = Object.fromEntries(
      [...challenge.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, value]) => [key!.toLowerCase(), value!]),
    );
    if (!/^bearer\b/i.test(challenge) || !fields["realm"] || !URL.canParse(fields["realm"]))
      throw this.#refused(401);
    const realm = this.#next(new URL(fields["realm"]), new URL(this.#registry.url));
    if (fields["service"]) realm.searchParams.set("service", fields["service"]);
    realm.searchParams.set("scope", fields["scope"] ?? `repository:${this.#repository}:pull`);
    const response = await request(realm, {
      ...{ signal, headersTimeout: headersTimeoutMs, bodyTimeout: bodyTimeoutMs },
      headers: basic === null ? {} : { authorization: basic },
    });
    const bytes = await readBounded(response.body);
    if (response.statusCode !== 200) throw this.#refused(response.statusCode);
    const parsed = z
      .object({ token: z.string().optional(), access_token: z.string().optional() })
      .safeParse(JSON.parse(bytes.toString("utf8")));
    const token = parsed.data?.token ?? parsed.data?.access_token;
    if (!token) throw this.#refused(401);
    this.#authorization = `Bearer ${token}`;
  }

  #refused(status: number): ImageError {
    const why =
      status === 401 || status === 403
        ? "does not let this platform read it: it is private, or does not exist"
        : status === 404
          ? "does not have it"
          : `refused with ${status}`;
    return new ImageError(
      "image_not_found",
      `The registry ${this.#registry.name} ${why}: ${this.#text}. Check its name and tag.`,
      { status },
    );
  }

  #silent(why: string, cause?: unknown): ImageError {
    return new ImageError(
      "registry_unavailable",
      `The registry ${this.#registry.name} cannot be used now: ${why}. Build again in a minute.`,
      {},
      { cause },
    );
  }
}
