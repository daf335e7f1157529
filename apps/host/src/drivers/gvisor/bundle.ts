import { chown, mkdir, readdir, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { ResolvedBoxSpec } from "@platform/host-api";
import type { BoxFolders } from "../driver.ts";
import { insideUid, type BoxLayout, type BoxMount } from "../linux/rootfs.ts";
import { firstCapabilities, noteFile, noteFolder } from "./init.ts";

/**
 * The box's root user owns nothing on the machine: it is a second uid of this box alone, so that
 * neither the box nor its kernel's own processes can touch another box's.
 */
const rootUidAbove = 100_000;

interface OciMount {
  readonly destination: string;
  readonly type: string;
  readonly source?: string;
  readonly options?: readonly string[];
}

/** Of the box's own kernel. */
const groups: OciMount = { destination: "/sys/fs/cgroup", type: "cgroup" };

function ociMount(mount: BoxMount): OciMount[] {
  const { type, target: destination } = mount;
  if (type === "bind") {
    const options = ["rbind", mount.isWritable ? "rw" : "ro"];
    return [{ destination, type: "bind", source: mount.source, options }];
  }
  if (type === "memory") {
    // What is not open to everyone is the box's own user's.
    const owner = mount.mode === "0755" ? [`uid=${insideUid}`, `gid=${insideUid}`] : [];
    const options = [`size=${mount.sizeBytes}`, `mode=${mount.mode}`, ...owner];
    return [{ destination, type: "tmpfs", source: "tmpfs", options }];
  }
  // Links and folders are part of the root itself.
  return type === "proc" || type === "dev" ? [{ destination, type }] : [];
}

/** An empty tree with a place for each mount: the box's root, read-only. */
async function makeRoot(root: string, mounts: readonly BoxMount[]): Promise<void> {
  const bound = mounts.filter(({ type }) => type === "bind");
  for (const mount of mounts) {
    // A place inside another folder of the machine is found there.
    if (bound.some(({ target }) => mount.target.startsWith(`${target}/`))) continue;
    const path = join(root, mount.target);
    if (mount.type === "link") {
      await mkdir(dirname(path), { recursive: true });
      await symlink(mount.to, path);
    } else await mkdir(path, { recursive: true });
  }
}

/**
 * An image's folders one by one, as its tree has no place for what only this runtime mounts, and the
 * runtime is nobody who could make one.
 */
async function imageMounts(image: string, others: readonly BoxMount[]): Promise<BoxMount[]> {
  const replaced = new Set(["/sys", ...others.map(({ target }) => target)]);
  const mounts: BoxMount[] = [];
  for (const entry of await readdir(image, { withFileTypes: true })) {
    const [source, target] = [join(image, entry.name), `/${entry.name}`];
    if (replaced.has(target)) continue;
    if (entry.isSymbolicLink()) mounts.push({ type: "link", target, to: await readlink(source) });
    else if (entry.isDirectory()) mounts.push({ type: "bind", source, target, isWritable: false });
  }
  return mounts;
}

const ids = (owner: { readonly uid: number; readonly gid: number }, name: "uid" | "gid") => [
  { containerID: 0, hostID: owner[name] + rootUidAbove, size: 1 },
  { containerID: insideUid, hostID: owner[name], size: 1 },
];

export interface BundleRequest {
  /** Empty folder, made here. */
  readonly folder: string;
  readonly spec: ResolvedBoxSpec;
  readonly layout: BoxLayout;
  readonly owner: NonNullable<BoxFolders["owner"]>;
  readonly command: readonly string[];
}

/** Writes the box down as the runtime wants it. No secret of the box is in it. */
export async function writeBundle({ folder, spec, layout, owner, command }: BundleRequest): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o711 });
  const root = join(folder, "root");
  const mounts: BoxMount[] = [
    ...(layout.root === null ? [] : await imageMounts(layout.root, layout.mounts)),
    ...layout.mounts,
    { type: "bind", source: join(folder, "note"), target: noteFolder, isWritable: true },
  ];
  await makeRoot(root, mounts);
  await mkdir(join(root, groups.destination), { recursive: true });
  await mkdir(join(folder, "note"), { mode: 0o700 });
  await chown(join(folder, "note"), owner.uid + rootUidAbove, owner.gid + rootUidAbove);
  const capabilities = { bounding: firstCapabilities, effective: firstCapabilities };
  const config = {
    ociVersion: "1.0.2",
    hostname: spec.hostname,
    root: { path: root, readonly: true },
    process: {
      ...{ args: command, cwd: layout.cwd, user: { uid: 0, gid: 0 } },
      env: Object.entries(layout.env).map(([name, value]) => `${name}=${value}`),
      noNewPrivileges: true,
      capabilities: { ...capabilities, permitted: firstCapabilities, inheritable: [], ambient: [] },
    },
    mounts: [...mounts.flatMap(ociMount), groups],
    linux: {
      namespaces: ["pid", "ipc", "uts", "mount", "network", "user"].map((type) => ({ type })),
      uidMappings: ids(owner, "uid"),
      gidMappings: ids(owner, "gid"),
    },
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config), { mode: 0o600 });
}

/** Where process 1 of the bundle's box notes how the agent ended. */
export const noteOf = (folder: string): string => join(folder, "note", noteFile);
