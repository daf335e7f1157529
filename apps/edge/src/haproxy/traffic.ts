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

/** What is the same for all requests of a host name. */
interface Owner {
  readonly tenantId: string | null;
  readonly app: string;
  readonly deploymentId: string | null;
  readonly releaseId: string | null;
  readonly sandboxId: string | null;
  readonly isKnown: boolean;
  /** Its part of a line of the access log, from its first comma on. */
  readonly json: string;
}

function ownerOf(table: RouteTable, hostname: string): Owner {
  const route = table.find(hostname)?.route ?? null;
  const { deploymentId = null, releaseId = null, sandboxId = null, tenantId = null } = route ?? {};
  const ids = { deploymentId, releaseId, failedReleaseId: null, sandboxId, tenantId };
  const json = `,${JSON.stringify({ hostname, ...ids }).slice(1, -1)}`;
  return { tenantId, app: appOf(route), deploymentId, releaseId, sandboxId, isKnown: route !== null, json };
}

/** Nothing in it has to be written in another way within a JSON string. */
const isPlain = /^[ !#-[\]-~]*$/;
const quoted = (text: string) => (isPlain.test(text) ? `"${text}"` : JSON.stringify(text));

/**
 * Lines of HAProxy about requests that it answered by itself, counted like those of the Node edge. At full speed
 * there are tens of thousands a second, on the cores that serve them: what lines have in common is made once.
 */
export function countLines({ table, requestLog, accessFile, metrics }: TrafficParts) {
  let second = "";
  let day = "";
  const timeOf = (stamp: string): string => {
    const [seconds, ms] = stamp.split(".");
    if (seconds !== second) {
      second = seconds!;
      day = new Date(Number(seconds) * 1000).toISOString().slice(0, 19);
    }
    return `${day}.${(ms ?? "0").padStart(3, "0")}Z`;
  };
  return (lines: readonly string[]): void => {
    const owners = new Map<string, Owner>();
    for (const line of lines) {
      const [requestId, hostname, method, rawPath, rawStatus, took, sent, stamp] = line.split("\t");
      if (stamp === undefined) continue;
      let owner = owners.get(hostname!);
      if (!owner) owners.set(hostname!, (owner = ownerOf(table, hostname!)));
      const durationMs = Math.max(0, Number(took));
      const bytes = Number(sent);
      // -1: the client left before there was an answer.
      const status = Number(rawStatus) < 0 ? 499 : Number(rawStatus);
      const path = rawPath!.length > MAX_PATH_LENGTH ? rawPath!.slice(0, MAX_PATH_LENGTH) : rawPath!;
      const at = timeOf(stamp);
      accessFile.addText(
        `{"at":"${at}","requestId":${quoted(requestId!)},"method":"${method}","path":${quoted(path)},"status":${status},"durationMs":${durationMs},"bytes":${bytes}${owner.json}}\n`,
      );
      const { tenantId, app, deploymentId, releaseId, sandboxId } = owner;
      metrics.add({ tenantId, app, status, durationMs, bytes });
      if (!owner.isKnown) continue;
      if (!requestLog.hasRoom) {
        requestLog.leaveOut();
        continue;
      }
      requestLog.add({
        ...{ at, requestId: requestId!, hostname: hostname!, method: method!, path, status, durationMs },
        ...{ deploymentId, releaseId, failedReleaseId: null, sandboxId, bytes },
      });
    }
  };
}
