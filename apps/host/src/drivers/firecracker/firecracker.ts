import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, chown, copyFile, open, rename, rm } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { waitFor } from "@platform/daemon";
import { z } from "zod";
import type { BoxFolders, SandboxDriver } from "../driver.ts";
import { isAlive, killProcess, type ProcessIdentity } from "../linux/processes.ts";
import { dialSocket } from "../linux/socket.ts";
import { ownerOnDisk } from "../microvm/disk.ts";
import { createMicrovmDriver, type MicrovmOptions } from "../microvm/microvm.ts";
import type { MachinePlan, MachineProcesses, Vmm, VmmReport } from "../microvm/vmm.ts";
import { FirecrackerApi } from "./api.ts";
import { chrootOf, furnishChroot, inChroot, machineId } from "./chroot.ts";
import { launchJailer } from "./launch.ts";

const mib = 1024 * 1024;
const guestCid = 3;
/** Port on which the guest's first process waits; apps/guest/microvm/init.c. */
const guestPort = 1024;
const startTimeoutMs = 10_000;
const snapshotTimeoutMs = 120_000;
const maxGreetingBytes = 64;
const refillMs = 1_000;
/** Of the box's own disk, for one second: so that one box leaves the others theirs. */
const diskBytesPerSecond = 256 * mib;
const diskRequestsPerSecond = 20_000;
const entropyBytesPerSecond = 64 * 1024;
/** Firecracker adds a line each minute for as long as the machine runs. */
const maxMetricsBytes = 256 * 1024;

const Instance = z.object({ state: z.enum(["Not started", "Running", "Paused"]) });

export interface FirecrackerPrograms {
  /** Absolute paths; `null` where none is configured. */
  readonly firecracker: string | null;
  readonly jailer: string | null;
}

/** Virtual machines under Firecracker and its jailer: the processor's own virtualisation, one uid a box. */
export function createFirecrackerDriver(
  options: MicrovmOptions,
  programs: FirecrackerPrograms,
): Promise<SandboxDriver> {
  return createMicrovmDriver(new FirecrackerVmm(programs, options.tag), options);
}

export class FirecrackerVmm implements Vmm {
  readonly name = "firecracker";
  readonly overheadBytes = 64 * mib;
  readonly #programs: FirecrackerPrograms;
  readonly #tag: string;
  readonly #answerTimeoutMs: number;

  /** @param answerTimeoutMs most time for one answer of the control interface, snapshots excepted */
  constructor(programs: FirecrackerPrograms, tag: string, answerTimeoutMs = 10_000) {
    this.#programs = programs;
    this.#tag = tag;
    this.#answerTimeoutMs = answerTimeoutMs;
  }

  async report(signal: AbortSignal): Promise<VmmReport> {
    const { firecracker, jailer } = this.#found();
    if (process.getuid?.() !== 0) throw new Error("Only root can start the jailer. Run the host as root.");
    for (const program of [firecracker, jailer]) {
      await access(program, constants.X_OK).catch((cause: unknown) => {
        throw new Error(`${program} is not a program that can be run.`, { cause });
      });
    }
    await access("/dev/kvm", constants.R_OK | constants.W_OK).catch((cause: unknown) => {
      throw new Error("/dev/kvm cannot be used. Switch on virtualisation or use another machine.", { cause });
    });
    const { stdout } = await promisify(execFile)(firecracker, ["--version"], { signal });
    return { level: "microvm-hw", version: /v?(\d+\.\d+\S*)/.exec(stdout)?.[1] ?? "unknown", missing: [] };
  }

  async start(plan: MachinePlan, signal: AbortSignal): Promise<MachineProcesses> {
    const programs = this.#found();
    await furnishChroot(plan, programs.firecracker);
    const monitor = await launchJailer(plan, programs);
    try {
      await this.#untilServing(plan.folders, monitor, signal);
      if (plan.from === null) await this.#boot(plan);
      else await this.#load(plan.folders);
      return { supervisor: monitor, init: monitor };
    } catch (error) {
      await killProcess(monitor);
      throw error;
    }
  }

