import { isIP } from "node:net";
import {
  copyFile,
  lstat,
  lutimes,
  mkdir,
  readdir,
  readlink,
  realpath,
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

/**
 * The box's whole /etc: nothing of the machine's own but certificates, alternatives and loader cache.
 * A box of an image has it at /run/etc, and links to what differs from box to box.
 */
export async function writeEtc(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
  const etc = folders.etc;
  await mkdir(join(etc, "ssl/certs"), { recursive: true });
  await mkdir(join(etc, "alternatives"), { recursive: true });
  const files: Record<string, string> = {
    passwd:
      `root:x:0:0:root:/root:/usr/sbin/nologin\n` +
      `user:x:${insideUid}:${insideUid}:user:/home/user:/bin/bash\n` +
      `nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n`,
    group: `root:x:0:\nuser:x:${insideUid}:\nnogroup:x:65534:\n`,
    hostname: `${spec.hostname}\n`,
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\n",
    "resolv.conf": "",
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
  /** Folder that is the root itself, read-only, with a place for every mount; `null`: the mounts are all there is. */
  readonly root: string | null;
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
export async function systemMounts(): Promise<BoxMount[]> {
  const mounts: BoxMount[] = [bind("/usr", "/usr")];
  for (const path of ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]) {
    const status = await lstat(path).catch(() => null);
    if (status?.isSymbolicLink()) mounts.push({ type: "link", target: path, to: await readlink(path) });
    else if (status?.isDirectory()) mounts.push(bind(path, path));
  }
  return mounts;
}

/** The machine's own system, and what of its /etc that cannot do without. */
async function machineMounts(folders: BoxFolders, image: GuestImage): Promise<BoxMount[]> {
  const mounts = [
    ...(await systemMounts()),
    ...[bind(image.toolchain, "/usr/local"), bind(image.folder, "/opt/agent"), bind(folders.etc, "/etc")],
  ];
  for (const path of ["/etc/ssl/certs", "/etc/alternatives", "/etc/ld.so.cache"])
    if (await exists(path)) mounts.push(bind(path, path));
  return mounts;
}

const trustBundle = "/etc/ssl/certs/ca-certificates.crt";
/** Where a box of an image has the agent's own Node: the image's /usr/local is the image's. */
const imageToolchain = "/opt/node";

/** Boxes reach the outside through this machine, so they trust whom this machine trusts. */
async function imageMounts(image: GuestImage): Promise<BoxMount[]> {
  const mounts = [bind(image.toolchain, imageToolchain), bind(image.folder, "/opt/agent")];
  if (await exists(trustBundle)) mounts.push(bind(await realpath(trustBundle), trustBundle));
  return mounts;
}

/** Memory that a box's temporary folders may take, of its memory limit. */
const temporaryShare = 0.5;

const ownVar: BoxMount[] = [
  { type: "folder", target: "/var" },
  { type: "link", target: "/var/run", to: "/run" },
];

/** From the outside in. */
export async function boxLayout(
  spec: ResolvedBoxSpec,
  folders: BoxFolders,
  image: GuestImage,
): Promise<BoxLayout> {
  const mib = 1024 * 1024;
  const root = image.root?.folder ?? null;
  const share = spec.limits.memoryBytes * temporaryShare;
  const mounts: BoxMount[] = [
    ...(root === null ? await machineMounts(folders, image) : await imageMounts(image)),
    { type: "proc", target: "/proc" },
    { type: "dev", target: "/dev" },
    memory("/dev/shm", share),
    memory("/tmp", share),
    memory("/run", 16 * mib, "0755"),
    ...(root === null ? ownVar : [bind(folders.etc, "/run/etc")]),
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
  return { root, mounts, env, cwd: "/workspace" };
}

/** The Node that runs the agent, as a path in the box. */
export const agentNode = (image: GuestImage): string =>
  `${image.root ? imageToolchain : "/usr/local"}/bin/node`;

export const agentCommand = (image: GuestImage): string[] => [agentNode(image), "/opt/agent/agent.mjs"];
