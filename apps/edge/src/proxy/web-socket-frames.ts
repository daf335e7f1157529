/** Close with status 1001, "going away" (RFC 6455, sections 5.5.1 and 7.4.1). */
export const goingAway = Buffer.from([0x88, 0x02, 0x03, 0xe9]);

/** Follows one direction of a WebSocket, to know when no frame is half sent. */
export class FrameBorders {
  #header = Buffer.alloc(0);
  #payloadLeft = 0;

  /** Between two frames, where another one may be put. */
  get isAtBorder(): boolean {
    return this.#payloadLeft === 0 && this.#header.length === 0;
  }

  /** @returns offset in `chunk` behind the first frame that ends in it, or null if none does */
  pass(chunk: Buffer): number | null {
    let first: number | null = null;
    for (let at = 0; at < chunk.length;) {
      if (this.#payloadLeft > 0) {
        const taken = Math.min(this.#payloadLeft, chunk.length - at);
        this.#payloadLeft -= taken;
        at += taken;
      } else {
        this.#header = Buffer.concat([this.#header, chunk.subarray(at, at + 1)]);
        at += 1;
        const sizes = sizesOf(this.#header);
        if (sizes === null) continue;
        this.#header = Buffer.alloc(0);
        this.#payloadLeft = sizes.payload;
      }
      if (first === null && this.isAtBorder) first = at;
    }
    return first;
  }
}

/** Null as long as the header is not whole. */
function sizesOf(header: Buffer): { payload: number } | null {
  if (header.length < 2) return null;
  const isMasked = (header[1]! & 0x80) !== 0;
  const short = header[1]! & 0x7f;
  const extra = short === 126 ? 2 : short === 127 ? 8 : 0;
  if (header.length < 2 + extra + (isMasked ? 4 : 0)) return null;
  if (extra === 0) return { payload: short };
  return { payload: extra === 2 ? header.readUInt16BE(2) : Number(header.readBigUInt64BE(2)) };
}
