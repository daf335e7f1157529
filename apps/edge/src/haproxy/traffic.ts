import type { AccessFile, Metrics, RequestLog } from "../access-log/index.ts";
import { appOf } from "../server.ts";
import type { RouteTable } from "../routes/index.ts";

const MAX_PATH_LENGTH = 2_048;

export interface TrafficParts {
  readonly table: RouteTable;
  readonly requestLog: RequestLog;
  readonly accessFile: AccessFile;
  readonly metrics: Metrics;
}

/** A line of HAProxy about a request that it answered by itself, counted like one of the Node edge's. */
export function countLine(line: string, { table, requestLog, accessFile, metrics }: TrafficParts): void {
  const [requestId, hostname, method, path, status, took, sent, stamp] = line.split("\t");
  if (stamp === undefined) return;
  const route = table.find(hostname!)?.route ?? null;
  const durationMs = Math.max(0, Number(took));
  const bytes = Number(sent);
  const entry = {
    at: new Date(Number(stamp) * 1000).toISOString(),
    requestId: requestId!,
    hostname: hostname!,
    method: method!,
    path: path!.slice(0, MAX_PATH_LENGTH),
    // -1: the client left before there was an answer.
    status: Number(status) < 0 ? 499 : Number(status),
    durationMs,
    deploymentId: route?.deploymentId ?? null,
    releaseId: route?.releaseId ?? null,
    failedReleaseId: null,
    sandboxId: route?.sandboxId ?? null,
    bytes,
  };
  accessFile.add({ ...entry, tenantId: route?.tenantId ?? null });
  metrics.add({
    tenantId: route?.tenantId ?? null,
    app: appOf(route),
    status: entry.status,
    durationMs,
    bytes,
  });
  if (route) requestLog.add(entry);
}
