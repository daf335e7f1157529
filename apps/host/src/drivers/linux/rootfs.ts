import { isIP } from "node:net";
import {
  copyFile,
  lstat,
  lutimes,
  mkdir,
  readdir,
  readlink,
  rename,
  stat,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import type { ResolvedBoxSpec } from "@platform/host-api";
import type { BoxFolders, GuestImage } from "../driver.ts";

/** Ids that every process in a box has, as seen inside. */
export const insideUid = 1000;

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
  const path = join(folders.etc, "hosts");
  await writeFile(`${path}.new`, hostsFile(spec), { mode: 0o644 });
  await rename(`${path}.new`, path);
}

/** Gives a box that nobody used yet another host name; its files look as old as the name. */
export async function renameEtc(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
  const etc = folders.etc;
  await writeFile(join(etc, "hostname"), `${spec.hostname}\n`, { mode: 0o644 });
  await writeHosts(folders, spec);
  const now = new Date();
  const names = await readdir(etc, { recursive: true });
  await Promise.all([etc, ...names.map((name) => join(etc, name))].map((path) => lutimes(path, now, now)));
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
  const { etc } = folders;
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

/** One thing that a box's root is made of. Later ones lie over earlier ones. */
export type BoxMount =
  | { readonly type: "bind"; readonly source: string; readonly target: string; readonly isWritable: boolean }
  /** Held in memory, at the cost of the box's limit. `mode` is octal text, such as "1777". */
  | { readonly type: "memory"; readonly target: string; readonly sizeBytes: number; readonly mode: string }
  | { readonly type: "link"; readonly target: string; readonly to: string }
  | { readonly type: "folder"; readonly target: string }
  /** The kernel's own, for this box alone. */
  | { readonly type: "proc"; readonly target: string }
  | { readonly type: "dev"; readonly target: string };

/** What a box is made of, whatever the driver: its root is read-only but for what is listed here. */
export interface BoxLayout {
  readonly mounts: readonly BoxMount[];
  /** Environment of the agent; programs in the box get theirs from the agent. */
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
}

const bind = (source: string, target: string, isWritable = false): BoxMount => ({
  ...{ type: "bind", source, target, isWritable },
});
const memory = (target: string, sizeBytes: number, mode = "1777"): BoxMount => ({
  ...{ type: "memory", target, sizeBytes: Math.floor(sizeBytes), mode },
});

/** `/bin` and its like are links into /usr on a merged system, folders on an older one. */
export async function systemMounts(root: string): Promise<BoxMount[]> {
  const mounts: BoxMount[] = [bind(join(root, "usr"), "/usr")];
  for (const target of ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]) {
    const source = join(root, target);
    const status = await lstat(source).catch(() => null);
    if (status?.isSymbolicLink()) mounts.push({ type: "link", target, to: await readlink(source) });
    else if (status?.isDirectory()) mounts.push(bind(source, target));
  }
  return mounts;
}

/** What of the machine's /etc the system in /usr cannot do without. */
async function systemSettings(root: string): Promise<BoxMount[]> {
  const mounts: BoxMount[] = [];
  for (const target of ["/etc/ssl/certs", "/etc/alternatives", "/etc/ld.so.cache"]) {
    const source = join(root, target);
    if (await exists(source)) mounts.push(bind(source, target));
  }
  return mounts;
}

/** Memory that a box's temporary folders may take, of its memory limit. */
const temporaryShare = 0.5;

/** From the outside in. */
export async function boxLayout(
  spec: ResolvedBoxSpec,
  folders: BoxFolders,
  image: GuestImage,
): Promise<BoxLayout> {
  const mib = 1024 * 1024;
  const root = image.root?.folder ?? "/";
  const share = spec.limits.memoryBytes * temporaryShare;
  const mounts: BoxMount[] = [
    ...(await systemMounts(root)),
    bind(image.toolchain, "/usr/local"),
    bind(image.folder, "/opt/agent"),
    bind(folders.etc, "/etc"),
    ...(await systemSettings(root)),
    { type: "proc", target: "/proc" },
    { type: "dev", target: "/dev" },
    memory("/dev/shm", share),
    memory("/tmp", share),
    memory("/run", 16 * mib, "0755"),
    { type: "folder", target: "/var" },
    { type: "link", target: "/var/run", to: "/run" },
    memory("/var/tmp", 64 * mib),
    bind(folders.workspace, "/workspace", true),
    bind(folders.home, "/home/user", true),
    bind(folders.run, "/run/agent", true),
    bind(folders.serviceLogs, "/var/log/services", true),
  ];
  const env = {
    PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    ...{ HOME: "/home/user", USER: "user", LANG: "C.UTF-8" },
  };
  return { mounts, env, cwd: "/workspace" };
}

export const agentCommand = ["/usr/local/bin/node", "/opt/agent/agent.mjs"];
