import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

/** Encrypts values at rest with AES-256-GCM; the key is a setting of the installation. */
export interface Seal {
  close(text: string): Buffer;
  /** @throws Error when the bytes were changed or sealed with another key */
  open(sealed: Buffer): string;
}

/** @param keyHex 32 bytes as hexadecimal text */
export function createSeal(keyHex: string): Seal {
  const key = Buffer.from(keyHex, "hex");
  if (key.length !== 32) throw new Error("ENCRYPTION_KEY must be 32 bytes as 64 hexadecimal digits");
  return {
    close(text) {
      const nonce = randomBytes(12);
      const cipher = createCipheriv("aes-256-gcm", key, nonce);
      return Buffer.concat([nonce, cipher.update(text, "utf8"), cipher.final(), cipher.getAuthTag()]);
    },
    open(sealed) {
      const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, 12));
      decipher.setAuthTag(sealed.subarray(-16));
      return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()]).toString("utf8");
    },
  };
}

/** Enough of a secret to recognise it, never enough to use it: `pos...app`. */
export function maskedPreview(value: string): string {
  return value.length < 12 ? "***" : `${value.slice(0, 3)}...${value.slice(-3)}`;
}
