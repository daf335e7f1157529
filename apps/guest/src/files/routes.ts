import { createReadStream } from "node:fs";
import { open, rm, stat } from "node:fs/promises";
import { PassThrough, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import type { Environment } from "../environment.ts";
import { answerJson, EnvdError, readJsonObject, type Request, type Response } from "../http.ts";
import { fileFailure } from "./failures.ts";
import { metadataIn, metadataOf } from "./metadata.ts";
import { resolvePath } from "./paths.ts";
import { storeFile, type StoredFile } from "./store.ts";

/** Files of one multipart upload. */
const MAX_PARTS = 1000;

const pathOf = (environment: Environment, path: string | null | undefined): string => {
  if (!path) throw new EnvdError(400, "the query parameter 'path' is required");
  return resolvePath(path, environment.home, environment.home);
};

/** GET /files */
export async function download(
  environment: Environment,
  query: URLSearchParams,
  request: Request,
  response: Response,
): Promise<void> {
  const path = pathOf(environment, query.get("path"));
  let file;
  try {
    const found = await stat(path);
    if (found.isDirectory()) throw new EnvdError(400, `path '${path}' is a directory`);
    if (!found.isFile()) throw new EnvdError(400, `path '${path}' is not a regular file`);
    file = await open(path, "r");
    const size = (await file.stat()).size;
    const gzip = chooseEncoding(request.headers["accept-encoding"]) === "gzip";
    response.writeHead(200, {
      "content-type": "application/octet-stream",
      "content-disposition": `inline; filename*=UTF-8''${encodeURIComponent(path.split("/").at(-1) ?? "")}`,
      ...(gzip ? { "content-encoding": "gzip" } : { "content-length": size }),
    });
    // Bounded by the length announced: a file that grows meanwhile would break the answer.
    const content =
      size === 0 ? null : file.createReadStream({ start: 0, end: size - 1, highWaterMark: 256 * 1024 });
    if (!content) response.end();
    else if (gzip) await pipeline(content, createGzip(), response);
    else await pipeline(content, response);
  } catch (error) {
    throw fileFailure(error, path);
  } finally {
    await file?.close().catch(() => undefined);
  }
}

/** Only an explicit wish is obeyed: compression costs the box's own time. @throws EnvdError 406 */
function chooseEncoding(accepted: string | string[] | undefined): "identity" | "gzip" {
  const wishes = String(accepted ?? "")
    .toLowerCase()
    .split(",")
    .map((part) => part.trim());
  const refuses = (name: string) =>
    wishes.some((wish) => new RegExp(`^${name}\\s*;\\s*q=0(\\.0*)?$`).test(wish));
  if (refuses("identity") || (refuses("\\*") && !wishes.includes("identity"))) {
    if (wishes.some((wish) => wish.startsWith("gzip")) && !refuses("gzip")) return "gzip";
    throw new EnvdError(406, "no acceptable encoding found, supported: [identity, gzip]");
  }
  return "identity";
}

/** POST /files */
export async function upload(
  environment: Environment,
  query: URLSearchParams,
  request: Request,
  response: Response,
): Promise<void> {
  const type = String(request.headers["content-type"] ?? "");
  const metadata = metadataIn(request);
  const stored = type.startsWith("multipart/form-data")
    ? await storeParts(environment, query.get("path"), request)
    : [await storeFile(pathOf(environment, query.get("path")), await decoded(request))];
  for (const { path } of stored) await metadataOf(environment).set(path, metadata);
  const noted = Object.keys(metadata).length > 0 ? { metadata } : {};
  answerJson(
    response,
    200,
    stored.map((file) => ({ ...file, ...noted })),
  );
}

async function decoded(request: Request): Promise<Readable> {
  const encoding = request.headers["content-encoding"];
  if (encoding === undefined || encoding === "identity") return request;
  if (encoding !== "gzip")
    throw new EnvdError(400, `content-encoding '${String(encoding)}' is not supported`);
  const { createGunzip } = await import("node:zlib");
  const content = createGunzip();
  // It may fail before anybody reads; who reads then finds the stream ended with its error.
  content.on("error", () => undefined);
  // A refusal leaves a rest that is not the connection's next request; a caller that left sends no end.
  content.once("close", () => request.unpipe(content).resume());
  request.once("close", () => {
    if (!request.readableEnded) content.destroy(new Error("the upload ended early"));
  });
  return request.pipe(content);
}

/** Each part named `file` is one file; `path` names it, or else its own file name does. */
async function storeParts(
  environment: Environment,
  path: string | null,
  request: Request,
): Promise<StoredFile[]> {
  const { default: busboy } = await import("busboy");
  let parser;
  try {
    parser = busboy({
      headers: request.headers,
      preservePath: true,
      limits: { files: MAX_PARTS },
    });
  } catch (cause) {
    throw new EnvdError(400, "the multipart body has no boundary", { cause });
  }
  const writes: Promise<StoredFile>[] = [];
  parser.on("file", (field, content, info) => {
    if (field !== "file") {
      content.resume();
      return;
    }
    const own = ownOf(content);
    const write = Promise.resolve()
      .then(() => storeFile(pathOf(environment, path ?? info.filename), own))
      .finally(() => own.destroy());
    write.catch(() => undefined);
    writes.push(write);
  });
  try {
    await pipeline(request, parser);
  } catch (cause) {
    await Promise.allSettled(writes);
    throw new EnvdError(400, "the multipart body is malformed or ended early", { cause });
  }
  const stored = await Promise.all(writes);
  if (stored.length === 0) throw new EnvdError(400, "the multipart body has no part named 'file'");
  return stored;
}

/** What may be destroyed at any time: the parser never ends when one of its parts is, before it was read. */
function ownOf(content: Readable): Readable {
  const own = new PassThrough();
  own.on("error", () => undefined); // Whoever reads it gets it as well.
  own.once("close", () => content.unpipe(own).resume());
  content.once("error", (error) => own.destroy(error));
  return content.pipe(own);
}

/** POST /files/compose: joins files in order, then removes them. */
export async function compose(environment: Environment, request: Request, response: Response): Promise<void> {
  const body = await readJsonObject(request);
  const { source_paths: sources, destination } = body;
  const valid =
    Array.isArray(sources) && sources.length > 0 && sources.every((path) => typeof path === "string");
  if (!valid || typeof destination !== "string" || destination === "") {
    throw new EnvdError(400, "'source_paths' (not empty) and 'destination' are required");
  }
  const paths = (sources as string[]).map((path) => pathOf(environment, path));
  for (const path of paths) {
    try {
      if (!(await stat(path)).isFile()) throw new EnvdError(400, `path '${path}' is not a regular file`);
    } catch (error) {
      throw fileFailure(error, path);
    }
  }
  const target = pathOf(environment, destination);
  const { Readable: Source } = await import("node:stream");
  const stored = await storeFile(target, Source.from(joined(paths)));
  for (const path of paths) if (path !== target) await rm(path, { force: true });
  answerJson(response, 200, stored);
}

async function* joined(paths: readonly string[]): AsyncGenerator<Buffer> {
  for (const path of paths) yield* createReadStream(path, { highWaterMark: 256 * 1024 });
}
