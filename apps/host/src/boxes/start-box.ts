import { setTimeout as delay } from "node:timers/promises";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { Deadline, faultPoint } from "@platform/daemon";
import { HostError, type BoxFailure, type ResolvedBoxSpec } from "@platform/host-api";
import type { Disks } from "../disks/index.ts";
import type { GuestImage, StartedBox } from "../drivers/driver.ts";
import type { OutboundFactory } from "../outbound/index.ts";
import { guestConfig, makeFolders, type ContentSource } from "./folders.ts";
import type { LiveBox } from "./live-box.ts";
import type { RecordStore } from "./record.ts";
import { tellFirst } from "./tell-first.ts";

const configTimeoutMs = 10_000;

export interface StartContext {
  readonly records: RecordStore;
  /**
   * What a box of this template boots.
   *
   * @throws HostError `NOT_FOUND` when this host has no such image
   */
  readonly imageOf: (template: string) => Promise<GuestImage>;
  readonly content: ContentSource;
  /** `null` where the disks of boxes cannot be limited. */
  readonly disks: Disks | null;
  readonly outbound: OutboundFactory;
  /** PEM of the authority that signs the databases' certificates. */
  readonly databaseAuthority: string;
  /** Guarantees that no driver can give on this machine. */
  readonly missing: readonly string[];
  /** Most time for the agent's first answer, in milliseconds. */
  readonly readyTimeoutMs: number;
}

/**
 * Takes a box whose record is not on disk yet to `running`, or to `waiting` where nobody asked for it.
 *
 * @throws HostError `BOOT_FAILED` with the evidence; the caller then removes what is left
 */
export async function startBox(
  box: LiveBox,
  context: StartContext,
  as: "running" | "waiting" = "running",
): Promise<void> {
  const startedAt = performance.now();
  const { signal } = box.stop;
  const image = await context.imageOf(box.record.spec.template);
  box.record = { ...box.record, image: image.root?.digest ?? null };
  faultPoint("host.box.before-state");
  await context.records.save(box.record);
  faultPoint("host.box.after-state");
  const saved = as === "running" ? await savedMemory(box, context, image) : null;
  const { spec } = box.record;
  // What is restored has its files on its own disk already.
  const filled: ResolvedBoxSpec = saved === null ? spec : { ...spec, content: { type: "empty" } };
  await makeFolders(box.folders, filled, context.content, context.databaseAuthority, context.disks);
  if (box.folders.disk && context.disks && box.driver.disk === "attached") {
    await context.disks.detach(box.folders.disk);
  }
  // A box that waits has no way out; its caller's opens with the claim.
  if (as === "running") {
    box.outbound = await context.outbound.open(box.record.key, box.record.spec, box.folders);
  }
  signal.throwIfAborted();
  let goesOn: StartedBox["goesOn"];
  try {
    const { goesOn: from, ...started } = await startIn(box, image, as, saved);
    goesOn = from;
    const missing = [...new Set([...started.isolation.missing, ...context.missing])];
    box.record = { ...box.record, ...started, isolation: { ...started.isolation, missing } };
  } catch (cause) {
    if (cause instanceof HostError || signal.aborted) throw cause;
    throw bootFailed(box, (cause as Error).message, {}, cause);
  }
  faultPoint("host.box.after-start");
  if (goesOn !== "resting") await untilTold(box, context.readyTimeoutMs, as, saved !== null, goesOn);
  faultPoint("host.box.before-ready");
  const bootMs = Math.round(performance.now() - startedAt);
  const bootPath = saved === null && goesOn === undefined ? "cold" : "snapshot";
  box.record = { ...box.record, phase: as, bootMs, bootPath };
  await context.records.save(box.record);
  faultPoint("host.box.after-ready");
}

