import { execFile } from "node:child_process";
import { createReadStream, createWriteStream } from "node:fs";
import { access, constants, readFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { waitFor } from "@platform/daemon";
import { z } from "zod";
import type { BoxFolders, SandboxDriver } from "../driver.ts";
import { launchBox } from "../linux/launch.ts";
import { killProcess, type ProcessIdentity } from "../linux/processes.ts";
import { consolePath } from "../microvm/console.ts";
import { copyDisk } from "../microvm/disk.ts";
import { dialSocket } from "../linux/socket.ts";
import { listenIn } from "../microvm/listen.ts";
import { jailArguments } from "../microvm/jail.ts";
import { createMicrovmDriver, type MicrovmOptions } from "../microvm/microvm.ts";
import type { MachinePlan, MachineProcesses, Vmm, VmmReport } from "../microvm/vmm.ts";
import { inJail, jailMounts, qemuArguments, type Accelerator } from "./arguments.ts";
import { fillMemory, guestMemory } from "./memory.ts";
import { Qmp } from "./qmp.ts";

const program = "qemu-system-x86_64";
const installLine = "Install it with: apt-get install --no-install-recommends qemu-system-x86";
const mib = 1024 * 1024;
const answerTimeoutMs = 30_000;
const transferTimeoutMs = 120_000;
/** Devices of a saved machine; its memory lies in a sparse file beside it. */
const stateFile = "qemu-state";
const memoryFile = "memory.img";
/** The guest's memory is left out of the stream of devices, as the host copies it by itself. */
const withoutMemory = { capabilities: [{ capability: "x-ignore-shared", state: true }] };

const MigrationStatus = z.object({ status: z.string().optional(), "error-desc": z.string().optional() });

/** Virtual machines under QEMU: by the processor where that works, else emulated. */
export function createQemuDriver(options: MicrovmOptions): Promise<SandboxDriver> {
  return createMicrovmDriver(new QemuVmm(), options);
}

class QemuVmm implements Vmm {
  readonly name = "qemu";
  readonly overheadBytes = 320 * mib;
  #accelerator: Accelerator | null = null;

  async report(signal: AbortSignal): Promise<VmmReport> {
    const version = await promisify(execFile)(program, ["--version"], { signal })
      .then(({ stdout }) => /version (\S+)/.exec(stdout)?.[1] ?? "unknown")
      .catch((cause: unknown) => {
        throw new Error(`${program} is not installed. ${installLine}`, { cause });
      });
    this.#accelerator ??= await chooseAccelerator();
    const isReal = this.#accelerator === "kvm";
    return {
      version,
      level: isReal ? "microvm-hw" : "microvm-emulated",
      missing: isReal ? [] : ["processor's own virtualisation (emulated)"],
    };
  }

  async start(plan: MachinePlan, signal: AbortSignal): Promise<MachineProcesses> {
    const accelerator = (this.#accelerator ??= await chooseAccelerator());
    const { supervisor, init } = await launchBox({
      bwrap: "bwrap",
      args: await jailArguments(jailMounts(plan, accelerator)),
      command: [program, ...qemuArguments(plan, accelerator)],
      marker: plan.marker,
      filter: null, // QEMU installs its own.
      owner: plan.folders.owner,
      logFile: consolePath(plan.folders),
      beforeExec: plan.beforeExec,
    });
    try {
      if (plan.from !== null) await this.#load(plan, plan.from, init, signal);
      return { supervisor, init };
    } catch (error) {
      await killProcess(supervisor);
      throw error;
    }
  }

  dial(folders: BoxFolders) {
    return dialSocket(join(folders.root, "vm/port.sock"));
  }

  async pause(folders: BoxFolders): Promise<void> {
    await this.#control(folders, (qmp) => qmp.run("stop"));
  }

  async resume(folders: BoxFolders): Promise<void> {
    await this.#control(folders, (qmp) => qmp.run("cont"));
  }

  /** QEMU connects to a socket of ours, so that it needs no file of the host's. */
  async save(folders: BoxFolders, { init }: MachineProcesses, into: string): Promise<void> {
    const { promise: written, resolve, reject } = Promise.withResolvers<void>();
    written.catch(() => undefined); // Awaited below.
    const close = await listenIn(join(folders.root, "vm"), "save.sock", (socket) => {
      pipeline(socket, createWriteStream(join(into, stateFile), { mode: 0o600 })).then(resolve, reject);
    });
    try {
      await this.#control(folders, async (qmp) => {
        await qmp.run("migrate-set-capabilities", withoutMemory);
        await qmp.run("migrate-set-parameters", { "max-bandwidth": 0 });
        await qmp.run("migrate", { uri: `unix:${inJail.sockets}/save.sock` });
        await untilMigrated(qmp);
      });
      await written;
    } finally {
      await close();
    }
    await copyDisk(await guestMemory(init), join(into, memoryFile));
  }

  async forget(): Promise<void> {
    // Everything of it lies in the box's own folder.
  }

  async #load(plan: MachinePlan, from: string, init: ProcessIdentity, signal: AbortSignal): Promise<void> {
    const { folders } = plan;
    await this.#control(folders, async (qmp) => {
      await fillMemory(join(from, memoryFile), await guestMemory(init), plan.beforeExec, signal);
      await qmp.run("migrate-set-capabilities", withoutMemory);
      await qmp.run("migrate-incoming", { uri: `unix:${inJail.sockets}/load.sock` });
      const socket = await dialSocket(join(folders.root, "vm/load.sock"));
      await pipeline(createReadStream(join(from, stateFile)), socket, { signal });
      await untilMigrated(qmp);
    });
  }

  async #control<T>(folders: BoxFolders, work: (qmp: Qmp) => Promise<T>): Promise<T> {
    // It makes the socket a little after it was started.
    const socket = await waitFor(
      "QEMU to accept its control connection",
      () => dialSocket(join(folders.root, "vm/qmp.sock")).catch(() => undefined),
      answerTimeoutMs,
    );
    const qmp = await Qmp.over(socket, answerTimeoutMs);
    try {
      return await work(qmp);
    } finally {
      qmp.close();
    }
  }
}

async function untilMigrated(qmp: Qmp): Promise<void> {
  await waitFor(
    "the machine's state to be transferred",
    async () => {
      const { status, ...rest } = MigrationStatus.parse(await qmp.run("query-migrate"));
      if (status === "failed" || status === "cancelled") {
        throw new Error(`QEMU could not transfer the machine's state: ${rest["error-desc"] ?? status}`);
      }
      return status === "completed";
    },
    transferTimeoutMs,
  );
}

/**
 * The processor's virtualisation, where it has one that this process may use. A machine that is a guest of
 * a kind that runs only kernels made for it has /dev/kvm too, but none of the processor's flags.
 */
async function chooseAccelerator(): Promise<Accelerator> {
  const flags = /^flags\s*:(.*)$/m.exec(await readFile("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
  if (!flags.includes("vmx") && !flags.includes("svm")) return "tcg";
  return access("/dev/kvm", constants.R_OK | constants.W_OK).then(
    () => "kvm" as const,
    () => "tcg" as const,
  );
}