  async dial(folders: BoxFolders): Promise<Socket> {
    const socket = await dialSocket(join(this.#root(folders), inChroot.vsock));
    try {
      socket.write(`CONNECT ${guestPort}\n`);
      await greeting(socket);
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  async pause(folders: BoxFolders): Promise<void> {
    await this.#setState(folders, "Paused");
  }

  async resume(folders: BoxFolders): Promise<void> {
    await this.#setState(folders, "Resumed");
  }

  async save(folders: BoxFolders, _processes: MachineProcesses, into: string): Promise<void> {
    const body = { snapshot_type: "Full", snapshot_path: inChroot.state, mem_file_path: inChroot.memory };
    const root = this.#root(folders);
    // A restored machine maps the memory that it came from: the name is freed, the file stays.
    for (const name of [inChroot.state, inChroot.memory]) await rm(join(root, name), { force: true });
    await this.#api(folders).send("PUT", "/snapshot/create", body, snapshotTimeoutMs);
    for (const name of [inChroot.state, inChroot.memory]) {
      await move(join(root, name), join(into, name));
      // Copies map it: no box's user may own what another one reads.
      if (process.getuid?.() === 0) await chown(join(into, name), 0, 0);
    }
  }

  async tend(folders: BoxFolders): Promise<void> {
    const path = join(this.#root(folders), inChroot.metrics);
    // Its owner is the box's user, who may have put a link in its place.
    const file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
      () => null,
    );
    if (!file) return;
    try {
      const found = await file.stat();
      if (found.isFile() && found.size > maxMetricsBytes) await file.truncate(0);
    } finally {
      await file.close();
    }
  }

  async forget(): Promise<void> {
    // Its folder lies in the box's own, and the jailer's mounts end with its process.
  }

  #found(): { firecracker: string; jailer: string } {
    const { firecracker, jailer } = this.#programs;
    if (firecracker === null || jailer === null) {
      throw new Error("No programs are configured. Set FIRECRACKER_BIN and JAILER_BIN to their paths.");
    }
    return { firecracker, jailer };
  }

  #root(folders: BoxFolders): string {
    return chrootOf(folders, this.#found().firecracker);
  }

  #api(folders: BoxFolders): FirecrackerApi {
    return new FirecrackerApi(join(this.#root(folders), this.#socketName(folders)), this.#answerTimeoutMs);
  }

  /** Named like the argument by which the process is found. */
  #socketName(folders: BoxFolders): string {
    return `box.${this.#tag}.${machineId(folders)}`;
  }

  async #untilServing(folders: BoxFolders, monitor: ProcessIdentity, signal: AbortSignal): Promise<void> {
    await waitFor(
      "Firecracker to serve its control socket",
      async () => {
        signal.throwIfAborted();
        if (!(await isAlive(monitor))) throw new Error("Firecracker ended at once; its output says why.");
        return this.#state(folders).catch(() => undefined);
      },
      startTimeoutMs,
    );
  }

  async #boot(plan: MachinePlan): Promise<void> {
    const api = this.#api(plan.folders);
    const { shape, folders } = plan;
    const words = shape ? `box.owner=${ownerOnDisk(folders)}` : "box.probe";
    await api.send("PUT", "/metrics", { metrics_path: inChroot.metrics });
    await api.send("PUT", "/machine-config", {
      vcpu_count: plan.cores,
      mem_size_mib: plan.memoryBytes / mib,
      smt: false,
      track_dirty_pages: false,
    });
    await api.send("PUT", "/boot-source", {
      kernel_image_path: inChroot.kernel,
      initrd_path: inChroot.initrd,
      boot_args: `console=ttyS0 loglevel=4 reboot=k panic=-1 pci=off 8250.nr_uarts=1 box.port=vsock ${words}`,
    });
    if (shape) {
      await api.send("PUT", "/drives/root", drive("root", inChroot.root, true));
      await api.send("PUT", "/drives/tools", drive("tools", inChroot.tools, true));
      await api.send("PUT", "/drives/box", drive("box", inChroot.box, false));
    }
    await api.send("PUT", "/vsock", { guest_cid: guestCid, uds_path: inChroot.vsock });
    await api.send("PUT", "/entropy", { rate_limiter: entropyLimit });
    await api.send("PUT", "/balloon", { amount_mib: 0, deflate_on_oom: true, free_page_reporting: true });
    await api.send("PUT", "/actions", { action_type: "InstanceStart" });
  }

  /** Loaded paused: the guest goes on only once the host is ready to tell it who it is. */
  async #load(folders: BoxFolders): Promise<void> {
    const api = this.#api(folders);
    await api.send("PUT", "/metrics", { metrics_path: inChroot.metrics });
    const body = {
      snapshot_path: inChroot.state,
      mem_backend: { backend_type: "File", backend_path: inChroot.memory },
      resume_vm: false,
      vsock_override: { uds_path: inChroot.vsock },
      clock_realtime: true,
    };
    await api.send("PUT", "/snapshot/load", body, snapshotTimeoutMs);
  }

  async #state(folders: BoxFolders): Promise<z.output<typeof Instance>["state"]> {
    return Instance.parse(await this.#api(folders).send("GET", "/")).state;
  }

  /** Firecracker refuses what is so already, and a call may be repeated after a crash. */
  async #setState(folders: BoxFolders, wanted: "Paused" | "Resumed"): Promise<void> {
    const there = wanted === "Paused" ? "Paused" : "Running";
    if ((await this.#state(folders)) === there) return;
    await this.#api(folders).send("PATCH", "/vm", { state: wanted });
  }
}

const drive = (id: string, path: string, isReadOnly: boolean) => ({
  drive_id: id,
  path_on_host: path,
  // The initial root mounts them by their order.
  is_root_device: false,
  is_read_only: isReadOnly,
  cache_type: isReadOnly ? "Unsafe" : "Writeback",
  ...(isReadOnly ? {} : { rate_limiter: boxDiskLimit }),
});

/** The machine's own generator serves all boxes. */
const entropyLimit = { bandwidth: { size: entropyBytesPerSecond, refill_time: refillMs } };

const boxDiskLimit = {
  bandwidth: { size: diskBytesPerSecond, refill_time: refillMs },
  ops: { size: diskRequestsPerSecond, refill_time: refillMs },
};

/** Reads the line with which Firecracker says that the guest accepted; what follows stays unread. */
function greeting(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = Buffer.alloc(0);
    const done = () => socket.off("data", onData).off("close", refused).off("end", refused).setTimeout(0);
    const refused = () => {
      done();
      reject(new Error("the guest does not listen yet"));
    };
    const onData = (chunk: Buffer) => {
      seen = Buffer.concat([seen, chunk]);
      const end = seen.indexOf("\n");
      if (end < 0 && seen.length <= maxGreetingBytes) return;
      if (!seen.toString("latin1").startsWith("OK ")) return refused();
      done();
      socket.pause();
      if (seen.length > end + 1) socket.unshift(seen.subarray(end + 1));
      resolve();
    };
    socket.setTimeout(startTimeoutMs, refused);
    socket.on("data", onData).on("close", refused).on("end", refused);
  });
}

async function move(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
    await copyFile(from, to);
    await rm(from);
  }
}
