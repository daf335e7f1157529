import { isIP } from "node:net";
import { copyFile, lstat, mkdir, readlink, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ResolvedBoxSpec } from "@platform/host-api";
import type { BoxFolders, GuestImage } from "../driver.ts";

/** Ids that every process in a box has, as seen inside. */
export const insideUid = 1000;

const etcOf = (folders: BoxFolders) => join(folders.root, "etc");

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

export function hostsFile(spec: ResolvedBoxSpec): string {
  const linked = spec.links.map((link) => link.hostname).filter((name) => isIP(name) === 0);
  const names = [...new Set(["localhost", spec.hostname, ...linked])];
  return `127.0.0.1 ${names.join(" ")}\n::1 localhost\n`;
}

/** Replaces the box's hosts file at once; a running box sees it, as it has the folder mounted. */
export async function writeHosts(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
  const path = join(etcOf(folders), "hosts");
  await writeFile(`${path}.new`, hostsFile(spec), { mode: 0o644 });
  await rename(`${path}.new`, path);
}

/** Files of /etc that say who and where the box is. */
export function identityFiles(spec: ResolvedBoxSpec): Record<string, string> {
  return {
    passwd:
      `root:x:0:0:root:/root:/usr/sbin/nologin\n` +
      `user:x:${insideUid}:${insideUid}:user:/home/user:/bin/bash\n` +
      `nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n`,
    group: `root:x:0:\nuser:x:${insideUid}:\nnogroup:x:65534:\n`,
    hostname: `${spec.hostname}\n`,
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\n",
    "resolv.conf": "",
  };
}

/** The box's whole /etc: nothing of the machine's own but certificates, alternatives and loader cache. */
export async function writeEtc(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
  const etc = etcOf(folders);
  await mkdir(join(etc, "ssl/certs"), { recursive: true });
  await mkdir(join(etc, "alternatives"), { recursive: true });
  const files: Record<string, string> = {
    ...identityFiles(spec),
    shells: "/bin/sh\n/bin/bash\n",
    profile: "",
    "ld.so.cache": "",
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(etc, name), text, { mode: 0o644 });
  for (const name of ["services", "protocols", "mime.types", "localtime"]) {
    await copyFile(`/etc/${name}`, join(etc, name)).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    });
  }
  await writeHosts(folders, spec);
}

/** `/bin` and its like are links into /usr on a merged system, folders on an older one. */
export async function systemFolders(): Promise<string[]> {
  const args = ["--ro-bind", "/usr", "/usr"];
  for (const name of ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]) {
    const status = await lstat(name).catch(() => null);
    if (status?.isSymbolicLink()) args.push("--symlink", await readlink(name), name);
    else if (status?.isDirectory()) args.push("--ro-bind", name, name);
  }
  return args;
}

/** Files of /proc that tell about the machine rather than about the box. */
async function procMasks(): Promise<string[]> {
  const args: string[] = [];
  for (const file of ["kcore", "keys", "key-users", "timer_list", "sched_debug", "cmdline", "kallsyms"]) {
    if (await exists(`/proc/${file}`)) args.push("--ro-bind", "/dev/null", `/proc/${file}`);
  }
  for (const folder of ["scsi", "acpi", "bus", "irq"]) {
    if (await exists(`/proc/${folder}`)) args.push("--size", "4096", "--tmpfs", `/proc/${folder}`);
  }
  return args;
}

const temporary = (path: string, sizeBytes: number, mode = "1777") => [
  "--perms",
  mode,
  "--size",
  String(Math.floor(sizeBytes)),
  "--tmpfs",
  path,
];

/** Memory that a box's temporary folders may take, of its memory limit. */
const temporaryShare = 0.5;

/** Arguments of bwrap for one box: namespaces, then mounts from the outside in, then environment. */
export async function boxArguments(
  spec: ResolvedBoxSpec,
  folders: BoxFolders,
  image: GuestImage,
): Promise<string[]> {
  const etc = etcOf(folders);
  const mib = 1024 * 1024;
  const args = [
    ..."--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-net --unshare-cgroup-try".split(
      " ",
    ),
    ...["--uid", String(insideUid), "--gid", String(insideUid), "--hostname", spec.hostname],
    ..."--new-session --cap-drop ALL --clearenv".split(" "),
    ...(await systemFolders()),
    ...["--ro-bind", image.toolchain, "/usr/local", "--ro-bind", image.folder, "/opt/agent"],
    ...["--ro-bind", etc, "/etc"],
    ...["--ro-bind-try", "/etc/ssl/certs", "/etc/ssl/certs"],
    ...["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"],
    ...["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"],
    ...["--proc", "/proc", ...(await procMasks())],
    ...["--dev", "/dev", ...temporary("/dev/shm", spec.limits.memoryBytes * temporaryShare)],
    ...temporary("/tmp", spec.limits.memoryBytes * temporaryShare),
    ...temporary("/run", 16 * mib, "0755"),
    ...["--dir", "/var", "--symlink", "/run", "/var/run", ...temporary("/var/tmp", 64 * mib)],
    ...["--bind", folders.workspace, "/workspace", "--bind", folders.home, "/home/user"],
    ...["--bind", folders.run, "/run/agent", "--bind", join(folders.log, "services"), "/var/log/services"],
    ...["--remount-ro", "/dev", "--remount-ro", "/"],
    ...["--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"],
    ...["--setenv", "HOME", "/home/user", "--setenv", "USER", "user", "--setenv", "LANG", "C.UTF-8"],
    ...["--chdir", "/workspace"],
  ];
  return args;
}

export const agentCommand = ["/usr/local/bin/node", "/opt/agent/agent.mjs"];
