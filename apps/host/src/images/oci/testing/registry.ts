import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import type { TestImage } from "@platform/host-api/testing";

export interface TestRegistry {
  readonly url: string;
  /** What was asked for, with whether a token came along: `GET /v2/… token`. */
  readonly asked: string[];
  /** `repository:tag` to image. */
  readonly images: Map<string, TestImage>;
  /** The next so many requests for blobs are answered with 503. */
  failures: number;
}

interface Options {
  /** Only who logs in with this at the token service may pull. */
  readonly login?: { readonly username: string; readonly password: string };
  /** Blobs lie on a server of their own, under another origin. */
  readonly hasBlobServer?: boolean;
}

async function listen(
  t: TestContext,
  host: string,
  handle: (request: IncomingMessage, response: ServerResponse) => void,
) {
  const server: Server = createServer(handle);
  server.listen(0, host);
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://${host}:${(server.address() as AddressInfo).port}`;
}

const token = "a-token-of-the-test";
const problem = (response: ServerResponse, status: number, code: string) =>
  response
    .writeHead(status, { "content-type": "application/json" })
    .end(JSON.stringify({ errors: [{ code }] }));

/**
 * The pull half of a registry, with the token service in front of it that public registries have.
 *
 * @see https://github.com/opencontainers/distribution-spec/blob/main/spec.md
 * @see https://distribution.github.io/distribution/spec/auth/token/
 */
export async function startRegistry(t: TestContext, options: Options = {}): Promise<TestRegistry> {
  const images: TestRegistry["images"] = new Map();
  const asked: string[] = [];
  const state = { failures: 0 };
  const findBlob = (digest: string) => {
    for (const { blobs } of images.values()) if (blobs.has(digest)) return blobs.get(digest)!;
    return null;
  };
  const blobUrl = options.hasBlobServer
    ? await listen(t, "127.0.0.1", (request, response) => {
        asked.push(`${request.method} blob-server${request.headers.authorization ? " token" : ""}`);
        response.end(findBlob(request.url!.slice(1)) ?? "");
      })
    : null;
  const serve = (request: IncomingMessage, response: ServerResponse, own: string) => {
    const { pathname, searchParams } = new URL(request.url!, own);
    const hasToken = request.headers.authorization === `Bearer ${token}`;
    asked.push(`${request.method} ${pathname}${hasToken ? " token" : ""}`);
    if (pathname === "/token") {
      const wanted =
        options.login &&
        `Basic ${Buffer.from(`${options.login.username}:${options.login.password}`).toString("base64")}`;
      if (wanted !== undefined && request.headers.authorization !== wanted)
        return problem(response, 401, "DENIED");
      if (!/^repository:[^:]+:pull$/.test(searchParams.get("scope") ?? ""))
        return problem(response, 400, "DENIED");
      return response.end(JSON.stringify({ token }));
    }
    if (!hasToken) {
      const [, name = ""] = /^\/v2\/(.+)\/(?:manifests|blobs)\//.exec(pathname) ?? [];
      response.setHeader(
        "www-authenticate",
        `Bearer realm="${own}/token",service="test",scope="repository:${name}:pull"`,
      );
      return problem(response, 401, "UNAUTHORIZED");
    }
    const [, name, kind, reference] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(pathname) ?? [];
    if (kind === "blobs" && state.failures > 0) {
      state.failures -= 1;
      return problem(response, 503, "UNAVAILABLE");
    }
    if (kind === "blobs" && blobUrl)
      return response.writeHead(307, { location: `${blobUrl}/${reference}` }).end();
    const image = images.get(`${name}:${reference}`);
    const bytes = kind === "manifests" && image ? image.index : findBlob(reference ?? "");
    if (!bytes) return problem(response, 404, kind === "blobs" ? "BLOB_UNKNOWN" : "MANIFEST_UNKNOWN");
    const mediaType =
      (kind === "manifests" && (JSON.parse(bytes.toString()) as { mediaType?: string }).mediaType) ||
      "application/octet-stream";
    return response.writeHead(200, { "content-type": mediaType, "content-length": bytes.length }).end(bytes);
  };
  const url: string = await listen(t, "127.0.0.1", (request, response) => void serve(request, response, url));
  return {
    url,
    asked,
    images,
    get failures() {
      return state.failures;
    },
    set failures(count) {
      state.failures = count;
    },
  };
}
