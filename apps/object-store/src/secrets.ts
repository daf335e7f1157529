import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

export interface Sealer {
  seal(text: string, context: string): Buffer;
  /** @throws Error if key or context differ, or the bytes were changed */
  open(sealed: Buffer, context: string): string;
}

/**
 * Signing secrets must be readable to check a signature, so they are encrypted, not hashed.
 * @param key 32 bytes
 */
export function createSealer(key: Buffer): Sealer {
  if (key.length !== 32) throw new RangeError("the encryption key must have 32 bytes");
  return {
    seal: (text, context) => {
      const nonce = randomBytes(12);
      const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(Buffer.from(context));
      const body = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
      return Buffer.concat([nonce, cipher.getAuthTag(), body]);
    },
    open: (sealed, context) => {
      const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, 12), { authTagLength: 16 })
        .setAAD(Buffer.from(context))
        .setAuthTag(sealed.subarray(12, 28));
      return Buffer.concat([decipher.update(sealed.subarray(28)), decipher.final()]).toString("utf8");
    },
  };
}
