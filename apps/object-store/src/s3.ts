import { randomBytes } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Log } from "@platform/daemon";
import { authorize } from "./access.ts";
import { sendAttributes } from "./attributes.ts";
import { createBucket, deleteObjects, headBucket, sendBuckets, sendLocation } from "./buckets.ts";
import { authenticate, type Call, createBodyReader, type Gateway, headerOf, locate } from "./call.ts";
import { copyObject, copyPart } from "./copy.ts";
import { allowOrigin, answerPreflight, dropCors, putCors, sendCors } from "./cors.ts";
import type { Action } from "./credentials.ts";
import { dropLifecycle, putLifecycle, sendLifecycle } from "./lifecycle-rules.ts";
import { listV1, listV2 } from "./listing.ts";
import { cancelUpload, finishUpload, sendParts, sendUploads, startUpload, uploadPart } from "./multipart.ts";
import { getObject, putObject, removeObject } from "./objects.ts";
import { isPostForm, postObject } from "./post-object.ts";
import { S3Error } from "./s3-error.ts";
import { parseTarget } from "./sigv4.ts";
import { bucketAnswers, sendAcl } from "./settings.ts";
import {
  dropBucketTags,
  dropObjectTags,
  putBucketTags,
  putObjectTags,
  sendBucketTags,
  sendObjectTags,
} from "./tagging.ts";
import { listVersions, putVersioning, sendVersioning } from "./versioning.ts";
import { renderXml } from "./xml.ts";

interface S3Route {
  method: string;
  place: "bucket" | "object";
  /** A parameter of the query; the first route that fits is taken. */
  tell: string | null;
  action: Action;
  handle: (call: Call) => Promise<void> | void;
}

const route = (
  method: string,
  place: "bucket" | "object",
  tell: string | null,
  action: Action,
  handle: S3Route["handle"],
): S3Route => ({ method, place, tell, action, handle });

type Handle = S3Route["handle"];
const copyOr =
  (copy: Handle, store: Handle): Handle =>
  (call) =>
    headerOf(call.request, "x-amz-copy-source") === undefined ? store(call) : copy(call);

const routes: readonly S3Route[] = [
  route("GET", "bucket", "location", "list", sendLocation),
  route("GET", "bucket", "versioning", "list", sendVersioning),
  route("PUT", "bucket", "versioning", "configure", putVersioning),
  route("GET", "bucket", "versions", "list", listVersions),
  route("GET", "bucket", "uploads", "list", sendUploads),
  route("GET", "bucket", "cors", "configure", sendCors),
  route("PUT", "bucket", "cors", "configure", putCors),
  route("DELETE", "bucket", "cors", "configure", dropCors),
  route("GET", "bucket", "lifecycle", "configure", sendLifecycle),
  route("PUT", "bucket", "lifecycle", "configure", putLifecycle),
  route("DELETE", "bucket", "lifecycle", "configure", dropLifecycle),
  route("GET", "bucket", "tagging", "configure", sendBucketTags),
  route("PUT", "bucket", "tagging", "configure", putBucketTags),
  route("DELETE", "bucket", "tagging", "configure", dropBucketTags),
  ...bucketAnswers.map(([tell, handle]) => route("GET", "bucket", tell, "list", handle)),
  route("GET", "bucket", "list-type", "list", listV2),
  route("GET", "bucket", null, "list", listV1),
  route("HEAD", "bucket", null, "list", headBucket),
  route("PUT", "bucket", null, "put", createBucket),
  route("POST", "bucket", "delete", "delete", deleteObjects),
  route("GET", "object", "uploadId", "put", sendParts),
  route("GET", "object", "tagging", "get", sendObjectTags),
  route("PUT", "object", "tagging", "put", putObjectTags),
  route("DELETE", "object", "tagging", "put", dropObjectTags),
  route("GET", "object", "acl", "get", sendAcl),
  route("GET", "object", "attributes", "get", sendAttributes),
  route("GET", "object", null, "get", getObject),
  route("HEAD", "object", null, "get", getObject),
  route("PUT", "object", "uploadId", "put", copyOr(copyPart, uploadPart)),
  route("PUT", "object", null, "put", copyOr(copyObject, putObject)),
  route("POST", "object", "uploads", "put", startUpload),
  route("POST", "object", "uploadId", "put", finishUpload),
  route("DELETE", "object", "uploadId", "put", cancelUpload),
  route("DELETE", "object", null, "delete", removeObject),
];

/** Calls that show keys: one that is held to a prefix must ask for it. */
const lists = new Set<unknown>([listV1, listV2, listVersions, sendUploads]);

/** What a call without a route would need: nothing may be learned by asking for it. */
const actionsOfMethods: Record<string, Action> = { GET: "get", HEAD: "get", DELETE: "delete", PUT: "put" };

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

async function answer(
  gateway: Gateway,
  request: IncomingMessage,
  response: ServerResponse,
  requestId: string,
  mustContinue: boolean,
): Promise<void> {
  const target = parseTarget(request.url ?? "/");
  const method = request.method ?? "";
  const { bucketName, key } = locate(request, target);
  if (method === "OPTIONS") return answerPreflight(gateway, request, response, bucketName);
  const query = new Map(target.query);
  if (method === "POST" && key === "" && isPostForm(request))
    return postObject({ gateway, request, response, requestId, bucketName, mustContinue });
  const authenticated = await authenticate(gateway, request, target);
  const { credential } = authenticated;
  if (credential) applyHoisted(request, query);
  if (bucketName === "") {
    if (!credential) throw new S3Error("AccessDenied");
    if (method !== "GET") throw new S3Error("MethodNotAllowed");
    return sendBuckets({ gateway, response, query }, credential);
  }
  const place = key === "" ? "bucket" : "object";
  const found = routes.find(
    (one) => one.method === method && one.place === place && (one.tell === null || query.has(one.tell)),
  );
  const action = found?.action ?? actionsOfMethods[method] ?? "configure";
  const reach = place === "object" ? key : lists.has(found?.handle) ? (query.get("prefix") ?? "") : null;
  const bucket = await authorize(gateway, authenticated, bucketName, reach, action);
  allowOrigin(request, response, bucket);
  if (!found) throw new S3Error(place === "bucket" ? "NotImplemented" : "MethodNotAllowed");
  const readBody = createBodyReader(request, response, authenticated, mustContinue);
  await found.handle({
    gateway,
    request,
    response,
    requestId,
    method,
    bucket,
    key,
    query,
    credential,
    readBody,
  });
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
  const content = request.method === "HEAD" ? undefined : body;
  if (!isUnread(request)) {
    response.end(content);
    return;
  }
  // The end of an answer closes the connection, and what the client still sends then would reset the answer away.
  if (content) response.write(content);
  const end = () => response.end();
  request.once("end", end).once("close", end);
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
    await answer(gateway, request, response, requestId, mustContinue);
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
