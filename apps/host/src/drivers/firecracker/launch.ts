import { spawn } from "node:child_process";
import { closeSync, constants, openSync } from "node:fs";
import type { Writable } from "node:stream";
import { identify, killProcess, type ProcessIdentity } from "../linux/processes.ts";
import { consolePath } from "../microvm/console.ts";
import type { MachinePlan } from "../microvm/vmm.ts";
import { chrootBase, machineId } from "./chroot.ts";

/** A shell that waits for a line, so that limits are in force before the jailer's first instruction. */
const gate = 'read -r _ <&3 && exec "$0" "$@" 3<&-';
const maxOpenFiles = 1024;
const mib = 1024 * 1024;

/** The largest file that the monitor writes: the box's disk with its tables, or the memory of a snapshot. */
const largestFileBytes = ({ shape, memoryBytes }: MachinePlan): number =>
  Math.ceil(Math.max(memoryBytes, (shape?.diskBytes ?? 0) * 1.1) / mib + 64) * mib;

/** @param socket name of the control socket in the machine's folder; also marks the process */
export function jailerArguments(plan: MachinePlan, firecracker: string, socket: string): string[] {
  const { owner } = plan.folders;
  if (!owner) throw new Error("Only root can start the jailer.");
  return [
    ...["--id", machineId(plan.folders), "--exec-file", firecracker],
    ...["--uid", String(owner.uid), "--gid", String(owner.gid)],
    ...["--chroot-base-dir", chrootBase(plan.folders)],
    ...["--resource-limit", `no-file=${maxOpenFiles}`],
    ...["--resource-limit", `fsize=${largestFileBytes(plan)}`],
    ...["--", "--api-sock", socket],
  ];
}

/**
 * Starts the jailer in a network namespace of its own, which has no interface, detached from this daemon.
 * It becomes Firecracker without another process, so one identity stands for all.
 *
 * @throws Error when nothing could be started
 */
export async function launchJailer(
  plan: MachinePlan,
  programs: { readonly jailer: string; readonly firecracker: string },
): Promise<ProcessIdentity> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | constants.O_NOFOLLOW;
  const log = openSync(consolePath(plan.folders), flags, 0o600);
  const jailer = [programs.jailer, ...jailerArguments(plan, programs.firecracker, plan.marker)];
  const child = spawn("/bin/sh", ["-c", gate, "unshare", "--net", "--ipc", "--uts", "--", ...jailer], {
    detached: true,
    cwd: "/",
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
    stdio: ["ignore", log, log, "pipe"],
  });
  closeSync(log);
  const start = child.stdio[3] as Writable;
  start.on("error", () => undefined); // The end of the process tells why.
  child.on("error", () => undefined);
  child.unref();
  try {
    const identity = child.pid === undefined ? null : await identify(child.pid);
    if (!identity) throw new Error("The jailer could not be started.");
    try {
      await plan.beforeExec(identity.pid);
      start.end("\n");
      return identity;
    } catch (error) {
      await killProcess(identity);
      throw error;
    }
  } finally {
    (start as unknown as { unref?: () => void }).unref?.();
  }
}
