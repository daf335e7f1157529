import { createHash, type Hash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import {
  algorithmOfHeader,
  type Checksum,
  type ChecksumAlgorithm,
  checksumAlgorithms,
  checksumHeader,
  createChecksum,
  type Hasher,
} from "./checksums.ts";
import { decodeChunked } from "./chunked.ts";
import { S3Error } from "./s3-error.ts";
import { createChunkVerifier, type VerifiedSignature } from "./sigv4.ts";

/** Largest single upload or part: 5 GiB. */
const maxUploadBytes = 5 * 2 ** 30;

const header = (request: IncomingMessage, name: string): string | undefined => {
  const value = request.headers[name];
  return typeof value === "string" ? value : undefined;
};

/** A refusal half-way must leave the connection open: the answer goes over it. */
const contentOf = (request: IncomingMessage): AsyncIterable<Buffer> => ({
  [Symbol.asyncIterator]: () => request.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>,
});

export interface Body {
  /** Announced size of the content, without framing. */
  sizeBytes: number;
  /** The content; hashed on the way. */
  content: AsyncIterable<Buffer>;
  /** Call once all content was read. @throws S3Error if any announced digest or size differs */
  check(): void;
  /** Valid after `check`. */
  result(): { md5: Buffer; checksum: Checksum | null };
}

export interface BodyOptions {
  /** Checksum to compute if the client sends none. */
  fallback?: ChecksumAlgorithm | null;
  /** The checksum headers of this call are about an object, not about its body. */
  isDocument?: boolean;
}

/**
 * @param payload what was signed for the body, such as its digest or `UNSIGNED-PAYLOAD`
 * @param signature of the request, which begins the chain of a signed stream
 * @throws S3Error if the announced sizes are missing, malformed or too large
 */
export function readBody(
  request: IncomingMessage,
  payload: string,
  signature: VerifiedSignature | null,
  options: BodyOptions = {},
): Body {
  const isStream = payload.startsWith("STREAMING-");
  const sizeBytes = announcedSize(request, isStream);
  const announced = options.isDocument ? null : announcedChecksum(request);
  const algorithm = announced?.algorithm ?? options.fallback ?? null;
  let wanted = announced?.value ?? null;
  const digests = {
    md5: createHash("md5"),
    sha256: isStream || payload === "UNSIGNED-PAYLOAD" ? null : createHash("sha256"),
    checksum: algorithm ? createChecksum(algorithm) : null,
  };
  const onTrailer = (name: string, value: string) => {
    if (algorithmOfHeader(name) === null) return;
    if (algorithmOfHeader(name) !== algorithm)
      throw new S3Error("InvalidRequest", `The trailer ${name} was not announced.`);
    wanted = value;
  };
  const framed = isStream ? unframe(request, payload, signature, onTrailer) : contentOf(request);
  let result: { md5: Buffer; checksum: Checksum | null } | null = null;
  let received = 0;
  return {
    sizeBytes,
    content: measured(framed, sizeBytes, digests, (bytes) => (received += bytes)),
    check: () => {
      if (received !== sizeBytes) throw new S3Error("IncompleteBody");
      const { md5, value } = compare(request, payload, digests, wanted);
      if (announced?.isTrailer && wanted === null)
        throw new S3Error("InvalidRequest", "The announced trailer is missing.");
      result = { md5, checksum: algorithm && value ? { algorithm, value } : null };
    },
    result: () => {
      if (!result) throw new Error("the body was not checked");
      return result;
    },
  };
}

/** Content that does not come from a client: nothing was announced for it but its size. */
export function digested(
  source: AsyncIterable<Buffer>,
  sizeBytes: number,
  algorithm: ChecksumAlgorithm | null,
): Body {
  const digests = {
    md5: createHash("md5"),
    sha256: null,
    checksum: algorithm ? createChecksum(algorithm) : null,
  };
  let result: { md5: Buffer; checksum: Checksum | null } | null = null;
  let received = 0;
  return {
    sizeBytes,
    content: measured(source, sizeBytes, digests, (bytes) => (received += bytes)),
    check: () => {
      if (received !== sizeBytes) throw new S3Error("IncompleteBody");
      const value = digests.checksum?.digest().toString("base64");
      result = { md5: digests.md5.digest(), checksum: algorithm && value ? { algorithm, value } : null };
    },
    result: () => {
      if (!result) throw new Error("the body was not checked");
      return result;
    },
  };
}

/** Content of a size that nobody announced, between two bounds in bytes. */
export function createMeter(
  source: AsyncIterable<Buffer>,
  { least, most }: { least: number; most: number },
): Omit<Body, "sizeBytes"> {
  const digests = { md5: createHash("md5"), sha256: null, checksum: null };
  let received = 0;
  let result: { md5: Buffer; checksum: null } | null = null;
  return {
    content: measured(source, Number.POSITIVE_INFINITY, digests, (bytes) => {
      received += bytes;
      if (received > most) throw new S3Error("EntityTooLarge", `The file is larger than ${most} bytes.`);
      return received;
    }),
    check: () => {
      if (received < least) throw new S3Error("EntityTooSmall", `The file is smaller than ${least} bytes.`);
      result = { md5: digests.md5.digest(), checksum: null };
    },
    result: () => {
      if (!result) throw new Error("the body was not checked");
      return result;
    },
  };
}

interface Digests {
  md5: Hash;
  sha256: Hash | null;
  checksum: Hasher | null;
}

async function* measured(
  source: AsyncIterable<Buffer>,
  sizeBytes: number,
  digests: Digests,
  onBytes: (bytes: number) => number,
): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    if (onBytes(chunk.length) > sizeBytes)
      throw new S3Error("InvalidRequest", "The body is longer than announced.");
    digests.md5.update(chunk);
    digests.sha256?.update(chunk);
    digests.checksum?.update(chunk);
    yield chunk;
  }
}

