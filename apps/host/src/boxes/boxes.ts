import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { randomUUID } from "node:crypto";
import { faultPoint, type Log } from "@platform/daemon";
import {
  BoxPatch,
  BoxSpec,
  HostError,
  type Box,
  type BoxFailure,
  type BoxStats,
  type OomReport,
  type ResolvedBoxSpec,
} from "@platform/host-api";
import type { SandboxDriver } from "../drivers/driver.ts";
import {
  nameOf,
  readPressure,
  shapeFor,
  WarmPool,
  type PoolSettings,
  type PoolShape,
  type PoolState,
} from "../pool/index.ts";
import { BootGate } from "./boot-gate.ts";
import { claimBox } from "./claim-box.ts";
import { diskUsage, guestConfig, removeTree } from "./folders.ts";
import { LiveBox } from "./live-box.ts";
import { killedPrograms } from "./notices.ts";
import { OwnerPool } from "./owner-pool.ts";
import { hashSpec, placeOf, type BoxRecord } from "./record.ts";
import { said, startBox, type StartContext } from "./start-box.ts";

export interface BoxesOptions extends StartContext {
  readonly runsAsRoot: boolean;
  /** Start of the search for a free uid. */
  readonly ownerOffset: number;
  /** @throws HostError `ISOLATION_UNAVAILABLE` */
  readonly chooseDriver: (minimum: ResolvedBoxSpec["minimumIsolation"]) => SandboxDriver;
  readonly drivers: readonly SandboxDriver[];
  readonly log: Log;
  /** Boots at once. */
  readonly bootConcurrency: number;
  readonly pool: PoolSettings;
}

/** A box in which nothing moves; its files lie in `folders`. */
export type StillBox = Pick<LiveBox, "driver" | "folders" | "place" | "record">;
/** Of a box that waits; its caller's takes its place. */
const waitingSpec = {
  purpose: "sandbox",
  minimumIsolation: "none",
  content: { type: "empty" },
  egress: { mode: "deny-all" },
} as const;

/** Between two looks at a running box's memory and disk. */
const noticeEveryMs = 3_000;
/** Of programs that the kernel ended, the last ones. */
const mostKilledNamed = 5;

const noSuchBox = (key: string) => new HostError("NOT_FOUND", 404, `There is no box ${key} on this host.`);

const deletedMeanwhile = (key: string, cause: unknown) =>
  new HostError("CONFLICT", 409, `Box ${key} was deleted while it started.`, {}, { cause });

/** All boxes of this host. Every call is idempotent by key. */
export class Boxes {
  readonly #options: BoxesOptions;
  readonly #boxes = new Map<string, LiveBox>();
  readonly #owners: OwnerPool | null;
  readonly #gate: BootGate;
  readonly #pool: WarmPool<LiveBox>;
  #watch: NodeJS.Timeout | null = null;

