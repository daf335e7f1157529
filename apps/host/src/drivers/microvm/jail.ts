import { spawn } from "node:child_process";
import { insideUid, systemMounts } from "../linux/rootfs.ts";

const maxOutput = 64 * 1024;

export interface JailedRun {
  /** Arguments of bwrap that bring in what the program works on. */
  readonly mounts: readonly string[];
  readonly command: readonly string[];
  readonly owner: { readonly uid: number; readonly gid: number } | null;
  readonly signal?: AbortSignal;
}

/** The machine's programs and libraries. */
async function systemArguments(): Promise<string[]> {
  return (await systemMounts()).flatMap((mount) => {
    if (mount.type === "bind") return ["--ro-bind", mount.source, mount.target];
    return mount.type === "link" ? ["--symlink", mount.to, mount.target] : [];
  });
}

/** Namespaces of their own, no rights, no network, the machine's programs read-only. */
export async function jailArguments(mounts: readonly string[]): Promise<string[]> {
  return [
    ..."--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-net --unshare-cgroup-try".split(
      " ",
    ),
    ...["--uid", String(insideUid), "--gid", String(insideUid), "--hostname", "machine"],
    ..."--new-session --cap-drop ALL --clearenv --setenv PATH /usr/bin:/usr/sbin:/bin:/sbin".split(" "),
    ...(await systemArguments()),
    ...["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", ...mounts, "--chdir", "/"],
  ];
}

/**
 * Runs a program on files that a box may have formed, as the box's own uid, which it sees as uid 1000:
 * what it reads or writes as that user belongs to the box's owner outside.
 *
 * @returns what it said on both outputs, at most 64 KiB
 * @throws Error unless it ends with 0
 */
export async function runJailed(run: JailedRun): Promise<string> {
  const args = [...(await jailArguments(run.mounts)), "--die-with-parent", "--", ...run.command];
  const child = spawn("bwrap", args, {
    cwd: "/",
    env: { PATH: "/usr/local/bin:/usr/bin:/bin" },
    stdio: ["ignore", "pipe", "pipe"],
    ...(run.owner ?? {}),
    ...(run.signal ? { signal: run.signal } : {}),
  });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      if (text.length < maxOutput) text += chunk.toString("utf8");
    });
  }
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  if (code !== 0)
    throw new Error(`${run.command[0]} ended with ${String(code)}: ${text.trim().slice(-1000)}`);
  return text;
}
