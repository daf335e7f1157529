import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
} from "node:crypto";
import { query, transaction } from "@platform/postgres";
import type { Platform } from "../platform.ts";

interface KeyRow {
  readonly id: string;
  readonly public_pem: string;
  readonly private_sealed: Buffer;
}

export interface SigningKey {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

/** Serialises the making of the first key among control planes that start together. */
const keyLock = 7_340_211;

const privatePem = (key: KeyObject) => key.export({ type: "pkcs8", format: "pem" }).toString();
export const publicPem = (key: KeyObject) => key.export({ type: "spki", format: "pem" }).toString();

/** The installation's key for release statements (ed25519), made at its first use and sealed at rest. */
export async function signingKey(platform: Platform): Promise<SigningKey> {
  const row = (await keyRows(platform))[0] ?? (await makeKey(platform));
  const privateKey = createPrivateKey(platform.seal.open(row.private_sealed));
  return { privateKey, publicKey: createPublicKey(privateKey) };
}

/**
 * Digests that tell whether a variable's value changed, and no more: without the installation's key nobody
 * can try values until one fits.
 *
 * @param scope values are compared within it, such as a deployment's id
 */
export async function valueDigests(platform: Platform, scope: string): Promise<(value: string) => string> {
  const { privateKey } = await signingKey(platform);
  const key = createHmac("sha256", "digests of variables").update(privatePem(privateKey)).digest();
  return (value) => createHmac("sha256", key).update(`${scope}\0${value}`).digest("hex");
}

/** Newest first. A retired key signs nothing new, and what it signed stays valid. */
const keyRows = (platform: Platform) =>
  query<KeyRow>(platform.pool, "select * from signing_keys order by retired_at is not null, created_at desc");

async function makeKey(platform: Platform): Promise<KeyRow> {
  return transaction(platform.pool, async (db) => {
    await db.query("select pg_advisory_xact_lock($1)", [keyLock]);
    const [made] = await query<KeyRow>(db, "select * from signing_keys where retired_at is null limit 1");
    if (made) return made;
    const { privateKey, publicKey } = generateKeyPairSync("ed25519");
    const [row] = await query<KeyRow>(
      db,
      "insert into signing_keys (public_pem, private_sealed) values ($1, $2) returning *",
      [publicPem(publicKey), platform.seal.close(privatePem(privateKey))],
    );
    return row!;
  });
}

/** Public halves of every key that ever signed here. */
export const trustedKeys = async (platform: Platform): Promise<KeyObject[]> =>
  (await keyRows(platform)).map((row) => createPublicKey(row.public_pem));
