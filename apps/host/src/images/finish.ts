import { chmod, cp, lstat, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

/** Where the drivers mount things; a read-only root must have these folders. */
const folders: readonly (readonly [string, number])[] = [
  ...["/dev", "/proc", "/sys", "/run", "/etc", "/root", "/mnt"].map((path) => [path, 0o755] as const),
  ["/tmp", 0o1777],
  ["/var/tmp", 0o1777],
  ["/workspace", 0o755],
  ["/home/user", 0o755],
  ["/opt/agent", 0o755],
  ["/opt/node", 0o755],
  ["/var/log/services", 0o755],
  ["/etc/ssl/certs", 0o755],
  // Some drivers make their mounts in the tree itself, so also inside of what is then covered.
  ...["/sys/fs/cgroup", "/run/agent", "/run/etc", "/run/init", "/dev/shm"].map(
    (path) => [path, 0o755] as const,
  ),
];

/** Whose content tells of the machine that built the image, or is different each time. */
const emptied = [
  ..."/tmp /var/tmp /run /dev /proc /sys /root /var/log /var/cache /var/lib/apt/lists /var/backups".split(
    " ",
  ),
  "/var/lib/systemd",
];
const removed = [
  "/etc/apt/sources.list",
  "/etc/apt/sources.list.d",
  "/etc/apt/apt.conf.d/99mmdebstrap",
  "/etc/apt/apt.conf.d/90box-build",
  "/usr/sbin/policy-rc.d",
  "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
  ..."/etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- /.dockerenv".split(" "),
  "/var/lib/dbus/machine-id",
  "/var/lib/dpkg/status-old",
  "/var/lib/dpkg/available-old",
  "/var/lib/dpkg/diversions-old",
  "/var/lib/dpkg/statoverride-old",
  "/var/lib/apt/extended_states-old",
];

/** Files that differ from box to box lie in a folder that the driver mounts at /run/etc. */
const perBox = ["hosts", "hostname", "resolv.conf"];

const user = { name: "user", id: 1000, home: "/home/user" };

async function isFolder(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => null))?.isDirectory() ?? false;
}

/** A new file in place of the old one: the old one's inode may be shared with another image. */
async function replaceFile(path: string, text: string, mode = 0o644): Promise<void> {
  await rm(path, { force: true, recursive: true });
  await writeFile(path, text, { mode, flag: "wx" });
}

async function readOr(path: string, fallback: string): Promise<string> {
  const status = await lstat(path).catch(() => null);
  return status?.isFile() ? readFile(path, "utf8") : fallback;
}

/** Puts our user in place of whatever has its name or number. */
export function withUser(text: string, line: string): string {
  const kept = text
    .split("\n")
    .filter((entry) => entry !== "" && !entry.startsWith(`${user.name}:`) && entry.split(":")[2] !== "1000");
  return [...kept, line, ""].join("\n");
}

async function writeAccounts(root: string): Promise<void> {
  const etc = (name: string) => join(root, "etc", name);
  const passwd = await readOr(etc("passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  const group = await readOr(etc("group"), "root:x:0:\n");
  const shell = (await lstat(join(root, "bin/bash")).catch(() => null)) ? "/bin/bash" : "/bin/sh";
  const entry = `${user.name}:x:${user.id}:${user.id}:${user.name}:${user.home}:${shell}`;
  await replaceFile(etc("passwd"), withUser(passwd, entry));
  await replaceFile(etc("group"), withUser(group, `${user.name}:x:${user.id}:`));
}

/** A real folder at `path` in the tree, with real ones on the way. */
export async function makeFolder(root: string, path: string, mode: number): Promise<void> {
  let at = root;
  for (const part of path.split("/").filter(Boolean)) {
    at = join(at, part);
    const status = await lstat(at).catch(() => null);
    if (status?.isDirectory()) continue;
    // A link on the way, such as /var/run, could lead anywhere: ours take its place.
    if (status) await rm(at);
    await mkdir(at);
    await chmod(at, 0o755);
  }
  await chmod(at, mode);
}

/**
 * Makes a tree fit to be an image: nothing of the machine or the time of its making in it, and a place
 * for everything that a driver mounts. Idempotent. Files are replaced, never written to.
 *
 * @param root a tree that nobody else writes to; its links are not followed
 */
export async function finishTree(root: string): Promise<void> {
  for (const path of removed) await removeInside(root, path);
  for (const path of emptied) {
    const folder = join(root, path);
    if (!(await isInside(root, path)) || !(await isFolder(folder))) continue;
    for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true, force: true });
  }
  for (const [path, mode] of folders) await makeFolder(root, path, mode);
  await makeFolder(root, "/root", 0o700);
  await replaceFile(join(root, "etc/machine-id"), "");
  for (const name of perBox) {
    await rm(join(root, "etc", name), { force: true, recursive: true });
    await symlink(`/run/etc/${name}`, join(root, "etc", name));
  }
  await writeAccounts(root);
  await replaceFile(
    join(root, "etc/nsswitch.conf"),
    "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n",
  );
  const bundle = join(root, "etc/ssl/certs/ca-certificates.crt");
  if (!(await lstat(bundle).catch(() => null))) await writeFile(bundle, "", { flag: "wx", mode: 0o644 });
}

/** Whether every folder on the way is a real one, so that the path stays in the tree. */
async function isInside(root: string, path: string): Promise<boolean> {
  let at = root;
  for (const part of dirname(path).split("/").filter(Boolean)) {
    at = join(at, part);
    if (!(await isFolder(at))) return false;
  }
  return true;
}

async function removeInside(root: string, path: string): Promise<void> {
  if (await isInside(root, path)) await rm(join(root, path), { recursive: true, force: true });
}

/** Puts the pinned Node with npm and npx into /usr/local. */
export async function addNode(root: string, toolchain: string): Promise<void> {
  const local = join(root, "usr/local");
  await mkdir(join(local, "bin"), { recursive: true });
  await mkdir(join(local, "lib/node_modules"), { recursive: true });
  for (const path of ["bin/node", "bin/npm", "bin/npx", "lib/node_modules/npm"]) {
    await rm(join(local, path), { recursive: true, force: true });
    await cp(join(toolchain, path), join(local, path), {
      recursive: true,
      verbatimSymlinks: true,
      preserveTimestamps: true,
    });
  }
}
