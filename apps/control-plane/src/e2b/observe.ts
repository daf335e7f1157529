import { setTimeout as delay } from "node:timers/promises";
import { query } from "@platform/postgres";
import type { LogLine } from "@platform/guest-protocol";
import { guestOf } from "../guests.ts";
import type { SandboxRow } from "../sandboxes/index.ts";
import { ownedBy } from "../tenants/index.ts";
import { ClientProblem } from "./problem.ts";
import type { ClientCall, ClientRoute } from "./route.ts";
import { clientSandbox } from "./store.ts";

/** Between the two looks that a share of the processors is worked out from, milliseconds. */
const betweenMs = 200;
const mostLines = 1000;
const mostSandboxes = 100;

interface Metric {
  readonly timestamp: string;
  readonly timestampUnix: number;
  readonly cpuCount: number;
  readonly cpuUsedPct: number;
  readonly memUsed: number;
  readonly memTotal: number;
  readonly memCache: number;
  readonly diskUsed: number;
  readonly diskTotal: number;
}

/** The kernel's figures now. Null where they are not measured: then there is no entry rather than a made-up one. */
async function measure(call: ClientCall, row: SandboxRow): Promise<Metric | null> {
  if (row.state !== "running") return null;
  const { host } = call.platform;
  const first = await host.stats(row.box_key, call.signal);
  const startedAt = performance.now();
  if (first?.cpuMicros == null || first.memoryBytes == null) return null;
  await delay(betweenMs, undefined, { signal: call.signal });
  const second = await host.stats(row.box_key, call.signal);
  if (second?.cpuMicros == null || second.memoryBytes == null) return null;
  const tookMicros = (performance.now() - startedAt) * 1000;
  const now = new Date();
  return {
    timestamp: now.toISOString(),
    timestampUnix: Math.floor(now.getTime() / 1000),
    cpuCount: row.cpu_count,
    cpuUsedPct: Math.round(((second.cpuMicros - first.cpuMicros) / tookMicros) * 10_000) / 100,
    memUsed: second.memoryBytes,
    memTotal: second.memoryLimitBytes ?? row.memory_mb * 1024 * 1024,
    // The page cache is not told apart from the rest: it is counted in what is used.
    memCache: 0,
    diskUsed: second.diskBytes ?? 0,
    diskTotal: row.disk_size_mb * 1024 * 1024,
  };
}

const within = (metric: Metric, filter: Record<string, string>) =>
  !(Number(filter["start"]) > metric.timestampUnix) && !(Number(filter["end"]) < metric.timestampUnix);

async function metrics(call: ClientCall) {
  const metric = await measure(call, await clientSandbox(call));
  return metric && within(metric, call.query) ? [metric] : [];
}

async function metricsOfMany(call: ClientCall) {
  const ids = (call.query["sandbox_ids"] ?? "").split(",").filter((id) => id !== "");
  if (ids.length === 0 || ids.length > mostSandboxes)
    throw new ClientProblem(400, `sandbox_ids: names 1 to ${mostSandboxes} sandboxes.`);
  const conditions = ownedBy(call.caller).raw("state = 'running'").add("id::text = any($?)", ids);
  const rows = await query<SandboxRow>(
    call.platform.pool,
    `select * from sandboxes where ${conditions.sql}`,
    conditions.values,
  );
  const measured = await Promise.all(rows.map(async (row) => [row.id, await measure(call, row)] as const));
  return { sandboxes: Object.fromEntries(measured.filter(([, metric]) => metric !== null)) };
}

const levels = ["debug", "info", "warn", "error"];

interface Entry {
  readonly timestamp: string;
  readonly level: string;
  readonly message: string;
  readonly fields: Record<string, string>;
}

/** What the services in the sandbox wrote, oldest first; a paused one is not woken for it. */
async function entriesOf(call: ClientCall): Promise<Entry[]> {
  const row = await clientSandbox(call);
  if (row.state !== "running") return [];
  const guest = guestOf(call.platform.host, row.box_key);
  const all: Entry[] = [];
  for (const service of await guest.services.list(call.signal)) {
    const lines = await guest.services.logs(service.name, mostLines, call.signal);
    all.push(...lines.filter((line) => line.stream !== "agent").map((line) => toEntry(service.name, line)));
  }
  return all.sort((a, b) => a.timestamp.localeCompare(b.timestamp));
}

const toEntry = (service: string, { t, stream, line }: LogLine): Entry => ({
  timestamp: t,
  level: stream === "stderr" ? "error" : "info",
  message: line,
  fields: { service, stream },
});

function limitOf(filter: Record<string, string>): number {
  const limit = Number(filter["limit"] ?? mostLines);
  if (!Number.isInteger(limit) || limit < 0) throw new ClientProblem(400, "limit: is a number from 0.");
  return Math.min(limit, mostLines);
}

async function logs(call: ClientCall) {
  const from = Number(call.query["start"] ?? 0);
  const entries = (await entriesOf(call))
    .filter((entry) => Date.parse(entry.timestamp) >= from)
    .slice(0, limitOf(call.query));
  return { logs: entries.map(({ timestamp, message: line }) => ({ timestamp, line })), logEntries: entries };
}

async function logsV2(call: ClientCall) {
  const { cursor, direction, level, search } = call.query;
  const isBackward = direction === "backward";
  const entries = (await entriesOf(call)).filter((entry) => {
    const at = Date.parse(entry.timestamp);
    if (cursor !== undefined && (isBackward ? at > Number(cursor) : at < Number(cursor))) return false;
    if (level !== undefined && levels.indexOf(entry.level) < levels.indexOf(level)) return false;
    return search === undefined || entry.message.includes(search);
  });
  return { logs: (isBackward ? entries.reverse() : entries).slice(0, limitOf(call.query)) };
}

export const observeRoutes: readonly ClientRoute[] = [
  { method: "GET", path: "/sandboxes/metrics", scope: "sandboxes:read", handle: metricsOfMany },
  { method: "GET", path: "/sandboxes/{sandboxID}/metrics", scope: "sandboxes:read", handle: metrics },
  { method: "GET", path: "/sandboxes/{sandboxID}/logs", scope: "sandboxes:read", handle: logs },
  { method: "GET", path: "/v2/sandboxes/{sandboxID}/logs", scope: "sandboxes:read", handle: logsV2 },
];
