import { randomBytes } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Log } from "@platform/daemon";
import {
  createBucket,
  deleteObjects,
  headBucket,
  sendBuckets,
  sendLocation,
  sendVersioning,
} from "./buckets.ts";
import { authenticate, authorize, type Call, createBodyReader, type Gateway, locate } from "./call.ts";
import { listV1, listV2 } from "./listing.ts";
import { cancelUpload, finishUpload, sendParts, sendUploads, startUpload, uploadPart } from "./multipart.ts";
import { getObject, putObject, removeObject } from "./objects.ts";
import { S3Error } from "./s3-error.ts";
import { parseTarget } from "./sigv4.ts";
import { renderXml } from "./xml.ts";

type Handler = (call: Call) => Promise<void> | void;

/** Method, place and telling parameter of a call; the first that fits handles it. */
const routes: readonly [
  method: string,
  place: "bucket" | "object",
  parameter: string | null,
  handler: Handler,
][] = [
  ["GET", "bucket", "location", sendLocation],
  ["GET", "bucket", "versioning", sendVersioning],
  ["GET", "bucket", "uploads", sendUploads],
  ["GET", "bucket", "list-type", listV2],
  ["GET", "bucket", null, listV1],
  ["HEAD", "bucket", null, headBucket],
  ["PUT", "bucket", null, createBucket],
  ["POST", "bucket", "delete", deleteObjects],
  ["GET", "object", "uploadId", sendParts],
  ["GET", "object", null, getObject],
  ["HEAD", "object", null, getObject],
  ["PUT", "object", "uploadId", uploadPart],
  ["PUT", "object", null, putObject],
  ["POST", "object", "uploads", startUpload],
  ["POST", "object", "uploadId", finishUpload],
  ["DELETE", "object", "uploadId", cancelUpload],
  ["DELETE", "object", null, removeObject],
];

/**
 * Presigners move headers into the query. Checksums among them are dropped: the signer had no
 * body, so what it wrote is the checksum of nothing.
 */
function applyHoisted(request: IncomingMessage, query: Map<string, string>): void {
  for (const [name, value] of query) {
    const isHeader = /^x-amz-[a-z]/.test(name) && !/^x-amz-(checksum|sdk-checksum)/.test(name);
    if (isHeader) request.headers[name] ??= value;
  }
}

async function route(
  gateway: Gateway,
  request: IncomingMessage,
  response: ServerResponse,
  requestId: string,
  mustContinue: boolean,
): Promise<void> {
  const target = parseTarget(request.url ?? "/");
  const method = request.method ?? "";
  const authenticated = await authenticate(gateway, request, target);
  const { credential } = authenticated;
  const { bucketName, key } = locate(request, target);
  const query = new Map(target.query);
  if (credential) applyHoisted(request, query);
  if (bucketName === "") {
    if (!credential) throw new S3Error("AccessDenied");
    if (method !== "GET") throw new S3Error("MethodNotAllowed");
    return sendBuckets({ gateway, response, query }, credential);
  }
  const bucket = await authorize(gateway, authenticated, bucketName, key, method);
  const place = key === "" ? "bucket" : "object";
  const found = routes.find(
    ([wantedMethod, wantedPlace, parameter]) =>
      wantedMethod === method && wantedPlace === place && (parameter === null || query.has(parameter)),
  );
  if (!found) throw new S3Error(place === "bucket" ? "NotImplemented" : "MethodNotAllowed");
  const readBody = createBodyReader(request, response, authenticated, mustContinue);
  await found[3]({ gateway, request, response, requestId, method, bucket, key, query, credential, readBody });
}

/** Most bytes of a refused upload that are read so that the client sees the answer. */
const drainBytes = 8 << 20;

/** Whether an upload was cut short, which leaves the connection in the middle of a body. */
export const isUnread = (request: IncomingMessage): boolean =>
  !request.complete &&
  (request.headers["transfer-encoding"] !== undefined || (request.headers["content-length"] ?? "0") !== "0");

/** Reads on a little after a refusal: closing at once would reset the answer away. */
export function drain(request: IncomingMessage): void {
  if (request.complete) return;
  let left = drainBytes;
  const timer = setTimeout(() => request.destroy(), 10_000);
  request.on("close", () => clearTimeout(timer));
  request.on("data", (chunk: Buffer) => {
    left -= chunk.length;
    if (left < 0) request.destroy();
  });
  request.resume();
}

function sendError(
  request: IncomingMessage,
  response: ServerResponse,
  error: S3Error,
  requestId: string,
): void {
  const body = renderXml("Error", {
    Code: error.code,
    Message: error.message,
    Resource: (request.url ?? "/").split("?")[0],
    RequestId: requestId,
  });
  response.writeHead(error.status, {
    "content-type": "application/xml",
    "content-length": Buffer.byteLength(body),
    ...(isUnread(request) ? { connection: "close" } : {}),
  });
  response.end(request.method === "HEAD" ? undefined : body);
  drain(request);
}

/** Answers one request of the protocol; never throws. */
export async function handleS3(
  gateway: Gateway,
  log: Log,
  request: IncomingMessage,
  response: ServerResponse,
  mustContinue: boolean,
): Promise<void> {
  const requestId = randomBytes(8).toString("hex").toUpperCase();
  response.setHeader("x-amz-request-id", requestId);
  try {
    await route(gateway, request, response, requestId, mustContinue);
    if (!request.complete) drain(request);
  } catch (error) {
    if (response.headersSent || response.destroyed || request.errored) {
      // Nothing can be said any more; a broken connection tells the client that content is missing.
      if (!response.destroyed && !request.errored)
        log.warn({ err: error, requestId }, "answer was cut short");
      response.destroy();
      return;
    }
    if (!(error instanceof S3Error)) log.error({ err: error, requestId }, "request failed");
    sendError(request, response, error instanceof S3Error ? error : new S3Error("InternalError"), requestId);
  }
}
