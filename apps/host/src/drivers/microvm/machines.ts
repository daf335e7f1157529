import { chown, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { ResolvedBoxSpec } from "@platform/host-api";
import type { BoxFolders } from "../driver.ts";
import type { Cgroups } from "../linux/cgroups.ts";
import { isAlive } from "../linux/processes.ts";
import { consoleTail, explainEnd } from "./console.ts";
import type { MicrovmKit } from "./kit.ts";
import type { Session } from "./session.ts";
import type { Sessions } from "./sessions.ts";
import { guestSettings } from "./settings.ts";
import type { MachineProcesses, MachineShape, Vmm } from "./vmm.ts";

const mib = 1024 * 1024;
const trialMemoryBytes = 128 * mib;

/** Argument by which the processes of one daemon's machine are found again. */
export const markerOf = (tag: string, key: string): string => `box.${tag}.${key}`;

interface MachineParts {
  readonly vmm: Vmm;
  readonly cgroups: Cgroups;
  readonly sessions: Sessions;
}

interface Beginning {
  /** `null` boots process 1 alone, without disks. */
  readonly shape: MachineShape | null;
  /** Folder with the saved state that it goes on from; `null` boots it. */
  readonly from: string | null;
}

/** Switches machines on and tells each who it is. */
export class Machines {
  readonly #parts: MachineParts;
  readonly #tag: string;
  readonly #bootTimeoutMs: number;

  constructor(parts: MachineParts, options: { readonly tag: string; readonly bootTimeoutMs: number }) {
    this.#parts = parts;
    this.#tag = options.tag;
    this.#bootTimeoutMs = options.bootTimeoutMs;
  }

  /** Under its limits from the monitor's first instruction; a restored machine stands still. */
  async power(
    key: string,
    folders: BoxFolders,
    kit: MicrovmKit,
    { shape, from }: Beginning,
    signal: AbortSignal,
  ): Promise<MachineProcesses> {
    signal.throwIfAborted();
    const { vmm, cgroups } = this.#parts;
    const memoryBytes = shape?.memoryBytes ?? trialMemoryBytes;
    const cores = shape?.cores ?? 1;
    await mkdir(join(folders.root, "vm"), { recursive: true, mode: 0o700 });
    if (folders.owner) await chown(join(folders.root, "vm"), folders.owner.uid, folders.owner.gid);
    await cgroups.create(key, {
      memoryBytes: memoryBytes + vmm.overheadBytes,
      // The kernel's own boot is not the box's.
      cpuMillis: cores * 1000,
      maxProcesses: 64 + cores * 4,
      diskBytes: mib,
    });
    const plan = { key, kit, folders, shape, memoryBytes, cores, from, marker: markerOf(this.#tag, key) };
    return vmm.start({ ...plan, beforeExec: (pid) => cgroups.join(key, pid) }, signal);
  }

  /** @throws Error when the machine ends or stays silent */
  async untilGreeted(
    key: string,
    folders: BoxFolders,
    processes: MachineProcesses,
    signal: AbortSignal,
  ): Promise<Session> {
    const { cgroups, sessions } = this.#parts;
    const timeout = AbortSignal.any([signal, AbortSignal.timeout(this.#bootTimeoutMs)]);
    for (;;) {
      timeout.throwIfAborted();
      if (!(await isAlive(processes.init))) {
        const end = explainEnd(await consoleTail(folders), (await cgroups.oomKills(key)) ?? 0, {});
        throw new Error(end.detail);
      }
      try {
        const session = await sessions.get(key, folders);
        await session.greeted(AbortSignal.any([timeout, AbortSignal.timeout(1_000)]));
        return session;
      } catch {
        // The guest still boots. A vsock is refused until it listens; a port just stays silent.
        signal.throwIfAborted();
        await delay(20);
      }
    }
  }

  /**
   * Tells a machine who it is; one that was saved lets its programs go on only then.
   *
   * @returns its kernel
   */
  async introduce(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    processes: MachineProcesses,
    isPaused: boolean,
    signal: AbortSignal,
  ): Promise<string> {
    if (isPaused) await this.#parts.vmm.resume(folders);
    const session = await this.untilGreeted(key, folders, processes, signal);
    session.sendSettings(await guestSettings(spec, folders));
    const timeout = AbortSignal.any([signal, AbortSignal.timeout(this.#bootTimeoutMs)]);
    const kernel = await session.call("setup", Buffer.alloc(0), timeout);
    await this.#parts.cgroups.limitCpu(key, spec.limits.cpuMillis);
    return kernel;
  }
}
