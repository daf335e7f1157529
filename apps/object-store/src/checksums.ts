import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";

export const checksumAlgorithms = ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"] as const;
export type ChecksumAlgorithm = (typeof checksumAlgorithms)[number];

export interface Checksum {
  algorithm: ChecksumAlgorithm;
  /** Base64; of a composite followed by `-` and the number of parts. */
  value: string;
}

export interface Hasher {
  update(bytes: Uint8Array): void;
  digest(): Buffer;
}

/** Reflected table of a 32-bit polynomial. */
function table32(polynomial: number): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, index) => {
    let value = index;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1;
    return value >>> 0;
  });
}

const castagnoli = table32(0x82f63b78);

function crc32c(): Hasher {
  let state = 0xffffffff;
  return {
    update: (bytes) => {
      for (let at = 0; at < bytes.length; at++)
        state = castagnoli[(state ^ bytes[at]!) & 255]! ^ (state >>> 8);
    },
    digest: () => uint32((state ^ 0xffffffff) >>> 0),
  };
}

/** In two halves of 32 bits, since 64-bit integers of this language are far slower. */
const nvme = (() => {
  const polynomial = 0x9a6c9329ac4bc9b5n;
  const high = new Uint32Array(256);
  const low = new Uint32Array(256);
  for (let index = 0; index < 256; index++) {
    let value = BigInt(index);
    for (let bit = 0; bit < 8; bit++) value = value & 1n ? (value >> 1n) ^ polynomial : value >> 1n;
    high[index] = Number(value >> 32n);
    low[index] = Number(value & 0xffffffffn);
  }
  return { high, low };
})();

function crc64nvme(): Hasher {
  let high = 0xffffffff;
  let low = 0xffffffff;
  return {
    update: (bytes) => {
      for (let at = 0; at < bytes.length; at++) {
        const index = (low ^ bytes[at]!) & 255;
        low = ((low >>> 8) | (high << 24)) ^ nvme.low[index]!;
        high = (high >>> 8) ^ nvme.high[index]!;
      }
    },
    digest: () => Buffer.concat([uint32(~high >>> 0), uint32(~low >>> 0)]),
  };
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function zlibCrc32(): Hasher {
  let state = 0;
  return {
    update: (bytes) => {
      state = crc32(bytes, state);
    },
    digest: () => uint32(state),
  };
}

export function createChecksum(algorithm: ChecksumAlgorithm): Hasher {
  if (algorithm === "CRC32") return zlibCrc32();
  if (algorithm === "CRC32C") return crc32c();
  if (algorithm === "CRC64NVME") return crc64nvme();
  const hash = createHash(algorithm.toLowerCase());
  return { update: (bytes) => void hash.update(bytes), digest: () => hash.digest() };
}

export const checksumHeader = (algorithm: ChecksumAlgorithm) => `x-amz-checksum-${algorithm.toLowerCase()}`;

/** The algorithm of a header such as `x-amz-checksum-crc32`, `null` for any other header. */
export const algorithmOfHeader = (header: string): ChecksumAlgorithm | null =>
  checksumAlgorithms.find((algorithm) => checksumHeader(algorithm) === header.toLowerCase()) ?? null;
