import { query, queryOne, transaction } from "@platform/postgres";
import type { AcmeChallenge } from "@platform/edge-api";
import type { Platform } from "../platform.ts";
import { nextVersion } from "./store.ts";

/** An edge that has not asked for this long counts as gone, milliseconds. */
const silentMs = 6_000;
const ackMs = 10_000;
/** A challenge that its order left behind is forgotten after this long. */
const keepMinutes = 15;
const most = 2_000;

/** Those that edges answer now. */
export const openChallenges = async (platform: Platform): Promise<AcmeChallenge[]> =>
  (
    await query<{ challenge: AcmeChallenge }>(
      platform.pool,
      "select challenge from acme_challenges order by id desc limit $1",
      [most],
    )
  ).map((row) => row.challenge);

/** Resolves when every live edge answers them: the authority may come to any of them. */
export async function publishChallenges(
  platform: Platform,
  certificateId: string,
  challenges: readonly AcmeChallenge[],
  signal: AbortSignal,
): Promise<void> {
  const version = await transaction(platform.pool, async (db) => {
    const next = await nextVersion(db);
    await db.query(
      `insert into acme_challenges (certificate_id, challenge, version) select $1, unnest($2::jsonb[]), $3`,
      [certificateId, challenges.map((one) => JSON.stringify(one)), next],
    );
    return next;
  });
  platform.signals.announce("certificates");
  const behind = async () => {
    const row = await queryOne<{ n: string; live: string }>(
      platform.pool,
      `select count(*) filter (where certificates_applied < $1) as n, count(*) as live from edges
       where certificates_seen_at > now() - interval '${silentMs} milliseconds'`,
      [version],
    );
    return row && Number(row.live) > 0 && Number(row.n) === 0 ? true : undefined;
  };
  const all = await platform.signals.until("edge-certificates", ackMs, behind, signal);
  if (!all) throw new Error("not every edge could take the challenge in time");
}

/** No version: an edge that answers one for a little longer does no harm. */
export async function withdrawChallenges(platform: Platform, certificateId: string): Promise<void> {
  await platform.pool.query("delete from acme_challenges where certificate_id = $1", [certificateId]);
}

export async function tidyChallenges(platform: Platform): Promise<void> {
  await platform.pool.query(
    `delete from acme_challenges where created_at < now() - interval '${keepMinutes} minutes'`,
  );
  await platform.pool.query("delete from acme_orders where placed_at < now() - interval '30 days'");
}