/** The agent answers and knows what its box is; one that waits is then brought to rest. */
async function untilTold(
  box: LiveBox,
  usualTimeoutMs: number,
  as: "running" | "waiting",
  isRestored: boolean,
  goesOn: StartedBox["goesOn"],
): Promise<void> {
  const { driver, record } = box;
  const readyTimeoutMs = driver.readyTimeoutMs ?? usualTimeoutMs;
  await untilReady(box, readyTimeoutMs);
  const timeoutMs = driver.readyTimeoutMs ?? configTimeoutMs;
  if (goesOn === "answered") await tellFirst(box, timeoutMs);
  else if (isRestored) await box.guest.json("PUT", "/config", guestConfig(record.spec), timeoutMs);
  if (as === "running") return;
  // What a box loads at first use it has loaded before it waits.
  await box.guest.json("POST", "/self-test", undefined, readyTimeoutMs);
  // Its machine is saved and stands still: a connection would stay open on one side only.
  if (driver.standby?.settle) box.guest.close();
  await driver.standby?.settle?.(box.place, record.driverState ?? {}, record.spec, box.folders);
}

/**
 * Where the memory lies that the box goes on from; `null`: it boots.
 *
 * @throws HostError `INVALID` when the caller insists on memory and it cannot be used
 */
async function savedMemory(
  { driver, record }: LiveBox,
  context: StartContext,
  image: GuestImage,
): Promise<string | null> {
  const { content } = record.spec;
  if (content.type !== "snapshot" || content.withMemory === false) return null;
  const from = driver.checkpoints ? await context.content.memoryOf(content, driver.name) : null;
  const why =
    from === null
      ? `Snapshot ${content.snapshotKey} holds no memory that a box of driver ${driver.name} can go on from.`
      : ((await driver.checkpoints?.whyNot(record.spec, image, from)) ?? null);
  if (why === null) return from;
  if (content.withMemory) throw new HostError("INVALID", 409, `${why} Restore its files only.`);
  return null;
}

async function startIn(
  { place, driver, folders, record, stop }: LiveBox,
  image: GuestImage,
  as: "running" | "waiting",
  saved: string | null,
): Promise<StartedBox> {
  const { spec } = record;
  if (saved !== null && driver.checkpoints) {
    return driver.checkpoints.restore(place, spec, folders, image, saved, stop.signal);
  }
  const start = as === "waiting" ? driver.standby?.start : driver.start.bind(driver);
  if (!start) throw new Error(`driver ${driver.name} keeps no boxes that wait`);
  return start(place, spec, folders, image, stop.signal);
}

async function untilReady(box: LiveBox, timeoutMs: number): Promise<void> {
  const deadline = new Deadline(timeoutMs);
  let last: unknown;
  for (;;) {
    box.stop.signal.throwIfAborted();
    try {
      await box.guest.json("GET", "/ready", undefined, Math.max(50, Math.min(2_000, deadline.remainingMs)));
      return;
    } catch (error) {
      last = error;
    }
    const failure = await box.driver.failure(box.place, box.record.driverState ?? {});
    if (failure)
      throw bootFailed(box, failure.detail, { ...failure.evidence, ...(await said(box)) }, last, failure);
    if (deadline.hasPassed) {
      const evidence = { ...(await counters(box)), ...(await said(box)) };
      throw bootFailed(box, `Its agent did not answer within ${timeoutMs} ms.`, evidence, last);
    }
    await delay(10);
  }
}

function bootFailed(
  box: LiveBox,
  why: string,
  evidence: Record<string, unknown>,
  cause: unknown,
  known?: BoxFailure,
): HostError {
  const reason = known?.reason === "oom" ? "oom" : "boot_failed";
  const failure: BoxFailure = { reason, detail: why, evidence };
  return new HostError(
    "BOOT_FAILED",
    500,
    `Box ${box.record.key} did not start: ${why}`,
    { failure },
    { cause },
  );
}

const counters = (box: LiveBox) => box.driver.stats(box.place, box.record.driverState ?? {});

/** End of what the agent wrote to its standard error, at most 4 KiB. */
export async function said(box: LiveBox): Promise<{ agentLog: string }> {
  try {
    const file = await open(join(box.folders.log, "agent.log"), "r");
    try {
      const { size } = await file.stat();
      const buffer = Buffer.alloc(Math.min(size, 4096));
      await file.read(buffer, 0, buffer.length, size - buffer.length);
      return { agentLog: buffer.toString("utf8") };
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { agentLog: "" };
    throw error;
  }
}
