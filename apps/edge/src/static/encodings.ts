import { constants, brotliCompress, gzip, zstdCompress } from "node:zlib";
import { mkdir, open, readFile, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Log } from "@platform/daemon";

export type Encoding = "br" | "zstd" | "gzip";

/** In the order of preference when a client likes several equally: the smallest first. */
const order: readonly Encoding[] = ["br", "zstd", "gzip"];

const MIN_BYTES = 256;
const MAX_BYTES = 4 * 1024 * 1024;
const MAX_WAITING = 2_000;
/** Of encoded files that are known to be there or not worth it. */
const MAX_KNOWN = 50_000;
/** Larger than this part of the file, an encoding is not worth its decoding. */
const WORTH = 0.95;

const encoders: Record<Encoding, (content: Buffer) => Promise<Buffer>> = {
  br: (content) => {
    const quality = content.length > 512 * 1024 ? 9 : 11;
    return promisify(brotliCompress)(content, { params: { [constants.BROTLI_PARAM_QUALITY]: quality } });
  },
  zstd: (content) =>
    promisify(zstdCompress)(content, { params: { [constants.ZSTD_c_compressionLevel]: 15 } }),
  gzip: (content) => promisify(gzip)(content, { level: 9 }),
};

/** A file that a bundle has in plain form. */
export interface PlainFile {
  /** Folder that goes away with the bundle. */
  readonly home: string;
  readonly path: string;
  readonly sha256: string;
  readonly size: number;
}

export interface EncodedFile {
  readonly path: string;
  readonly size: number;
}

/**
 * Encoded forms of files, each made once, after the file was first asked for, and kept beside the unpacked
 * bundle under the digest of its content. Until it is there the plain form is served.
 */
export class Encodings {
  readonly #log: Log;
  /** `sha256.encoding` → the file; null: not worth it. */
  readonly #known = new Map<string, EncodedFile | null>();
  readonly #waiting = new Map<string, { file: PlainFile; encoding: Encoding }>();
  #working: Promise<void> | null = null;

  constructor(log: Log) {
    this.#log = log;
  }

  /** The best form that the client takes and that is there; null: the plain one. */
  pick(file: PlainFile, accepted: readonly Encoding[]): { encoding: Encoding; file: EncodedFile } | null {
    if (file.size < MIN_BYTES || file.size > MAX_BYTES) return null;
    for (const encoding of accepted) {
      const key = `${file.sha256}.${encoding}`;
      const known = this.#known.get(key);
      if (known) return { encoding, file: known };
      if (known === undefined) this.#want(key, file, encoding);
    }
    return null;
  }

  /** Whether `pick` will give the same from now on. */
  isSettled(file: PlainFile, accepted: readonly Encoding[]): boolean {
    if (file.size < MIN_BYTES || file.size > MAX_BYTES) return true;
    for (const encoding of accepted) {
      const known = this.#known.get(`${file.sha256}.${encoding}`);
      if (known !== null) return known !== undefined;
    }
    return true;
  }

  /** After an encoded file was not on disk: its bundle was collected meanwhile. */
  forget(sha256: string, encoding: Encoding): void {
    this.#known.delete(`${sha256}.${encoding}`);
  }

  /** Resolves when nothing waits to be encoded. */
  async idle(): Promise<void> {
    while (this.#working) await this.#working;
  }

  #want(key: string, file: PlainFile, encoding: Encoding): void {
    if (this.#waiting.size >= MAX_WAITING) return;
    this.#waiting.set(key, { file, encoding });
    this.#working ??= this.#work().finally(() => (this.#working = null));
  }

  /** One after the other: serving comes first. */
  async #work(): Promise<void> {
    for (;;) {
      const next = this.#waiting.entries().next();
      if (next.done) return;
      const [key, { file, encoding }] = next.value;
      let made: EncodedFile | null = null;
      try {
        made = await make(file, encoding);
      } catch (error) {
        this.#log.warn({ err: error, encoding }, "a file could not be encoded; it is served as it is");
      }
      this.#waiting.delete(key);
      this.#known.set(key, made);
      if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.keys().next().value!);
    }
  }
}

async function make(file: PlainFile, encoding: Encoding): Promise<EncodedFile | null> {
  const folder = join(file.home, "encoded");
  const path = join(folder, `${file.sha256}.${encoding}`);
  const there = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  // Empty: it was tried before and is not worth it.
  if (there) return there.size === 0 ? null : { path, size: there.size };
  const content = await encoders[encoding](await readFile(file.path));
  const isWorth = content.length < file.size * WORTH;
  await mkdir(folder, { recursive: true, mode: 0o755 });
  const temporary = `${path}.${process.pid}.tmp`;
  const handle = await open(temporary, "w", 0o444);
  try {
    if (isWorth) await handle.writeFile(content);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  return isWorth ? { path, size: content.length } : null;
}

/**
 * What an Accept-Encoding header takes besides the plain form, the liked best first. RFC 9110 section 12.5.3:
 * what is not named is not wanted, unless `*` is.
 */
export function acceptedEncodings(header: string | undefined): Encoding[] {
  if (header === undefined || header.length > 1_000) return [];
  const weights = new Map<string, number>();
  for (const part of header.toLowerCase().split(",")) {
    const [name = "", ...parameters] = part.split(";").map((word) => word.trim());
    const weight = parameters.find((word) => word.startsWith("q="));
    weights.set(name === "x-gzip" ? "gzip" : name, weight === undefined ? 1 : Number(weight.slice(2)) || 0);
  }
  const weightOf = (name: string) => weights.get(name) ?? weights.get("*") ?? 0;
  const plain = weights.get("identity") ?? 0;
  return order
    .filter((name) => weightOf(name) > 0 && weightOf(name) >= plain)
    .sort((a, b) => weightOf(b) - weightOf(a));
}
