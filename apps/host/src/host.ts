import { createHash } from "node:crypto";
import { lookup } from "node:dns/promises";
import { chmod, mkdir, readdir, rm } from "node:fs/promises";
import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";
import type { Log } from "@platform/daemon";
import type { Doctor } from "@platform/host-api";
import { openArtifactStore } from "@platform/bundle";
import { Artifacts } from "./artifacts/index.ts";
import { Boxes, RecordStore } from "./boxes/index.ts";
import type { HostConfig } from "./config.ts";
import { Disks } from "./disks/index.ts";
import { chooseDriver, strongest, type ProbedDriver } from "./drivers/choice.ts";
import { unmountBelow } from "./drivers/linux/mounts.ts";
import type { SandboxDriver } from "./drivers/driver.ts";
import { allowedDrivers, createDrivers } from "./drivers/registry.ts";
import { createMariadbEngine } from "./engines/mariadb/index.ts";
import { createPostgresEngine } from "./engines/postgres/index.ts";
import { createRedisEngine } from "./engines/redis/index.ts";
import type { SpareSettings } from "./engines/dedicated/spares.ts";
import type { EngineSpec } from "./engines/engine.ts";
import { EngineRegistry } from "./engines/registry.ts";
import { Doors } from "./http/doors.ts";
import { Fences } from "./http/fences.ts";
import { serve } from "./http/server.ts";
import { Images, readRegistries } from "./images/index.ts";
import { forgetNeutralPrograms, neutralPrograms } from "./neutral-programs.ts";
import { canWait, type PoolSettings } from "./pool/index.ts";
import { boxHome, reachableCopy } from "./reachable.ts";
import { dialAsBox, OutboundFactory, type ResolveName } from "./outbound/index.ts";

export interface HostParts {
  readonly config: HostConfig;
  readonly log: Log;
  /** Name look-up for outbound connections; the machine's own when left out. */
  readonly resolveName?: ResolveName;
}

export interface Host {
  readonly port: number;
  /**
   * Stops serving. Databases keep running, and so do boxes unless HOST_STOP_BOXES_ON_EXIT ends them; the
   * next daemon adopts them.
   *
   * @param options.mustKeepBoxes overrides that setting
   */
  close(options?: { mustKeepBoxes?: boolean }): Promise<void>;
}

const resolveByMachine: ResolveName = async (name) =>
  (await lookup(name, { all: true, verbatim: true })).map(({ address }) => address);

async function probeAll(drivers: readonly SandboxDriver[]): Promise<ProbedDriver[]> {
  return Promise.all(
    drivers.map(async (driver) => {
      const probe = await driver.probe(AbortSignal.timeout(120_000));
      const can = [
        ...(driver.freezer ? (["pause"] as const) : []),
        ...(driver.checkpoints ? (["checkpoint"] as const) : []),
      ];
      return { driver, report: { ...probe, can } };
    }),
  );
}

/** @param driver that a sandbox gets when nothing stronger is asked for; `null` where no box can be made */
function poolSettings(config: HostConfig, driver: SandboxDriver | null): PoolSettings {
  const shapes = driver ? config.HOST_POOL_SHAPES.filter(({ template }) => canWait(driver, template)) : [];
  return {
    min: config.HOST_POOL_MIN,
    max: driver === null ? 0 : config.HOST_POOL_MAX,
    lasting: shapes.map((shape) => ({ driver: driver?.name ?? "", ...shape })),
    reserveBytes: config.HOST_POOL_RESERVE_MIB * 1024 * 1024,
  };
}

function spareSettings(config: HostConfig, engine: EngineSpec["engine"]): SpareSettings {
  return {
    min: Math.min(1, config.HOST_SPARES_MAX),
    max: config.HOST_SPARES_MAX,
    lasting: config.HOST_SPARES_SHAPES.filter((shape) => shape.engine === engine),
    reserveBytes: config.HOST_POOL_RESERVE_MIB * 1024 * 1024,
  };
}

async function prepareFolders(root: string): Promise<void> {
  await mkdir(root, { recursive: true });
  // Boxes' own uids pass through on the way to their folders; they cannot list it.
  await chmod(root, 0o711);
  for (const name of ["boxes", "probes", "engines"]) {
    await mkdir(join(root, name), { recursive: true, mode: 0o711 });
  }
  await unmountBelow(join(root, "probes"));
  for (const name of await readdir(join(root, "probes"))) {
    await rm(join(root, "probes", name), { recursive: true, force: true });
  }
}

async function openDisks(home: string, runsAsRoot: boolean, log: Log): Promise<Disks | null> {
  const at = (name: string) => join(home, name);
  const place = { templates: at("disks"), boxes: at("boxes"), scratch: at("probes"), runsAsRoot };
  const { disks, why } = await Disks.open(place);
  if (why !== null) log.warn({ why }, "the disks of boxes are not limited");
  return disks;
}

