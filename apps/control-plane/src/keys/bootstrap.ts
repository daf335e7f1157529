import { existsSync, readFileSync } from "node:fs";
import { open, rename } from "node:fs/promises";
import { newId } from "@platform/daemon";
import type { Pool } from "pg";
import { hashSecret, newSecret } from "./secret.ts";

/**
 * Gives the operator the first key: a file of mode 0600, written before the row, so that a crash
 * between the two leaves a key that the next start makes valid.
 */
export async function ensureBootstrapKey(pool: Pool, tenantId: string, file: string): Promise<void> {
  if (!existsSync(file)) {
    const handle = await open(`${file}.new`, "w", 0o600);
    await handle.writeFile(newSecret("platform").secret);
    await handle.sync();
    await handle.close();
    await rename(`${file}.new`, file);
  }
  const secret = readFileSync(file, "utf8").trim();
  await pool.query(
    `insert into api_keys (id, tenant_id, name, hash, key_prefix, last_four, key_type) values ($1, $2, 'Operator', $3, $4, $5, 'platform') on conflict (hash) do nothing`,
    [newId(), tenantId, hashSecret(secret), secret.slice(0, 10), secret.slice(-4)],
  );
}
