import type { Duplex } from "node:stream";
import type { IsolationClass } from "@platform/host-api";
import type { BoxFolders } from "../driver.ts";
import type { ProcessIdentity } from "../linux/processes.ts";
import type { MicrovmKit } from "./kit.ts";

/** What one machine is made of. A copy of it needs all of this to be the same. */
export interface MachineShape {
  /** Memory of the guest, in bytes: a multiple of 1 MiB. */
  readonly memoryBytes: number;
  readonly cores: number;
  /** Room on the box's own disk. */
  readonly diskBytes: number;
  /** Paths of the read-only disks. */
  readonly rootDisk: string;
  readonly toolsDisk: string;
}

export interface MachinePlan {
  readonly key: string;
  readonly kit: MicrovmKit;
  readonly folders: BoxFolders;
  /** `null` boots process 1 alone, without disks. */
  readonly shape: MachineShape | null;
  readonly memoryBytes: number;
  readonly cores: number;
  /** Argument by which the processes of this machine are found again. */
  readonly marker: string;
  /** Folder with the saved state that the machine goes on from; `null` boots it. */
  readonly from: string | null;
  /** Runs before the monitor's first instruction: the place to join control groups. */
  readonly beforeExec: (pid: number) => Promise<void>;
}

export interface MachineProcesses {
  readonly supervisor: ProcessIdentity;
  readonly init: ProcessIdentity;
}

export interface VmmReport {
  readonly level: IsolationClass;
  readonly version: string;
  readonly missing: readonly string[];
}

/** The program that emulates one machine. Everything above it is the same for all of them. */
export interface Vmm {
  readonly name: "qemu" | "firecracker";
  /** Memory that the monitor itself may take besides the guest's, in bytes. */
  readonly overheadBytes: number;
  /** @throws Error that says what to install or allow */
  report(signal: AbortSignal): Promise<VmmReport>;
  /**
   * Starts the machine; a restored one is left paused.
   *
   * @throws Error when the monitor refuses; nothing of it runs then
   */
  start(plan: MachinePlan, signal: AbortSignal): Promise<MachineProcesses>;
  /** The one stream to the guest's first process; it may not listen yet. */
  dial(folders: BoxFolders): Promise<Duplex>;
  /** Both may be repeated. */
  pause(folders: BoxFolders): Promise<void>;
  resume(folders: BoxFolders): Promise<void>;
  /** Writes memory and devices of a paused machine into the folder `into`; it stays paused. */
  save(folders: BoxFolders, processes: MachineProcesses, into: string): Promise<void>;
  /** Now and then while the machine runs: keeps what the monitor writes within bounds. */
  tend?(folders: BoxFolders): Promise<void>;
  /** Removes what the monitor keeps outside the box's own folder. */
  forget(key: string): Promise<void>;
}
