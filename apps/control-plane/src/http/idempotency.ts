import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Pool } from "pg";
import { PlatformError } from "@platform/contract";
import type { Seal } from "../seal.ts";
import { isPresent } from "../presence.ts";

export interface StoredAnswer {
  readonly status: number;
  readonly body: string;
  readonly headers: Record<string, string>;
}

const lockSeconds = 20;

export const hashBody = (body: unknown): string =>
  createHash("sha256")
    .update(JSON.stringify(body ?? null))
    .digest("hex");

/** A UUID that depends on its parts only (version 8: custom). */
export function derivedId(...parts: readonly string[]): string {
  const hash = createHash("sha256").update(JSON.stringify(parts)).digest();
  hash[6] = (hash[6]! & 0x0f) | 0x80;
  hash[8] = (hash[8]! & 0x3f) | 0x80;
  const hex = hash.subarray(0, 16).toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

interface Slot {
  readonly tenantId: string;
  readonly key: string;
  readonly method: string;
  readonly path: string;
  readonly bodyHash: string;
}

/**
 * Runs `work` once per (tenant, key, method, path). A repeat with the same body gets the first answer;
 * while the first still runs, the repeat waits for it. A run whose process died is taken over at once:
 * ids derived from the key make the second run continue the first.
 *
 * Answers are stored sealed, because some hold a secret that is shown once. Those of 500 and above, and
 * retryable refusals, are not stored: the retry shall run.
 *
 * @throws PlatformError IDEMPOTENCY_PAYLOAD_MISMATCH
 */
export async function runOnce(
  { pool, holder, seal }: { pool: Pool; holder: string; seal: Seal },
  slot: Slot,
  work: () => Promise<StoredAnswer & { readonly keep: boolean }>,
): Promise<StoredAnswer> {
  const where = [slot.tenantId, slot.key, slot.method, slot.path];
  for (;;) {
    const claimed = await pool.query(
      `insert into idempotency (tenant_id, key, method, path, body_hash, holder, locked_until)
       values ($1, $2, $3, $4, $5, $6, now() + interval '${lockSeconds} seconds')
       on conflict (tenant_id, key, method, path) do update set locked_until = excluded.locked_until, holder = excluded.holder
       where idempotency.status is null and (idempotency.locked_until < now() or not ${isPresent("idempotency.holder")}) and idempotency.body_hash = excluded.body_hash
       returning 1`,
      [...where, slot.bodyHash, holder],
    );
    if (claimed.rowCount === 1) break;
    const { rows } = await pool.query<{
      body_hash: string;
      status: number | null;
      body_sealed: Buffer;
      headers: Record<string, string>;
    }>(
      `select body_hash, status, body_sealed, headers from idempotency where tenant_id = $1 and key = $2 and method = $3 and path = $4`,
      where,
    );
    const row = rows[0];
    if (!row) continue;
    if (row.body_hash !== slot.bodyHash) {
      throw new PlatformError(
        "IDEMPOTENCY_PAYLOAD_MISMATCH",
        "This Idempotency-Key was used with another body. Use a new key for a new request.",
      );
    }
    if (row.status !== null)
      return { status: row.status, body: seal.open(row.body_sealed), headers: row.headers };
    await delay(100);
  }
  const renewal = setInterval(
    () => {
      void pool
        .query(
          `update idempotency set locked_until = now() + interval '${lockSeconds} seconds'
         where tenant_id = $1 and key = $2 and method = $3 and path = $4 and status is null`,
          where,
        )
        .catch(() => undefined); // The lock then ends by itself, and a repeat continues the work.
    },
    (lockSeconds * 1000) / 4,
  );
  try {
    const answer = await work();
    if (answer.keep) {
      await pool.query(
        `update idempotency set status = $5, body_sealed = $6, headers = $7 where tenant_id = $1 and key = $2 and method = $3 and path = $4`,
        [...where, answer.status, seal.close(answer.body), answer.headers],
      );
    } else {
      await pool.query(
        `delete from idempotency where tenant_id = $1 and key = $2 and method = $3 and path = $4 and status is null`,
        where,
      );
    }
    return answer;
  } finally {
    clearInterval(renewal);
  }
}
