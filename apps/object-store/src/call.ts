import type { IncomingMessage, ServerResponse } from "node:http";
import type { Pool } from "pg";
import type { Blobs } from "./blobs.ts";
import { type Body, type BodyOptions, readBody } from "./body.ts";
import type { Bucket } from "./bucket-index.ts";
import { type Credential, findCredential } from "./credentials.ts";
import { S3Error } from "./s3-error.ts";
import type { Sealer } from "./secrets.ts";
import { readClaim, type Target, type VerifiedSignature, verifyClaim } from "./sigv4.ts";

export interface Gateway {
  pool: Pool;
  blobs: Blobs;
  sealer: Sealer;
  /** What clients are told as the location of every bucket. */
  region: string;
  /** Milliseconds since the epoch. */
  now: () => number;
}

/** One request that may do what it asks for. */
export interface Call {
  gateway: Gateway;
  request: IncomingMessage;
  response: ServerResponse;
  requestId: string;
  method: string;
  bucket: Bucket;
  /** Empty for the bucket itself. */
  key: string;
  query: Map<string, string>;
  /** `null` for a reader of a public bucket. */
  credential: Credential | null;
  readBody(options?: BodyOptions): Body;
}

export const headerOf = (request: IncomingMessage, name: string): string | undefined => {
  const value = request.headers[name];
  return typeof value === "string" ? value : undefined;
};

/**
 * Where a request is for: `<bucket>.s3.<anything>/<key>` or `<anything>/<bucket>/<key>`.
 * @returns the bucket's name, empty for the list of buckets
 */
export function locate(request: IncomingMessage, target: Target): { bucketName: string; key: string } {
  const virtual = virtualBucket(request);
  const path = target.path.replace(/^\//, "");
  if (virtual !== null) return { bucketName: virtual, key: path };
  const slash = path.indexOf("/");
  if (slash < 0) return { bucketName: path, key: "" };
  return { bucketName: path.slice(0, slash), key: path.slice(slash + 1) };
}

export function virtualBucket(request: IncomingMessage): string | null {
  return (
    /^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\.s3\./.exec((request.headers.host ?? "").toLowerCase())?.[1] ?? null
  );
}

/** Only the length is limited: a key is never a path. */
export function checkKey(key: string): void {
  if (Buffer.byteLength(key) > 1024) throw new S3Error("KeyTooLongError");
}

export interface Authenticated {
  credential: Credential | null;
  signature: VerifiedSignature | null;
  payload: string;
}

/** @throws S3Error unless the request is unsigned or signed with a known key */
export async function authenticate(
  gateway: Gateway,
  request: IncomingMessage,
  target: Target,
): Promise<Authenticated> {
  const claim = readClaim(request, target, gateway.now());
  if (!claim) return { credential: null, signature: null, payload: "UNSIGNED-PAYLOAD" };
  const credential = await findCredential(gateway.pool, gateway.sealer, claim.accessKeyId);
  if (!credential) throw new S3Error("InvalidAccessKeyId");
  const signature = verifyClaim(request, target, claim, credential.secretAccessKey);
  return { credential, signature, payload: claim.payload };
}

export const createBodyReader =
  (request: IncomingMessage, response: ServerResponse, authenticated: Authenticated, mustContinue: boolean) =>
  (options: BodyOptions = {}): Body => {
    const body = readBody(request, authenticated.payload, authenticated.signature, options);
    // Only now: a refusal before this point spares the client the upload.
    if (mustContinue) response.writeContinue();
    return body;
  };

/** Parameters that any call may carry without changing what it is. */
const neutral = (name: string) => name === "x-id" || /^x-amz-/i.test(name);

/**
 * Refuses parameters that the call does not know, so that a function which is not implemented
 * never falls through to the object itself.
 */
export function allowQuery(call: Pick<Call, "query">, ...known: string[]): void {
  for (const name of call.query.keys())
    if (!neutral(name) && !known.includes(name))
      throw new S3Error("NotImplemented", `${name} is not implemented.`);
}

export function send(
  call: Pick<Call, "response">,
  status: number,
  headers: Record<string, string | number>,
  body = "",
): void {
  const length = Buffer.byteLength(body);
  call.response.writeHead(status, status === 204 ? headers : { "content-length": length, ...headers });
  call.response.end(body);
}

export const sendXml = (call: Pick<Call, "response">, text: string): void =>
  send(call, 200, { "content-type": "application/xml" }, text);
