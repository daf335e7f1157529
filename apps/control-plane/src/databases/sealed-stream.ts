import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

/**
 * A stream under AES-256-GCM in pieces, so that it needs no more memory than one piece and nothing of it is
 * handed on before it was verified. Each piece is bound to its place and to whether it is the last: a stream
 * that was cut off, reordered or changed in one bit ends in an error.
 *
 * magic (4), nonce (8), then per piece: length (4), ciphertext, tag (16)
 */
const magic = Buffer.from("SBK1");
const pieceBytes = 1024 * 1024;
const tagBytes = 16;

export class DamagedStreamError extends Error {
  constructor(what: string) {
    super(`The backup is damaged: ${what}.`);
    this.name = "DamagedStreamError";
  }
}

const nonceOf = (base: Buffer, index: number) => {
  const counter = Buffer.alloc(4);
  counter.writeUInt32BE(index);
  return Buffer.concat([base, counter]);
};
const placeOf = (isLast: boolean) => Buffer.from([isLast ? 1 : 0]);

/** @param key 32 bytes, used for this one stream */
export async function* sealStream(source: AsyncIterable<Buffer>, key: Buffer): AsyncGenerator<Buffer> {
  const base = randomBytes(8);
  yield Buffer.concat([magic, base]);
  let index = 0;
  const seal = (plain: Buffer, isLast: boolean) => {
    const cipher = createCipheriv("aes-256-gcm", key, nonceOf(base, index++)).setAAD(placeOf(isLast));
    const sealed = Buffer.concat([cipher.update(plain), cipher.final()]);
    const head = Buffer.alloc(4);
    head.writeUInt32BE(sealed.length);
    return Buffer.concat([head, sealed, cipher.getAuthTag()]);
  };
  let kept: Buffer[] = [];
  let size = 0;
  for await (const chunk of source) {
    kept.push(chunk);
    size += chunk.length;
    if (size <= pieceBytes) continue;
    const all = Buffer.concat(kept);
    let at = 0;
    for (; all.length - at > pieceBytes; at += pieceBytes)
      yield seal(all.subarray(at, at + pieceBytes), false);
    kept = [all.subarray(at)];
    size = all.length - at;
  }
  yield seal(Buffer.concat(kept), true);
}

/** @throws DamagedStreamError as soon as a piece is not what was sealed, and at an end that came too early */
export async function* openStream(source: AsyncIterable<Buffer>, key: Buffer): AsyncGenerator<Buffer> {
  let held: Buffer = Buffer.alloc(0);
  let base: Buffer | null = null;
  let index = 0;
  let hasEnded = false;
  const open = (sealed: Buffer, tag: Buffer): Buffer => {
    for (const isLast of [false, true]) {
      try {
        const decipher = createDecipheriv("aes-256-gcm", key, nonceOf(base!, index)).setAAD(placeOf(isLast));
        decipher.setAuthTag(tag);
        const plain = Buffer.concat([decipher.update(sealed), decipher.final()]);
        hasEnded = isLast;
        index += 1;
        return plain;
      } catch {
        // Not this one: of a piece only its own place fits.
      }
    }
    throw new DamagedStreamError(`piece ${index} is not what was stored`);
  };
  for await (const chunk of source) {
    if (hasEnded) throw new DamagedStreamError("something follows its end");
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    if (base === null) {
      if (held.length < 12) continue;
      if (!held.subarray(0, 4).equals(magic)) throw new DamagedStreamError("it does not begin as one");
      base = held.subarray(4, 12);
      held = held.subarray(12);
    }
    while (held.length >= 4) {
      const length = held.readUInt32BE(0);
      if (length > pieceBytes) throw new DamagedStreamError(`piece ${index} is too long`);
      const end = 4 + length + tagBytes;
      if (held.length < end) break;
      if (hasEnded) throw new DamagedStreamError("something follows its end");
      const plain = open(held.subarray(4, 4 + length), held.subarray(4 + length, end));
      held = held.subarray(end);
      yield plain;
    }
  }
  if (!hasEnded || held.length > 0) throw new DamagedStreamError("it stops before its end");
}
