import { setTimeout as delay } from "node:timers/promises";
import type { LogLine } from "@platform/guest-protocol";
import { query } from "@platform/postgres";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { appService } from "../releases/index.ts";
import type { DeploymentRow, InstanceRow } from "./store.ts";

export interface LogFilter {
  readonly lines: number;
  readonly q?: string | undefined;
  readonly instance_id?: string | undefined;
  readonly release_id?: string | undefined;
  readonly since?: string | undefined;
}

export interface DeploymentLine {
  readonly t: string;
  readonly stream: string;
  readonly line: string;
  readonly instance_id: string;
  readonly release_id: string;
}

/** Searched lines of one instance, at most. */
const searchedLines = 5_000;
const lookForNewMs = 1_000;
/** Instances whose kept lines are read, at most. */
const mostPast = 50;

const isWanted = (filter: LogFilter) => {
  const wanted = filter.q?.toLowerCase();
  const since = filter.since ? Date.parse(filter.since) : 0;
  return (line: { t: string; line: string }) =>
    (wanted === undefined || line.line.toLowerCase().includes(wanted)) && Date.parse(line.t) >= since;
};

/** All of the deployment, newest first; those that are gone too. */
async function instancesFor(
  platform: Platform,
  row: DeploymentRow,
  filter: LogFilter,
): Promise<InstanceRow[]> {
  return query<InstanceRow>(
    platform.pool,
    `select * from instances where deployment_id = $1 and ($2::text is null or id::text = $2) and ($3::text is null or release_id::text = $3)
     order by (state <> 'destroyed') desc, created_at desc limit ${mostPast}`,
    [row.id, filter.instance_id ?? null, filter.release_id ?? null],
  );
}

const named = (instance: InstanceRow, line: { t: string; stream: string; line: string }): DeploymentLine => ({
  t: line.t,
  stream: line.stream,
  line: line.line,
  instance_id: instance.id,
  release_id: instance.release_id,
});

export async function liveLines(
  platform: Platform,
  instance: InstanceRow,
  lines: number,
): Promise<LogLine[]> {
  if (instance.state === "destroyed") return [];
  const log = await guestOf(platform.host, instance.box_key)
    .services.logs(appService, lines)
    .catch(() => []); // A box that is starting or has just gone.
  return log.filter((line) => line.stream !== "agent");
}

export async function keptLines(
  platform: Platform,
  instance: InstanceRow,
  lines: number,
): Promise<LogLine[]> {
  const rows = await query<{ at: Date; stream: string; line: string }>(
    platform.pool,
    "select at, stream, line from instance_logs where instance_id = $1 order by seq desc limit $2",
    [instance.id, lines],
  );
  return rows
    .reverse()
    .map(({ at, stream, line }) => ({ t: at.toISOString(), stream: stream as LogLine["stream"], line }));
}

/** The last lines of all instances together, in the order of their time. */
export async function searchLogs(
  platform: Platform,
  row: DeploymentRow,
  filter: LogFilter,
): Promise<DeploymentLine[]> {
  const instances = await instancesFor(platform, row, filter);
  const count = filter.q || filter.since ? searchedLines : filter.lines;
  const wanted = isWanted(filter);
  const all: DeploymentLine[] = [];
  for (const one of instances) {
    const lines =
      one.state === "destroyed"
        ? await keptLines(platform, one, count)
        : await liveLines(platform, one, count);
    all.push(...lines.filter(wanted).map((line) => named(one, line)));
  }
  return all.sort((a, b) => Date.parse(a.t) - Date.parse(b.t)).slice(-filter.lines);
}

/** What there is, then what comes, of every instance, also of those that begin later. */
export async function followLogs(
  platform: Platform,
  row: DeploymentRow,
  filter: LogFilter,
  send: (line: DeploymentLine) => void,
  signal: AbortSignal,
): Promise<void> {
  const wanted = isWanted(filter);
  const begin = new Date();
  for (const line of await searchLogs(platform, row, filter)) send(line);
  const followed = new Set<string>();
  while (!signal.aborted) {
    for (const one of await instancesFor(platform, row, filter)) {
      if (one.state === "destroyed" || followed.has(one.id)) continue;
      followed.add(one.id);
      void followOne(platform, one, begin, (line) => wanted(line) && send(named(one, line)), signal).finally(
        () => followed.delete(one.id),
      );
    }
    await delay(lookForNewMs, undefined, { signal }).catch(() => undefined); // Aborted: the loop ends.
  }
}

async function followOne(
  platform: Platform,
  instance: InstanceRow,
  begin: Date,
  send: (line: LogLine) => void,
  signal: AbortSignal,
): Promise<void> {
  // One that began later is told from its first line on; of the others the past was sent already.
  const tail = instance.created_at > begin ? searchedLines : 0;
  try {
    for await (const event of guestOf(platform.host, instance.box_key).services.follow(
      appService,
      tail,
      signal,
    ))
      if (!("exit" in event) && event.stream !== "agent") send(event);
  } catch (error) {
    platform.log.debug({ err: error, instance: instance.id }, "the log of an instance ended");
    await delay(lookForNewMs, undefined, { signal }).catch(() => undefined); // Aborted: nothing follows.
  }
}
