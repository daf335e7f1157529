import { utimes } from "node:fs/promises";
import { faultPoint } from "@platform/daemon";
import { writeGuestConfig } from "./folders.ts";
import type { LiveBox } from "./live-box.ts";
import type { StartContext } from "./start-box.ts";
import { tellFirst } from "./tell-first.ts";

const answerMs = 5_000;

/**
 * Takes a box of the pool, whose record already names its caller in memory, to `running`. Until the
 * record is on disk it says that nobody owns the box: after a crash before that the box is removed, after
 * it kept. Throwing means the same as a crash.
 */
export async function claimBox(box: LiveBox, context: StartContext): Promise<void> {
  const startedAt = performance.now();
  const { driver, place, folders, guest } = box;
  const { key, spec } = box.record;
  const { standby } = driver;
  if (!standby) throw new Error(`driver ${driver.name} keeps no boxes that wait`);
  const image = await context.imageOf(spec.template);
  if ((image.root?.digest ?? null) !== box.record.image)
    throw new Error("its template has another image now");
  faultPoint("host.pool.before-claim");
  await writeGuestConfig(folders, spec);
  const now = new Date();
  // What lies on a disk of the box's own kernel is renewed by the agent.
  const own = driver.disk === "attached" ? [folders.run] : [folders.workspace, folders.home, folders.run];
  const [outbound] = await Promise.all([
    context.outbound.open(key, spec, folders),
    standby.claim(place, box.record.driverState ?? {}, spec, folders),
    ...own.map((path) => utimes(path, now, now)),
  ]);
  box.outbound = outbound;
  faultPoint("host.pool.after-driver");
  box.stop.signal.throwIfAborted();
  const timeoutMs = driver.readyTimeoutMs ?? answerMs;
  await tellFirst(box, timeoutMs);
  await guest.json("GET", "/ready", undefined, timeoutMs);
  faultPoint("host.pool.after-config");
  box.record = {
    ...box.record,
    ...{ phase: "running", bootPath: "pool", bootMs: Math.round(performance.now() - startedAt) },
  };
  await context.records.save(box.record);
  faultPoint("host.pool.after-record");
}
