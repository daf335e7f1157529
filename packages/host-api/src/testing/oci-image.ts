import { createHash } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { pack } from "tar-stream";

/** As images name it. */
const ownArchitecture = process.arch === "x64" ? "amd64" : process.arch;

export interface TestEntry {
  readonly name: string;
  readonly type?: "file" | "directory" | "link" | "symlink" | "character-device";
  readonly linkname?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly devmajor?: number;
  readonly devminor?: number;
  readonly content?: string | Buffer;
}

export const digestOf = (bytes: Buffer): string =>
  `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

/** A tar of these entries. */
export async function tarOf(entries: readonly TestEntry[]): Promise<Buffer> {
  const writer = pack();
  const whole = buffer(writer);
  for (const { content, ...header } of entries)
    writer.entry({ mtime: new Date(1e12), ...header }, content ?? "");
  writer.finalize();
  return whole;
}

export interface TestImage {
  /** By digest. */
  readonly blobs: Map<string, Buffer>;
  /** An index with one manifest for this machine and one for another. */
  readonly index: Buffer;
  readonly manifestDigest: string;
}

type Compression = "gzip" | "zstd" | "none";
const compress = { gzip: gzipSync, zstd: zstdCompressSync, none: (bytes: Buffer) => bytes };
const suffix = { gzip: "+gzip", zstd: "+zstd", none: "" };

/** An image of these layers, as an engine would push it. */
export function imageOf(
  tars: readonly { readonly bytes: Buffer; readonly compression?: Compression; readonly diffId?: string }[],
  config: Record<string, unknown> = {},
  architecture = ownArchitecture,
): TestImage {
  const blobs = new Map<string, Buffer>();
  const store = (bytes: Buffer, mediaType: string) => {
    const digest = digestOf(bytes);
    blobs.set(digest, bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const layers = tars.map(({ bytes, compression = "gzip" }) =>
    store(compress[compression](bytes), `application/vnd.oci.image.layer.v1.tar${suffix[compression]}`),
  );
  const diff_ids = tars.map(({ bytes, diffId }) => diffId ?? digestOf(bytes));
  const described = { architecture, os: "linux", rootfs: { type: "layers", diff_ids }, config };
  const manifest = {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: store(Buffer.from(JSON.stringify(described)), "application/vnd.oci.image.config.v1+json"),
    layers,
  };
  const own = store(Buffer.from(JSON.stringify(manifest)), manifest.mediaType);
  const other = { ...own, digest: digestOf(Buffer.from("of another processor")) };
  const index = {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [
      { ...other, platform: { os: "linux", architecture: "s390x" } },
      { ...own, platform: { os: "linux", architecture } },
    ],
  };
  return { blobs, index: Buffer.from(JSON.stringify(index)), manifestDigest: own.digest };
}

/** The image as a tar of an image layout. */
export const layoutOf = ({ blobs, index }: TestImage): Promise<Buffer> => {
  const writer = pack();
  const whole = buffer(writer);
  writer.entry({ name: "oci-layout" }, JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  writer.entry({ name: "index.json" }, index);
  for (const [digest, bytes] of blobs) writer.entry({ name: `blobs/sha256/${digest.slice(7)}` }, bytes);
  writer.finalize();
  return whole;
};