function compare(request: IncomingMessage, payload: string, digests: Digests, wanted: string | null) {
  if (digests.sha256 && digests.sha256.digest("hex") !== payload)
    throw new S3Error("XAmzContentSHA256Mismatch");
  const md5 = digests.md5.digest();
  const sentMd5 = header(request, "content-md5");
  if (sentMd5 !== undefined) {
    if (Buffer.from(sentMd5, "base64").length !== 16) throw new S3Error("InvalidDigest");
    if (sentMd5 !== md5.toString("base64")) throw new S3Error("BadDigest");
  }
  const value = digests.checksum?.digest().toString("base64") ?? null;
  if (wanted !== null && wanted !== value) throw new S3Error("BadDigest");
  return { md5, value };
}

function announcedSize(request: IncomingMessage, isStream: boolean): number {
  const text = header(request, isStream ? "x-amz-decoded-content-length" : "content-length");
  if (text === undefined) throw new S3Error("MissingContentLength");
  if (!/^\d{1,15}$/.test(text)) throw new S3Error("InvalidArgument", "The content length is not a number.");
  const sizeBytes = Number(text);
  if (sizeBytes > maxUploadBytes) throw new S3Error("EntityTooLarge");
  return sizeBytes;
}

function announcedChecksum(request: IncomingMessage) {
  const sent = checksumAlgorithms.filter(
    (algorithm) => header(request, checksumHeader(algorithm)) !== undefined,
  );
  const trailer = header(request, "x-amz-trailer");
  const trailing = trailer === undefined ? null : algorithmOfHeader(trailer.trim());
  if (trailer !== undefined && trailing === null)
    throw new S3Error("InvalidRequest", "The trailer is not supported.");
  if (sent.length + (trailing ? 1 : 0) > 1) throw new S3Error("InvalidRequest", "Send one checksum only.");
  if (trailing) return { algorithm: trailing, value: null, isTrailer: true };
  if (!sent[0]) return null;
  return { algorithm: sent[0], value: header(request, checksumHeader(sent[0]))!, isTrailer: false };
}

function unframe(
  request: IncomingMessage,
  payload: string,
  signature: VerifiedSignature | null,
  onTrailer: (name: string, value: string) => void,
): AsyncIterable<Buffer> {
  const forms: Record<string, { isSigned: boolean; hasTrailer: boolean }> = {
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD": { isSigned: true, hasTrailer: false },
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": { isSigned: true, hasTrailer: true },
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER": { isSigned: false, hasTrailer: true },
  };
  const form = forms[payload];
  if (!form || (form.isSigned && !signature))
    throw new S3Error("NotImplemented", "This kind of signed stream is not supported.");
  const verifier = form.isSigned ? createChunkVerifier(signature!) : null;
  return decodeChunked(contentOf(request), {
    verifier,
    hasTrailer: form.hasTrailer,
    onTrailer,
  });
}

/** Reads a small body into memory, checked like any other. @param maxBytes bound of its size */
export async function readSmallBody(body: Body, maxBytes: number): Promise<string> {
  if (body.sizeBytes > maxBytes) throw new S3Error("MalformedXML", "The document is too large.");
  const chunks: Buffer[] = [];
  for await (const chunk of body.content) chunks.push(chunk);
  body.check();
  return Buffer.concat(chunks).toString("utf8");
}
