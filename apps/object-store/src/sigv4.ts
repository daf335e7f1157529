import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { S3Error } from "./s3-error.ts";

const algorithm = "AWS4-HMAC-SHA256";
const maxSkewMs = 15 * 60_000;
const maxExpirySeconds = 604_800;

export const sha256Hex = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex");
const hmac = (key: Buffer | string, text: string) => createHmac("sha256", key).update(text).digest();

/** A request's target, decoded once. */
export interface Target {
  /** Decoded; segments kept as they are, also empty ones and dots. */
  path: string;
  query: [name: string, value: string][];
}

function decode(text: string): string {
  let decoded;
  try {
    decoded = decodeURIComponent(text);
  } catch (error) {
    throw new S3Error("InvalidArgument", "The URL is not percent-encoded UTF-8.", { cause: error });
  }
  if (decoded.includes("\0")) throw new S3Error("InvalidArgument", "The URL holds the character NUL.");
  return decoded;
}

export function parseTarget(url: string): Target {
  const mark = url.indexOf("?");
  const path = decode(mark < 0 ? url : url.slice(0, mark));
  const text = mark < 0 ? "" : url.slice(mark + 1);
  const query = text
    .split("&")
    .filter((item) => item !== "")
    .map((item): [string, string] => {
      const equals = item.indexOf("=");
      const plain = (part: string) => decode(part.replaceAll("+", "%20"));
      return equals < 0 ? [plain(item), ""] : [plain(item.slice(0, equals)), plain(item.slice(equals + 1))];
    });
  return { path, query };
}

export const encode = (text: string) =>
  encodeURIComponent(text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );

const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);

function canonicalQuery(query: Target["query"]): string {
  return query
    .filter(([name]) => name !== "X-Amz-Signature")
    .map(([name, value]): [string, string] => [encode(name), encode(value)])
    .sort((a, b) => compare(a[0], b[0]) || compare(a[1], b[1]))
    .map(([name, value]) => `${name}=${value}`)
    .join("&");
}

/** What a request claims, before anything is believed. */
export interface Claim {
  accessKeyId: string;
  /** `date/region/s3/aws4_request`. */
  scope: string;
  signedHeaders: string[];
  signature: string;
  /** As sent, such as `20260101T000000Z`. */
  time: string;
  isPresigned: boolean;
  /** What was signed in place of the body's digest. */
  payload: string;
}

export function parseCredential(
  text: string,
  time: string,
  code: "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError",
) {
  const [accessKeyId, date, region, service, end, ...rest] = text.split("/");
  const isValid =
    accessKeyId && date && region && service === "s3" && end === "aws4_request" && rest.length === 0;
  if (!isValid || !/^\d{8}T\d{6}Z$/.test(time) || !time.startsWith(date)) throw new S3Error(code);
  return { accessKeyId, scope: `${date}/${region}/s3/aws4_request` };
}

const parseTime = (time: string) =>
  Date.parse(time.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, "$1-$2-$3T$4:$5:$6Z"));

/**
 * @param now milliseconds since the epoch
 * @returns `null` for a request that is not signed at all
 * @throws S3Error if the claim is malformed or out of its time
 */
export function readClaim(request: IncomingMessage, target: Target, now: number): Claim | null {
  const header = request.headers.authorization;
  const query = new Map(target.query);
  if (header !== undefined && query.has("X-Amz-Algorithm"))
    throw new S3Error("InvalidArgument", "Sign in the header or in the query, not in both.");
  if (header !== undefined) return readHeaderClaim(request, header, now);
  if (query.has("X-Amz-Algorithm") || query.has("X-Amz-Signature"))
    return readQueryClaim(request, query, now);
  return null;
}

function readHeaderClaim(request: IncomingMessage, header: string, now: number): Claim {
  const match =
    /^AWS4-HMAC-SHA256 +Credential=([^, ]+), *SignedHeaders=([^, ]+), *Signature=([0-9a-f]{64})$/.exec(
      header,
    );
  if (!match) throw new S3Error("AuthorizationHeaderMalformed");
  const time = String(request.headers["x-amz-date"] ?? "");
  const credential = parseCredential(match[1]!, time, "AuthorizationHeaderMalformed");
  if (!(Math.abs(parseTime(time) - now) <= maxSkewMs)) throw new S3Error("RequestTimeTooSkewed");
  const payload = request.headers["x-amz-content-sha256"];
  if (typeof payload !== "string")
    throw new S3Error("InvalidRequest", "Send the header x-amz-content-sha256.");
  return {
    ...credential,
    time,
    signedHeaders: match[2]!.split(";"),
    signature: match[3]!,
    isPresigned: false,
    payload,
  };
}

