import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import { createBubblewrapDriver } from "./bubblewrap/bubblewrap.ts";
import type { GuestImage, SandboxDriver } from "./driver.ts";
import { createFirecrackerDriver } from "./firecracker/firecracker.ts";
import { createGvisorDriver } from "./gvisor/gvisor.ts";
import { createQemuDriver } from "./qemu/qemu.ts";

export interface DriverSettings {
  /** Distinguishes this daemon's boxes from another daemon's: letters and digits, equal at every start. */
  readonly tag: string;
  readonly runsAsRoot: boolean;
  readonly image: GuestImage;
  /** Folder of the boxes; each driver that needs one has a folder of its name in it. */
  readonly home: string;
  /** gVisor's runtime, an absolute path; `null`: looked for on `path`. */
  readonly runsc: string | null;
  /** The daemon's PATH. */
  readonly path: string;
  /** Kernel of virtual machines; `null` where none is configured. */
  readonly microvm: string | null;
  /** Absolute paths; `null` where none is configured. */
  readonly firecracker: { readonly firecracker: string | null; readonly jailer: string | null };
}

const realBootMs = 30_000;
/** An emulated machine takes its time, the more so on a busy one. */
const emulatedBootMs = 120_000;

/** Never taken unless HOST_DRIVERS names them: an emulated processor is many times slower. */
const onRequest: readonly string[] = ["qemu"];

const makers = {
  firecracker: (settings: DriverSettings) =>
    createFirecrackerDriver(
      { ...forTrials(settings), ...forMachines(settings), bootTimeoutMs: realBootMs },
      settings.firecracker,
    ),
  gvisor: (settings: DriverSettings) =>
    createGvisorDriver({
      ...forTrials(settings),
      runsc: settings.runsc ?? findProgram("runsc", settings.path),
      folder: join(settings.home, "gvisor"),
    }),
  bubblewrap: (settings: DriverSettings) => createBubblewrapDriver(forTrials(settings)),
  qemu: (settings: DriverSettings) =>
    createQemuDriver({ ...forTrials(settings), ...forMachines(settings), bootTimeoutMs: emulatedBootMs }),
};

function forTrials({ tag, runsAsRoot, image, home }: DriverSettings) {
  const probeOwner = runsAsRoot ? { uid: 199_999, gid: 199_999 } : null;
  return { tag, runsAsRoot, image, scratch: join(home, "probes"), probeOwner };
}

const forMachines = ({ home, microvm }: DriverSettings) => ({
  images: join(home, "microvm"),
  kitFolder: microvm,
});

function findProgram(name: string, path: string): string | null {
  for (const folder of path.split(":").filter((entry) => entry.startsWith("/"))) {
    const file = join(folder, name);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not in this folder; the next one decides.
    }
  }
  return null;
}

/** Every driver there is: one that may make no more boxes still knows how to end those it made. */
export const createDrivers = (settings: DriverSettings): Promise<SandboxDriver[]> =>
  Promise.all(Object.values(makers).map((make) => make(settings)));

/**
 * Drivers that may make new boxes.
 *
 * @param names none means all but those that are only taken on request
 * @throws Error naming those that exist, for a name that does not
 */
export function allowedDrivers(
  drivers: readonly SandboxDriver[],
  names: readonly string[],
): readonly SandboxDriver[] {
  const unknown = names.filter((name) => drivers.every((driver) => driver.name !== name));
  if (unknown.length > 0) {
    const known = drivers.map(({ name }) => name).join(", ");
    throw new Error(`HOST_DRIVERS names ${unknown.join(", ")}; there are ${known}.`);
  }
  return drivers.filter(({ name }) =>
    names.length === 0 ? !onRequest.includes(name) : names.includes(name),
  );
}
