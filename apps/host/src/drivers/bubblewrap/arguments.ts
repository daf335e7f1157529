import { stat } from "node:fs/promises";
import type { ResolvedBoxSpec } from "@platform/host-api";
import { insideUid, type BoxLayout, type BoxMount } from "../linux/rootfs.ts";

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

/**
 * Files of /proc that tell about the machine or its other boxes: their disks, boot command and keys.
 * `1/cmdline` is the box's first process, whose arguments are the host's.
 */
const maskedFiles =
  "kcore keys key-users timer_list sched_debug cmdline kallsyms diskstats partitions swaps locks 1/cmdline";
const maskedFolders = "scsi acpi bus irq fs/ext4 fs/jbd2 fs/xfs fs/btrfs fs/nfsd";

async function procMasks(): Promise<string[]> {
  const args: string[] = [];
  for (const file of maskedFiles.split(" ")) {
    if (await exists(`/proc/${file}`)) args.push("--ro-bind", "/dev/null", `/proc/${file}`);
  }
  for (const folder of maskedFolders.split(" ")) {
    if (await exists(`/proc/${folder}`)) args.push("--size", "4096", "--tmpfs", `/proc/${folder}`);
  }
  return args;
}

async function mountArguments(mount: BoxMount): Promise<string[]> {
  const { type, target } = mount;
  if (type === "bind") return [mount.isWritable ? "--bind" : "--ro-bind", mount.source, target];
  if (type === "link") return ["--symlink", mount.to, target];
  if (type === "folder") return ["--dir", target];
  if (type === "proc") return ["--proc", target, ...(await procMasks())];
  if (type === "dev") return ["--dev", target];
  return ["--perms", mount.mode, "--size", String(mount.sizeBytes), "--tmpfs", target];
}

/** Arguments of bwrap for one box: namespaces, then mounts, then environment. */
export async function boxArguments(spec: ResolvedBoxSpec, layout: BoxLayout): Promise<string[]> {
  const namespaces =
    "--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-net --unshare-cgroup-try";
  const mounts = await Promise.all(layout.mounts.map(mountArguments));
  return [
    ...namespaces.split(" "),
    ...["--uid", String(insideUid), "--gid", String(insideUid), "--hostname", spec.hostname],
    ..."--new-session --cap-drop ALL --clearenv".split(" "),
    ...(layout.root === null ? [] : ["--ro-bind", layout.root, "/"]),
    ...mounts.flat(),
    ...["--remount-ro", "/dev", "--remount-ro", "/"],
    ...Object.entries(layout.env).flatMap(([name, value]) => ["--setenv", name, value]),
    ...["--chdir", layout.cwd],
  ];
}
