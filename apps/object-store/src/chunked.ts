import { createHash } from "node:crypto";
import { S3Error } from "./s3-error.ts";
import type { ChunkVerifier } from "./sigv4.ts";

const maxLineBytes = 4096;
const maxTrailers = 16;

/** Reads lines and counted bytes from a stream of buffers. */
class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  #buffer: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  async #more(): Promise<boolean> {
    const next = await this.#source.next();
    if (next.done) return false;
    this.#buffer = this.#buffer.length === 0 ? next.value : Buffer.concat([this.#buffer, next.value]);
    return true;
  }

  /** @returns the text before the next CRLF @throws S3Error IncompleteBody */
  async line(): Promise<string> {
    for (;;) {
      const end = this.#buffer.indexOf("\r\n");
      if (end >= 0) {
        const text = this.#buffer.toString("latin1", 0, end);
        this.#buffer = this.#buffer.subarray(end + 2);
        return text;
      }
      if (this.#buffer.length > maxLineBytes)
        throw new S3Error("InvalidRequest", "A chunk's header is too long.");
      if (!(await this.#more())) throw new S3Error("IncompleteBody");
    }
  }

  /** @returns between 1 and `most` bytes */
  async some(most: number): Promise<Buffer> {
    if (this.#buffer.length === 0 && !(await this.#more())) throw new S3Error("IncompleteBody");
    const bytes = this.#buffer.subarray(0, most);
    this.#buffer = this.#buffer.subarray(bytes.length);
    return bytes;
  }

  /** Whether nothing follows. */
  async isAtEnd(): Promise<boolean> {
    while (this.#buffer.length === 0) if (!(await this.#more())) return true;
    return false;
  }
}

export interface ChunkedOptions {
  /** `null` for streams whose chunks carry no signature. */
  verifier: ChunkVerifier | null;
  hasTrailer: boolean;
  /** Told once all content was given out, name in lower case. */
  onTrailer: (name: string, value: string) => void;
}

/**
 * Takes the framing off an `aws-chunked` body. Content is given out before its signature is known,
 * so what is made of it may become visible only once this has ended without an error.
 */
export async function* decodeChunked(
  source: AsyncIterable<Buffer>,
  options: ChunkedOptions,
): AsyncGenerator<Buffer> {
  const reader = new ByteReader(source);
  const { verifier } = options;
  for (;;) {
    const match = /^([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?$/.exec(await reader.line());
    if (!match || (verifier !== null && match[2] === undefined))
      throw new S3Error("InvalidRequest", "A chunk's header is malformed.");
    let left = parseInt(match[1]!, 16);
    const isLast = left === 0;
    const hash = verifier ? createHash("sha256") : null;
    while (left > 0) {
      const bytes = await reader.some(left);
      left -= bytes.length;
      hash?.update(bytes);
      yield bytes;
    }
    if (hash) verifier!.chunk(hash.digest("hex"), match[2]!);
    if (isLast) break;
    if ((await reader.line()) !== "")
      throw new S3Error("InvalidRequest", "A chunk is longer than its header says.");
  }
  await readTrailers(reader, options);
}

async function readTrailers(reader: ByteReader, options: ChunkedOptions): Promise<void> {
  const trailers: [string, string][] = [];
  let signature: string | null = null;
  while (!(await reader.isAtEnd())) {
    const line = await reader.line();
    if (line === "") continue;
    const colon = line.indexOf(":");
    if (colon < 1 || trailers.length >= maxTrailers)
      throw new S3Error("InvalidRequest", "A trailer is malformed.");
    const name = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (name === "x-amz-trailer-signature") signature = value;
    else trailers.push([name, value]);
  }
  if (trailers.length > 0 && !options.hasTrailer)
    throw new S3Error("InvalidRequest", "A trailer was not announced.");
  if (options.verifier && options.hasTrailer) {
    if (signature === null) throw new S3Error("SignatureDoesNotMatch", "The trailer is not signed.");
    options.verifier.trailer(trailers.map(([name, value]) => `${name}:${value}\n`).join(""), signature);
  }
  for (const [name, value] of trailers) options.onTrailer(name, value);
}
