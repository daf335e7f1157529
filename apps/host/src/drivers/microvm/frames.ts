import { crc32 } from "node:zlib";

/**
 * Frames on the one byte stream between a microVM's first process and its host; the other end is
 * apps/guest/microvm/frames.h, which says what each is for.
 */
export const frameTypes = {
  hello: 1,
  open: 2,
  data: 3,
  end: 4,
  reset: 5,
  credit: 6,
  part: 7,
  setup: 8,
  freeze: 9,
  thaw: 10,
  stats: 11,
  reply: 12,
  clock: 13,
} as const;

export const maxPayloadBytes = 16_384;
/** Bytes that one side may send in a stream before the other has taken any. */
export const streamWindow = 256 * 1024;

const magic = 0xb0c5;
const headerBytes = 16;
const none: Buffer = Buffer.alloc(0);

export interface Frame {
  readonly type: number;
  readonly id: number;
  readonly payload: Buffer;
}

export function encodeFrame(type: number, id: number, payload: Buffer = none): Buffer {
  if (payload.length > maxPayloadBytes)
    throw new RangeError(`a frame holds at most ${maxPayloadBytes} bytes`);
  const header = Buffer.alloc(headerBytes);
  header.writeUInt16LE(magic, 0);
  header.writeUInt8(type, 2);
  header.writeUInt32LE(id, 4);
  header.writeUInt32LE(payload.length, 8);
  header.writeUInt32LE(crc32(payload, crc32(header.subarray(0, 12))), 12);
  return payload.length === 0 ? header : Buffer.concat([header, payload]);
}

/** Thrown once bytes came that are no frame: the session cannot go on. */
export class BrokenFrame extends Error {}

/** Cuts a byte stream into frames. */
export class FrameReader {
  #held = none;

  /** @throws BrokenFrame */
  *read(chunk: Buffer): Generator<Frame> {
    this.#held = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    for (;;) {
      const found = frameAt(this.#held, 0);
      if (found === "more") return;
      if (found === "broken") throw new BrokenFrame("the guest sent what is no frame");
      this.#held = this.#held.subarray(headerBytes + found.payload.length);
      yield found;
    }
  }

  /**
   * Skips what a former session left on the way, up to the guest's answer.
   *
   * @returns whether it came; what follows it stays for `read`
   */
  skipToHello(chunk: Buffer, nonce: Buffer): boolean {
    const wanted = encodeFrame(frameTypes.hello, 0, nonce);
    const bytes = Buffer.concat([this.#held, chunk]);
    const at = bytes.indexOf(wanted);
    if (at < 0) {
      this.#held = Buffer.from(bytes.subarray(Math.max(0, bytes.length - wanted.length + 1)));
      return false;
    }
    this.#held = bytes.subarray(at + wanted.length);
    return true;
  }
}

function frameAt(bytes: Buffer, at: number): Frame | "more" | "broken" {
  if (bytes.length - at < headerBytes) return "more";
  if (bytes.readUInt16LE(at) !== magic) return "broken";
  const length = bytes.readUInt32LE(at + 8);
  if (length > maxPayloadBytes) return "broken";
  const from = at + headerBytes;
  if (bytes.length - from < length) return "more";
  const payload = bytes.subarray(from, from + length);
  if (crc32(payload, crc32(bytes.subarray(at, at + 12))) !== bytes.readUInt32LE(at + 12)) return "broken";
  return { type: bytes.readUInt8(at + 2), id: bytes.readUInt32LE(at + 4), payload };
}