  constructor(options: BoxesOptions) {
    this.#options = options;
    this.#owners = options.runsAsRoot ? new OwnerPool(options.ownerOffset) : null;
    this.#gate = new BootGate(options.bootConcurrency);
    this.#pool = new WarmPool({
      ...{ settings: options.pool, nameOf, pressure: readPressure, log: options.log },
      isBusy: () => !this.#gate.isIdle,
      supply: {
        boot: (shape, signal) => this.#bootWaiting(shape, signal),
        isAlive: async (box) => (await box.driver.failure(box.place, box.record.driverState ?? {})) === null,
        discard: (box) => this.#discard(box),
      },
    });
  }

  /** Adopts what a former daemon left running and removes what it left half-made. Call once, first. */
  async recover(): Promise<void> {
    for (const { place, record } of await this.#options.records.load()) {
      const driver = this.#options.drivers.find(({ name }) => name === record?.driver);
      if (!record || !driver || (record.phase !== "running" && record.phase !== "failed")) {
        await this.#obliterate(place, record);
        this.#options.log.warn({ box: place, phase: record?.phase ?? null }, "removed a half-made box");
        continue;
      }
      if (record.owner) this.#owners?.reserve(record.owner.uid);
      await this.#adopt(record, driver);
    }
    const places = new Set([...this.#boxes.values()].map((box) => box.place));
    for (const driver of this.#options.drivers) {
      for (const place of await driver.remnants()) {
        if (places.has(place)) continue;
        await driver.destroy(place, null);
        this.#options.log.warn({ box: place }, "removed remnants of an unknown box");
      }
    }
    for (const freed of (await this.#options.disks?.sweep(places)) ?? [])
      this.#options.log.warn({ what: freed }, "freed a mount or device of an unknown box");
    this.#scheduleWatch();
    this.#pool.start();
  }

  list(): Box[] {
    return [...this.#boxes.values()].map((box) => box.view);
  }

  get pool(): PoolState<PoolShape> {
    return this.#pool.report();
  }

  /** Digests of the images that boxes have as their root now. */
  usedImages(): Set<string> {
    return new Set([...this.#boxes.values()].flatMap(({ record: { image } }) => image ?? []));
  }

  find(key: string): Box | null {
    return this.#boxes.get(key)?.view ?? null;
  }

  /** @throws HostError `NOT_FOUND` */
  get(key: string): LiveBox {
    const box = this.#boxes.get(key);
    if (!box) throw noSuchBox(key);
    return box;
  }

  /** Resolves when the agent answered. Calls with one key share one start. */
  async put(key: string, input: BoxSpec): Promise<Box> {
    const spec = BoxSpec.parse(input);
    const known = this.#boxes.get(key);
    if (known?.record.phase === "deleting") {
      throw new HostError("CONFLICT", 409, `Box ${key} is being deleted. Retry when it is gone.`);
    }
    const specHash = hashSpec(spec);
    if (known && known.record.specHash !== specHash) {
      const message = `Box ${key} exists with another spec. Delete it first or use another key.`;
      throw new HostError("CONFLICT", 409, message, { specHash: known.record.specHash });
    }
    await (known ?? this.#begin(key, spec, specHash)).started;
    // Not the one begun with where a box of the pool had to be replaced.
    const box = this.get(key);
    if (box.record.phase === "failed") box.assertRunning();
    return box.view;
  }

  async delete(key: string): Promise<void> {
    const box = this.#boxes.get(key);
    if (!box) {
      for (const driver of this.#options.drivers) await driver.destroy(key, null);
      return;
    }
    box.stop.abort();
    await box.started?.catch(() => undefined); // Whoever asked for the start got the failure.
    await box.inTurn(async () => {
      if (this.#boxes.get(key) !== box) return;
      box.record = { ...box.record, phase: "deleting" };
      await this.#options.records.save(box.record);
      await this.#remove(box);
    });
  }

  async patch(key: string, input: BoxPatch): Promise<Box> {
    const patch = BoxPatch.parse(input);
    const box = this.get(key);
    return box.inTurn(async () => {
      box.assertRunning();
      const given = Object.entries(patch).filter(([, value]) => value !== undefined);
      const spec: ResolvedBoxSpec = { ...box.record.spec, ...(Object.fromEntries(given) as typeof patch) };
      // Written first: after a crash between the two, repeating the call brings the guest up to date.
      box.record = { ...box.record, spec };
      await this.#options.records.save(box.record);
      box.outbound?.configure(spec);
      await box.driver.relink(box.folders, spec);
      await box.guest.json("PUT", "/config", guestConfig(spec), 10_000);
      return box.view;
    });
  }

  pause = (key: string): Promise<Box> => this.#setPaused(key, true);
  resume = (key: string): Promise<Box> => this.#setPaused(key, false);

  async stats(key: string): Promise<BoxStats & { outbound: { sentBytes: number; receivedBytes: number } }> {
    const box = this.get(key);
    try {
      const stats = await box.driver.stats(box.place, box.record.driverState ?? {});
      const disk = await this.#diskUsage(box);
      const { sentBytes = 0, receivedBytes = 0 } = box.outbound?.counters ?? {};
      return { ...stats, ...disk, outbound: { sentBytes, receivedBytes }, openConnections: box.tunnels };
    } catch (error) {
      // Deleted while it was looked at.
      throw this.#boxes.get(key) === box && box.record.phase !== "deleting" ? error : noSuchBox(key);
    }
  }

  /** Of every box that is, with what its workspace was filled from. */
  contentDigests(): string[] {
    return [...this.#boxes.values()].flatMap(({ record: { spec } }) =>
      "digest" in spec.content ? [spec.content.digest] : [],
    );
  }

  async oom(key: string): Promise<OomReport> {
    const box = this.get(key);
    const stats = await box.driver.stats(box.place, box.record.driverState ?? {});
    const { oomKills, memoryLimitBytes, memoryPeakBytes } = stats;
    const processes = oomKills ? killedPrograms(box.place, Math.min(oomKills, mostKilledNamed)) : [];
    return { oomKills, memoryLimitBytes, memoryPeakBytes, processes };
  }

  /** Runs `work` while nothing in the box moves, where the driver can freeze it, with its files in `folders`. */
  async whileStill<T>(key: string, work: (still: StillBox) => Promise<T>): Promise<T> {
    const box = this.get(key);
    return box.inTurn(async () => {
      const { freezer } = box.driver;
      const { phase, isPaused, driverState } = box.record;
      if (phase === "starting" || phase === "deleting") box.assertRunning();
      const mustFreeze = freezer !== undefined && phase === "running" && !isPaused;
      if (mustFreeze) await freezer.pause(box.place, driverState ?? {});
      try {
        return await this.#withFiles(box, work);
      } finally {
        if (mustFreeze) await freezer.resume(box.place, driverState ?? {});
      }
    });
  }

  /** A guest's kernel wrote its disk: what is on it is copied out, never mounted on this machine. */
  async #withFiles<T>(box: LiveBox, work: (still: StillBox) => Promise<T>): Promise<T> {
    const { driver, folders, place, record } = box;
    const still = { driver, folders, place, record };
    if (!driver.files || record.driverState === null) return work(still);
    const scratch = await mkdtemp(join(folders.root, "files-"));
    try {
      const copies = await driver.files.copyOut(place, record.driverState, folders, scratch);
      return await work({ ...still, folders: copies });
    } finally {
      await removeTree(scratch);
    }
  }

  /**
   * Leaves the boxes running, so that the next daemon adopts them. With `mustStop` their processes end;
   * records and files stay, and the next daemon reports them as killed.
   */
  async close(options: { mustStop?: boolean } = {}): Promise<void> {
    if (this.#watch) clearTimeout(this.#watch);
    this.#watch = null;
    await this.#pool.close();
    for (const box of this.#boxes.values()) await box.closeSockets();
    if (!options.mustStop) return;
    const boxes = [...this.#boxes.values()];
    await Promise.all(
      boxes.map(async (box) => {
        await box.driver.destroy(box.place, box.record.driverState);
        if (box.folders.disk) await this.#options.disks?.unmount(box.folders.disk);
      }),
    );
  }

  /** Without a limited disk it takes a walk through all files. */
  async #diskUsage({ driver, folders, record }: LiveBox, which = "any"): Promise<Partial<BoxStats>> {
    const { disks } = this.#options;
    if (driver.files) return {};
    if (folders.disk && disks) return (await disks.usage(folders.disk, record.spec.limits)) ?? {};
    if (which === "limited only") return {};
    return { diskBytes: await diskUsage(folders.workspace, folders.home).catch(() => null) };
  }

  #begin(key: string, spec: ResolvedBoxSpec, specHash: string): LiveBox {
    const driver = this.#options.chooseDriver(spec.minimumIsolation);
    const shape = shapeFor(driver, spec);
    const ready = shape ? this.#pool.take(shape) : null;
    const box = ready ?? this.#blank(key, spec, driver);
    const createdAt = new Date().toISOString();
    if (ready) ready.record = { ...ready.record, key, spec, specHash, phase: "starting", createdAt };
    this.#boxes.set(key, box);
    const { signal } = box.stop;
    box.started = box.inTurn(async () => {
      try {
        if (ready) await claimBox(ready, this.#options);
        else await this.#gate.pass(signal, () => startBox(box, this.#options));
      } catch (error) {
        if (ready && !signal.aborted) return this.#replace(ready, error);
        await this.#remove(box);
        throw signal.aborted ? deletedMeanwhile(key, error) : error;
      }
    });
    box.started.catch(() => undefined); // Each caller of put awaits it; there may be none left.
    return box;
  }

  /** A box of the pool that failed its claim costs its caller only time. */
  async #replace(spoilt: LiveBox, error: unknown): Promise<void> {
    const { key, spec, specHash } = spoilt.record;
    this.#options.log.warn({ err: error, box: key }, "a box of the pool could not be claimed");
    await this.#discard(spoilt);
    this.#boxes.delete(key);
    if (spoilt.stop.signal.aborted) throw deletedMeanwhile(key, error);
    await this.#begin(key, spec, specHash).started;
  }

  #blank(key: string, spec: ResolvedBoxSpec, driver: SandboxDriver): LiveBox {
    const owner = this.#owners?.take() ?? null;
    const record: BoxRecord = {
      ...{ key, spec, specHash: hashSpec(spec), phase: "starting", isPaused: false, driver: driver.name },
      ...{
        driverState: null,
        isolation: null,
        failure: null,
        bootMs: null,
        bootPath: null,
        owner,
        image: null,
      },
      createdAt: new Date().toISOString(),
      layout: this.#options.disks ? "disk" : "folders",
    };
    return new LiveBox(record, driver, this.#options.records.folders(key, owner, record.layout));
  }

  /** Boots a box that belongs to nobody: no caller's key, and in no list. */
  async #bootWaiting(shape: PoolShape, signal: AbortSignal): Promise<LiveBox> {
    const driver = this.#options.drivers.find(({ name }) => name === shape.driver);
    if (!driver) throw new Error(`there is no driver ${shape.driver}`);
    const { template, limits } = shape;
    // Looks like any other key: the box can read it in its first process's arguments.
    const key = `sb-${randomUUID()}`;
    const spec = BoxSpec.parse({ ...waitingSpec, template, limits });
    const box = this.#blank(key, spec, driver);
    box.record = { ...box.record, place: key };
    const stop = () => box.stop.abort(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    try {
      await this.#gate.pass(signal, () => startBox(box, this.#options, "waiting"));
      return box;
    } catch (error) {
      await this.#discard(box);
      throw error;
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  async #adopt(record: BoxRecord, driver: SandboxDriver): Promise<void> {
    const { key, spec, owner, isPaused, layout } = record;
    const box = new LiveBox(record, driver, this.#options.records.folders(placeOf(record), owner, layout));
    this.#boxes.set(key, box);
    await this.#remount(box);
    if (record.phase === "failed") return;
    await this.#look(box, true);
    if (box.record.phase !== "running") return;
    try {
      box.outbound = await this.#options.outbound.open(key, spec, box.folders);
      // A daemon that died while it copied files left the box frozen.
      if (!isPaused) await driver.freezer?.resume(box.place, record.driverState ?? {});
    } catch (error) {
      // The folder of the socket belongs to the box, which may have put anything in its place, and a guest
      // may answer what it likes. That costs the box its life, never the daemon its start.
      const { code, message } = error as NodeJS.ErrnoException;
      const detail = `It could not be taken over from the former host daemon: ${code ?? message}.`;
      await this.#fail(box, { reason: "guest_lost", detail, evidence: {} });
      return;
    }
    this.#options.log.info({ box: key }, "adopted a running box");
  }

  /** After a restart of the machine nothing is mounted; a virtual machine's disk is not mounted at all. */
  async #remount({ folders: { disk }, driver, record }: LiveBox): Promise<void> {
    const { disks, log } = this.#options;
    if (!disk || !disks) return;
    try {
      if (driver.disk === "attached") await disks.mountRun(disk);
      else await disks.mount(disk);
    } catch (error) {
      // Its files cannot be read then, which whoever asks for them is told. Other boxes go on.
      log.error({ err: error, box: record.key }, "the disk of a box could not be mounted");
    }
  }

  async #setPaused(key: string, wanted: boolean): Promise<Box> {
    const box = this.get(key);
    return box.inTurn(async () => {
      if (box.record.phase !== "running") box.assertRunning();
      const { freezer } = box.driver;
      if (!freezer) {
        const message = "Boxes cannot be paused here: the freezer control group is not writable.";
        throw new HostError("INVALID", 501, message);
      }
      const state = box.record.driverState ?? {};
      if (wanted) await freezer.pause(box.place, state);
      else await freezer.resume(box.place, state);
      box.record = { ...box.record, isPaused: wanted };
      await this.#options.records.save(box.record);
      return box.view;
    });
  }

  #scheduleWatch(): void {
    this.#watch = setTimeout(() => {
      const running = [...this.#boxes.values()].filter((box) => box.record.phase === "running");
      void Promise.allSettled(running.map((box) => box.inTurn(() => this.#look(box)))).then((results) => {
        for (const result of results) {
          if (result.status === "rejected")
            this.#options.log.error({ err: result.reason }, "could not look at a box");
        }
        if (this.#watch) this.#scheduleWatch();
      });
    }, 500);
    this.#watch.unref();
  }

  /** Notices the end of a box and keeps its folders for whoever wants the evidence. */
  async #look(box: LiveBox, isFirst = false): Promise<void> {
    const { driverState, phase } = box.record;
    if (phase !== "running") return;
    const found = await box.driver.failure(box.place, driverState ?? {});
    if (found) {
      // It may have ended with this program or its machine: then nothing in the box is to blame.
      const evidence = isFirst ? { ...found.evidence, whileHostWasAway: true } : found.evidence;
      return this.#fail(box, { ...found, evidence });
    }
    await box.driver.balance?.(box.place, box.record.spec);
    if (Date.now() - box.lookedAt < noticeEveryMs) return;
    box.lookedAt = Date.now();
    const stats = await box.driver.stats(box.place, driverState ?? {});
    box.notices.look(box.place, { ...stats, ...(await this.#diskUsage(box, "limited only")) });
  }

  /** Ends what is left of the box and keeps its folders. */
  async #fail(box: LiveBox, found: BoxFailure): Promise<void> {
    const { key, driverState } = box.record;
    const failure: BoxFailure = { ...found, evidence: { ...found.evidence, ...(await said(box)) } };
    box.record = { ...box.record, phase: "failed", isPaused: false, failure };
    await this.#options.records.save(box.record);
    await box.closeSockets();
    await box.driver.destroy(box.place, driverState);
    this.#options.log.warn({ box: key, reason: failure.reason }, "a box failed");
  }

  async #remove(box: LiveBox): Promise<void> {
    await this.#discard(box);
    this.#boxes.delete(box.record.key);
  }

  async #discard(box: LiveBox): Promise<void> {
    await box.closeSockets();
    await this.#obliterate(box.place, box.record);
    if (box.record.owner) this.#owners?.release(box.record.owner.uid);
  }

  async #obliterate(place: string, record: BoxRecord | null): Promise<void> {
    const mine = this.#options.drivers.filter(({ name }) => !record || name === record.driver);
    for (const driver of mine) await driver.destroy(place, record?.driverState ?? null);
    faultPoint("host.box.delete-after-kill");
    const folders = this.#options.records.folders(place, record?.owner ?? null, record?.layout ?? "disk");
    if (folders.disk) await this.#options.disks?.unmount(folders.disk);
    for (const folder of [folders.workspace, folders.home, folders.run, folders.log])
      await removeTree(folder);
    faultPoint("host.box.delete-before-forget");
    await removeTree(folders.root);
  }
}
