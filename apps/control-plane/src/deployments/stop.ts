import type { RunSettings } from "@platform/contract";
import type { LogLine } from "@platform/guest-protocol";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { appService, deploymentEnvironment } from "../releases/index.ts";
import { updateInstance, type InstanceRow } from "./store.ts";

/** Lines of an instance that outlive it. */
const keptLines = 1000;
/** Beyond the grace, milliseconds. */
const marginMs = 3_000;

/**
 * SIGTERM to the app, a bounded wait, then the box goes; what the app said, also while it ended, is kept.
 * May run twice.
 */
export async function stopInstance(
  platform: Platform,
  instance: InstanceRow,
  settings: RunSettings,
  signal: AbortSignal,
  set: Record<string, unknown> = {},
): Promise<void> {
  const lines = await endApp(platform, instance.box_key, settings.stop_grace_sec * 1000, signal);
  await keepLines(platform, instance, lines);
  await platform.host.deleteBox(instance.box_key, signal);
  await updateInstance(platform, instance.id, { ...set, state: "destroyed", destroyed_at: new Date() });
}

async function endApp(
  platform: Platform,
  boxKey: string,
  graceMs: number,
  signal: AbortSignal,
): Promise<LogLine[]> {
  const box = await platform.host.box(boxKey, signal).catch(() => null);
  if (box?.state !== "running") return [];
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(graceMs + marginMs)]);
  const guest = guestOf(platform.host, boxKey);
  const lines: LogLine[] = [];
  const said = (async () => {
    for await (const event of guest.services.follow(appService, keptLines, bounded))
      if (!("exit" in event)) lines.push(event);
  })();
  // A box that ends meanwhile has nothing more to say, and its removal comes next anyway.
  const removed = guest.services.remove(appService, bounded, graceMs);
  await Promise.allSettled([said, removed]);
  return lines.slice(-keptLines);
}

async function keepLines(
  platform: Platform,
  instance: InstanceRow,
  lines: readonly LogLine[],
): Promise<void> {
  const own = lines.filter((line) => line.stream !== "agent");
  if (own.length === 0) return;
  const { values } = await deploymentEnvironment(platform, instance.deployment_id);
  const secrets = Object.values(values).filter((value) => value.length >= 6);
  const mask = (text: string) =>
    secrets.reduce((masked, secret) => masked.replaceAll(secret, "[masked]"), text).replaceAll("\0", "");
  await platform.pool.query(
    `insert into instance_logs (instance_id, seq, at, stream, line)
     select $1, * from unnest($2::int[], $3::timestamptz[], $4::text[], $5::text[]) on conflict do nothing`,
    [
      instance.id,
      own.map((_line, index) => index),
      own.map((line) => line.t),
      own.map((line) => line.stream),
      own.map((line) => mask(line.line)),
    ],
  );
}

/** Lines of instances that are gone are kept for a week. */
export async function trimInstanceLogs(platform: Platform): Promise<void> {
  await platform.pool.query("delete from instance_logs where at < now() - interval '7 days'");
  await platform.pool.query(
    `delete from instance_samples where at < now() - interval '7 days'
       or (at < now() - interval '2 hours' and extract(minute from at)::int % 5 <> 0)`,
  );
}