function readQueryClaim(request: IncomingMessage, query: Map<string, string>, now: number): Claim {
  const time = query.get("X-Amz-Date") ?? "";
  const expires = query.get("X-Amz-Expires") ?? "";
  const signature = query.get("X-Amz-Signature") ?? "";
  const seconds = Number(expires);
  const isValid =
    query.get("X-Amz-Algorithm") === algorithm &&
    /^\d{1,6}$/.test(expires) &&
    seconds >= 1 &&
    seconds <= maxExpirySeconds &&
    /^[0-9a-f]{64}$/.test(signature);
  if (!isValid) throw new S3Error("AuthorizationQueryParametersError");
  const credential = parseCredential(
    query.get("X-Amz-Credential") ?? "",
    time,
    "AuthorizationQueryParametersError",
  );
  const signedAt = parseTime(time);
  if (!(signedAt - now <= maxSkewMs)) throw new S3Error("RequestTimeTooSkewed");
  if (now > signedAt + seconds * 1000) throw new S3Error("RequestExpired");
  const signedHeaders = (query.get("X-Amz-SignedHeaders") ?? "").split(";");
  const sent = signedHeaders.includes("x-amz-content-sha256")
    ? request.headers["x-amz-content-sha256"]
    : undefined;
  const payload = query.get("X-Amz-Content-Sha256") ?? (typeof sent === "string" ? sent : "UNSIGNED-PAYLOAD");
  return { ...credential, time, signedHeaders, signature, isPresigned: true, payload };
}

function canonicalHeaders(request: IncomingMessage, signedHeaders: readonly string[]): string {
  if (!signedHeaders.includes("host")) throw new S3Error("AccessDenied", "The host header must be signed.");
  for (const name of Object.keys(request.headers))
    if (name.startsWith("x-amz-") && !signedHeaders.includes(name))
      throw new S3Error("AccessDenied", `The header ${name} was sent but not signed.`);
  return signedHeaders
    .map((name) => {
      const values = request.headersDistinct[name] ?? [];
      return `${name}:${values.map((value) => value.trim().replace(/ +/g, " ")).join(",")}\n`;
    })
    .join("");
}

export interface VerifiedSignature {
  signature: string;
  time: string;
  scope: string;
  signingKey: Buffer;
}

const areEqual = (a: string, b: string) =>
  a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));

const signingKeyOf = (scope: string, secret: string) =>
  scope.split("/").reduce<Buffer | string>((key, part) => hmac(key, part), `AWS4${secret}`) as Buffer;

/** A policy is signed by its text alone. @throws S3Error SignatureDoesNotMatch */
export function verifyPolicy(policy: string, scope: string, signature: string, secret: string): void {
  if (!areEqual(hmac(signingKeyOf(scope, secret), policy).toString("hex"), signature))
    throw new S3Error("SignatureDoesNotMatch");
}

/** @throws S3Error SignatureDoesNotMatch, AccessDenied */
export function verifyClaim(
  request: IncomingMessage,
  target: Target,
  claim: Claim,
  secret: string,
): VerifiedSignature {
  const canonical = [
    request.method ?? "",
    target.path.split("/").map(encode).join("/"),
    canonicalQuery(target.query),
    canonicalHeaders(request, claim.signedHeaders),
    claim.signedHeaders.join(";"),
    claim.payload,
  ].join("\n");
  const signingKey = signingKeyOf(claim.scope, secret);
  const text = [algorithm, claim.time, claim.scope, sha256Hex(canonical)].join("\n");
  if (!areEqual(hmac(signingKey, text).toString("hex"), claim.signature))
    throw new S3Error("SignatureDoesNotMatch");
  return { signature: claim.signature, time: claim.time, scope: claim.scope, signingKey };
}

/**
 * Checks the chain of signatures of a signed stream: each covers its chunk and the one before.
 */
export function createChunkVerifier(start: VerifiedSignature) {
  let previous = start.signature;
  const check = (kind: "PAYLOAD" | "TRAILER", lines: string[], signature: string) => {
    const text = [`${algorithm}-${kind}`, start.time, start.scope, previous, ...lines].join("\n");
    const wanted = hmac(start.signingKey, text).toString("hex");
    if (!areEqual(wanted, signature))
      throw new S3Error("SignatureDoesNotMatch", "A chunk's signature does not match.");
    previous = wanted;
  };
  return {
    chunk: (contentSha256: string, signature: string) =>
      check("PAYLOAD", [sha256Hex(""), contentSha256], signature),
    trailer: (text: string, signature: string) => check("TRAILER", [sha256Hex(text)], signature),
  };
}
export type ChunkVerifier = ReturnType<typeof createChunkVerifier>;
