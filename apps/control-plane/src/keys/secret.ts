import { createHash, randomBytes } from "node:crypto";

const families: Record<string, string> = {
  user: "msk_u_",
  admin: "msk_a_",
  platform: "msk_p_",
  tenant: "msk_p_",
};

/** The prefixes are fixed by the contract: published clients check them. */
export function newSecret(keyType: string): {
  secret: string;
  hash: Buffer;
  prefix: string;
  lastFour: string;
} {
  const prefix = families[keyType] ?? "msk_u_";
  const secret = prefix + randomBytes(30).toString("base64url").replace(/[-_]/g, "x");
  return {
    secret,
    hash: hashSecret(secret),
    prefix: secret.slice(0, prefix.length + 4),
    lastFour: secret.slice(-4),
  };
}

/** The secret has 240 random bits, so a plain hash is enough: there is nothing to guess. */
export const hashSecret = (secret: string): Buffer => createHash("sha256").update(secret).digest();
