import { mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { ResolvedBoxSpec } from "@platform/host-api";
import type { BoxFolders } from "../driver.ts";
import { insideUid, type BoxLayout, type BoxMount } from "../linux/rootfs.ts";

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

function ociMount(mount: BoxMount): OciMount[] {
  const { type, target: destination } = mount;
  if (type === "bind") {
    const options = ["rbind", mount.isWritable ? "rw" : "ro"];
    return [{ destination, type: "bind", source: mount.source, options }];
  }
  if (type === "memory") {
    // Folders that only the box's own uid may change belong to it: its root user takes no part.
    const owner = mount.mode === "0755" ? [`uid=${insideUid}`, `gid=${insideUid}`] : [];
    const options = [`size=${mount.sizeBytes}`, `mode=${mount.mode}`, ...owner];
    return [{ destination, type: "tmpfs", source: "tmpfs", options }];
  }
  // Links and folders are part of the root itself.
  return type === "proc" || type === "dev" ? [{ destination, type }] : [];
}

/** An empty tree with a place for each mount: the box's root, read-only. */
async function makeRoot(root: string, layout: BoxLayout): Promise<void> {
  const bound = layout.mounts.filter(({ type }) => type === "bind");
  for (const mount of layout.mounts) {
    // A place inside another folder of the machine is found there.
    if (bound.some(({ target }) => mount.target.startsWith(`${target}/`))) continue;
    const path = join(root, mount.target);
    if (mount.type === "link") {
      await mkdir(dirname(path), { recursive: true });
      await symlink(mount.to, path);
    } else await mkdir(path, { recursive: true });
  }
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
  await makeRoot(root, layout);
  const none: readonly string[] = [];
  const config = {
    ociVersion: "1.0.2",
    hostname: spec.hostname,
    root: { path: root, readonly: true },
    process: {
      ...{ args: command, cwd: layout.cwd, user: { uid: insideUid, gid: insideUid } },
      env: Object.entries(layout.env).map(([name, value]) => `${name}=${value}`),
      noNewPrivileges: true,
      capabilities: { bounding: none, effective: none, inheritable: none, permitted: none, ambient: none },
    },
    mounts: layout.mounts.flatMap(ociMount),
    linux: {
      namespaces: ["pid", "ipc", "uts", "mount", "network", "user"].map((type) => ({ type })),
      uidMappings: ids(owner, "uid"),
      gidMappings: ids(owner, "gid"),
    },
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config), { mode: 0o600 });
}