/** Joins the parts of one host daemon, adopts what a former one left, and serves. */
export async function startHost({ config, log, resolveName = resolveByMachine }: HostParts): Promise<Host> {
  const root = config.HOST_DATA_DIR;
  const runsAsRoot = process.getuid?.() === 0;
  await mkdir(root, { recursive: true });
  const home = boxHome(root);
  await prepareFolders(home);
  const hash = createHash("sha256").update(root).digest();
  const ownerOffset = hash.readUInt16BE(0);
  const programs = {
    folder: await reachableCopy(config.GUEST_IMAGE_DIR, home, runsAsRoot),
    toolchain: await reachableCopy(config.TOOLCHAIN_DIR, home, runsAsRoot),
  };
  const neutral = runsAsRoot ? await neutralPrograms(home, programs, log) : null;
  const image = { root: null, ...(neutral ?? programs) };
  const drivers = await createDrivers({
    ...{ tag: hash.toString("hex", 0, 6), runsAsRoot, image, home },
    ...{ runsc: config.RUNSC_BIN ?? null, path: config.PATH, microvm: config.MICROVM_DIR ?? null },
    firecracker: { firecracker: config.FIRECRACKER_BIN ?? null, jailer: config.JAILER_BIN ?? null },
  });
  const disks = await openDisks(home, runsAsRoot, log);
  const missing = [...(disks ? [] : ["disk limit"]), ...(neutral ? [] : ["hidden folder names"])];
  const probed = (await probeAll(allowedDrivers(drivers, config.HOST_DRIVERS))).map(({ driver, report }) => ({
    driver,
    report: { ...report, missing: [...new Set([...report.missing, ...missing])] },
  }));
  for (const { report } of probed) log.info(report, "probed a sandbox driver");
  const postgres = createPostgresEngine({
    ...{ dataDir: join(root, "engines/postgres"), log, runsAsRoot },
    spares: spareSettings(config, "postgresql"),
  });
  // One authority for all servers of this machine, so that boxes have one to trust.
  const databaseAuthority = await postgres.certificateAuthority();
  const others = { authorityDir: postgres.authorityDir, log, runsAsRoot };
  const engines = new EngineRegistry([
    postgres,
    createMariadbEngine({
      ...{ dataDir: join(root, "engines/mariadb"), ...others },
      spares: spareSettings(config, "mysql"),
    }),
    createRedisEngine({
      ...{ dataDir: join(root, "engines/redis"), ...others },
      spares: spareSettings(config, "redis"),
    }),
  ]);
  const artifacts = new Artifacts(await openArtifactStore(join(root, "artifacts")), join(root, "snapshots"));
  const outbound = new OutboundFactory({ name: resolveName, database: engines.resolve });
  engines.useWay((databaseKey, hostname, port) => dialAsBox(outbound, { databaseKey, hostname, port }));
  const images = new Images({
    folder: boxHome(config.IMAGES_DIR ?? join(home, "images")),
    buildsFolder: join(root, "image-builds"),
    uploadsFolder: join(root, "image-uploads"),
    registries: await readRegistries(config.IMAGE_REGISTRIES),
    ...{ tag: hash.toString("hex", 0, 6), toolchain: image.toolchain, guestFolder: image.folder },
    ...{ outbound, runsAsRoot, log },
    boxes: () => boxes,
  });
  await images.open();
  const boxes: Boxes = new Boxes({
    records: new RecordStore(join(home, "boxes")),
    imageOf: async (template) => ({ ...image, root: await images.resolve(template) }),
    content: artifacts,
    databaseAuthority,
    outbound,
    readyTimeoutMs: 20_000,
    ...{ runsAsRoot, ownerOffset, drivers, disks, missing, log },
    bootConcurrency: config.HOST_BOOT_CONCURRENCY || Math.max(2, availableParallelism()),
    pool: poolSettings(config, strongest(probed)?.driver ?? null),
    chooseDriver: (minimum) => chooseDriver(probed, minimum),
  });
  const doctor = async (): Promise<Doctor> => ({
    hostId: config.HOST_ID,
    runsAsRoot,
    chosen: strongest(probed)?.driver.name ?? null,
    drivers: probed.map(({ report }) => report),
    engines: await engines.report(),
    memoryBytes: totalmem(),
    cores: availableParallelism(),
  });
  await artifacts.recover();
  await boxes.recover();
  await engines.recover();
  const fences = await Fences.open(join(root, "fences"));
  const doors = await Doors.open(join(home, "doors"), boxes, log);
  const server = await serve(
    { services: { boxes, artifacts, engines, images, fences, doors, doctor }, token: config.HOST_TOKEN, log },
    config.HOST_LISTEN_PORT,
  );
  await images.start({ mustBuildDefaults: config.IMAGES_BUILD === "1" });
  log.info({ port: server.port }, "host serves");
  return {
    port: server.port,
    close: async ({ mustKeepBoxes = false } = {}) => {
      await doors.close();
      await server.close();
      await images.close();
      await boxes.close({ mustStop: config.HOST_STOP_BOXES_ON_EXIT === "1" && !mustKeepBoxes });
      await engines.close();
      await forgetNeutralPrograms(home);
    },
  };
}
