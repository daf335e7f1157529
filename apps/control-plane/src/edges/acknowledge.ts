import { edgeLeaseMs } from "@platform/edge-api";
import { maxFencedHostnames, type HostClient } from "@platform/host-api";
import { query, queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";

/** Edges that answer have this long before those that do not are fenced, milliseconds. */
const patienceMs = 2_000;
/** On top of a lease: clocks that run at different speeds, and a request that is just being answered. */
const marginMs = 500;
const hostMs = 2_000;
const forgetAfter = "24 hours";

interface EdgeRow {
  readonly id: string;
  readonly applied: string;
  readonly last_seen_at: Date;
  /** Since its last question, milliseconds. */
  readonly quiet_ms: number;
}

/** How a change of routes came into force. */
export interface InForce {
  /** Edges that did not acknowledge and can no longer serve what the change replaced. */
  readonly fenced: string[];
  /** Edges that did not acknowledge and of which nobody knows: the change must not count as done. */
  readonly unfenced: string[];
}

/** Hosts that keep fences: every edge asks one of them when it does not hear us. */
export const witnesses = (platform: Platform): HostClient[] => [platform.host];

const behind = (platform: Platform, version: number) =>
  query<EdgeRow>(
    platform.pool,
    `select id, applied, last_seen_at, case when last_seen_at = '-infinity' then 'Infinity'::float8 else extract(epoch from now() - last_seen_at)::float8 * 1000 end as quiet_ms from edges where applied < $1`,
    [version],
  );

/** Those of them that asked so lately that they may hold a lease from us. */
const alive = async (platform: Platform, version: number) =>
  (await behind(platform, version)).filter((edge) => edge.quiet_ms < edgeLeaseMs + marginMs);

/**
 * Waits until no edge serves anything older than the version: each has it in force, or is fenced.
 *
 * An edge that does not answer is fenced in two steps. All hosts note what it must not serve, so that
 * no host prolongs its lease without telling it; then the leases that it may still have run out, at most
 * `edgeLeaseMs` after it last asked us or a host. Decision 4 has the argument.
 */
export async function inForce(platform: Platform, version: number, signal?: AbortSignal): Promise<InForce> {
  const nobodyBehind = async () => ((await behind(platform, version)).length === 0 ? true : undefined);
  const wait = (ms: number) => platform.signals.until("edge-applied", ms, nobodyBehind, signal);
  // One that has been silent for long is not waited for.
  const patient = async () => ((await alive(platform, version)).length === 0 ? true : undefined);
  await platform.signals.until("edge-applied", patienceMs, patient, signal);
  const fences = await Promise.all((await behind(platform, version)).map((edge) => fence(platform, edge)));
  const waitMs = Math.max(0, ...fences.map(({ waitMs: ms }) => ms));
  // Should they come back meanwhile, there is nothing to wait for.
  if (waitMs > 0 && (await wait(waitMs))) return { fenced: [], unfenced: [] };
  const still = new Set((await behind(platform, version)).map(({ id }) => id));
  const ids = (isFenced: boolean) =>
    fences.filter((one) => one.isFenced === isFenced && still.has(one.id)).map(({ id }) => id);
  return { fenced: ids(true), unfenced: ids(false) };
}

/** Of one edge: the names that changed since the version it has. */
async function fence(
  platform: Platform,
  edge: EdgeRow,
): Promise<{ id: string; isFenced: boolean; waitMs: number }> {
  const rows = await query<{ hostname: string; version: string }>(
    platform.pool,
    "select hostname, version from routes where version > $1 order by version limit $2",
    [edge.applied, maxFencedHostnames + 1],
  );
  const isAll = edge.applied === "0" || rows.length > maxFencedHostnames;
  const hostnames = isAll ? ["*"] : rows.map((row) => row.hostname);
  const version = isAll ? await newest(platform) : Number(rows.at(-1)?.version ?? 0);
  try {
    const reports = await Promise.all(
      witnesses(platform).map((host) =>
        host.fence({ edge: edge.id, version, hostnames }, AbortSignal.timeout(hostMs)),
      ),
    );
    const quietMs = Math.min(edge.quiet_ms, ...reports.map((report) => report.quietMs));
    return { id: edge.id, isFenced: true, waitMs: Math.max(0, edgeLeaseMs + marginMs - quietMs) };
  } catch (error) {
    platform.log.error({ err: error, edge: edge.id, version }, "an edge that does not answer is not fenced");
    return { id: edge.id, isFenced: false, waitMs: 0 };
  }
}

const newest = async (platform: Platform) =>
  Number(
    (await queryOne<{ v: string }>(platform.pool, "select coalesce(max(version), 0) as v from routes"))!.v,
  );

/**
 * Waits until every edge that is alive has the version in force. For changes that take nothing back; one that
 * must not be undone by an edge that does not hear of it uses `inForce`.
 *
 * @returns ids of edges that did not acknowledge in time; empty when all did
 */
export async function acknowledged(
  platform: Platform,
  version: number,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<string[]> {
  await platform.signals.until(
    "edge-applied",
    timeoutMs,
    async () => ((await alive(platform, version)).length === 0 ? true : undefined),
    signal,
  );
  return (await alive(platform, version)).map((edge) => edge.id);
}

/** Forgets edges that did not ask for a day, after a fence around everything that they may still serve. */
export async function forgetEdges(platform: Platform): Promise<void> {
  const lost = await query<{ id: string }>(
    platform.pool,
    `select id from edges where greatest(last_seen_at, certificates_seen_at) < now() - interval '${forgetAfter}' limit 100`,
  );
  for (const { id } of lost) {
    const version = await newest(platform);
    await Promise.all(
      witnesses(platform).map((host) =>
        host.fence({ edge: id, version, hostnames: ["*"] }, AbortSignal.timeout(hostMs)),
      ),
    );
    await platform.pool.query(
      `delete from edges where id = $1 and greatest(last_seen_at, certificates_seen_at) < now() - interval '${forgetAfter}'`,
      [id],
    );
  }
}
