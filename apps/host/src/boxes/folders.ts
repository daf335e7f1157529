import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, chown, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { HostError, type ResolvedBoxSpec } from "@platform/host-api";
import { maxFilesOf, type Disks } from "../disks/index.ts";
import { furnish } from "../drivers/box-folders.ts";
import type { BoxFolders } from "../drivers/driver.ts";

const run = promisify(execFile);

/** Port in the box on which programs find the outbound proxy. */
export const proxyPort = 3128;

/** What fills a new box's folders; implemented over the artifact store. */
export interface ContentSource {
  /** @throws HostError `NOT_FOUND` when this host does not have it */
  fill(content: ResolvedBoxSpec["content"], folders: BoxFolders): Promise<void>;
  /** Folder with the memory of a snapshot that boxes of this driver can go on from; `null`: there is none. */
  memoryOf(content: ResolvedBoxSpec["content"], driver: string): Promise<string | null>;
}

/** Makes the folders of a box and fills them; the box's own uid owns what it may write. */
export async function makeFolders(
  folders: BoxFolders,
  spec: ResolvedBoxSpec,
  source: ContentSource,
  databaseAuthority: string,
  disks: Disks | null,
): Promise<void> {
  await chmod(folders.root, 0o711);
  if (folders.disk && disks) await disks.make(folders.disk, spec.limits);
  await mkdir(folders.log, { recursive: true, mode: 0o711 });
  await furnish(folders);
  try {
    await source.fill(spec.content, folders);
  } catch (error) {
    const isFull =
      (error as NodeJS.ErrnoException).code === "ENOSPC" ||
      (error instanceof HostError && error.code === "DISK_FULL");
    throw isFull ? contentTooLarge(folders, spec, error) : error;
  }
  const { owner } = folders;
  if (owner) for (const path of [folders.workspace, folders.home]) await chown(path, owner.uid, owner.gid);
  await writeFile(join(folders.run, "ca.pem"), databaseAuthority, { mode: 0o644 });
  await writeGuestConfig(folders, spec);
  if (owner) await chown(folders.run, owner.uid, owner.gid);
}

function contentTooLarge(folders: BoxFolders, { limits }: ResolvedBoxSpec, cause: unknown): HostError {
  if (!folders.disk) return machineFull(cause);
  const message =
    `The content does not fit on the box's disk of ${limits.diskBytes} bytes and ${maxFilesOf(limits)} files. ` +
    `Ask for a larger disk or leave files out.`;
  const details = { diskLimitBytes: limits.diskBytes, filesLimit: maxFilesOf(limits) };
  return new HostError("DISK_FULL", 507, message, details, { cause });
}

function machineFull(cause: unknown): HostError {
  const message = "The machine's disk is full. Free space or move boxes to another host.";
  return new HostError("DISK_FULL", 507, message, {}, { cause });
}

/** PEM of the authority that signs the databases' certificates, as boxes see it. */
const authorityPath = "/run/agent/ca.pem";
const systemBundle = "/etc/ssl/certs/ca-certificates.crt";

/**
 * Clients of many languages verify a database's certificate by default, so the box trusts its
 * authority. Package managers bring their own list of authorities; they are given the machine's.
 */
const trust: Record<string, string> = {
  NODE_EXTRA_CA_CERTS: authorityPath,
  ...(existsSync(systemBundle) ? { npm_config_cafile: systemBundle, PIP_CERT: systemBundle } : {}),
};

export function guestConfig(spec: Pick<ResolvedBoxSpec, "env" | "links" | "limits">) {
  const links = spec.links.map((link) => ({ host: link.hostname, port: link.port }));
  const { memoryBytes, cpuMillis } = spec.limits;
  return { env: { ...trust, ...spec.env }, links, proxyPort, limits: { memoryBytes, cpuMillis } };
}

/** Read by the agent when it starts. Only before the box runs: later its folder belongs to it. */
export async function writeGuestConfig(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
  const path = join(folders.run, "config.json");
  await writeFile(path, JSON.stringify({ ...guestConfig(spec), services: spec.services }), { mode: 0o600 });
  if (folders.owner) await chown(path, folders.owner.uid, folders.owner.gid);
}

/**
 * Removes a folder that a box wrote to, whatever modes and depth it left; resolves also when it is gone.
 * Only once no process of the box runs: it could put links where folders were.
 */
export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true, maxRetries: 3 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EACCES" && code !== "ENOTEMPTY" && code !== "ENAMETOOLONG") throw error;
    // As an ordinary user, a folder without its own write bit keeps its content.
    await run("chmod", ["-R", "u+rwX", "--", path]);
    // Unlike Node, rm goes down by handles: a tree may be deeper than the longest path.
    await run("rm", ["-rf", "--", path]);
  }
}

/** Copies a tree with owners, modes and links, sharing blocks where the file system can. */
export async function copyTree(from: string, to: string): Promise<void> {
  try {
    await run("cp", ["-a", "--reflink=auto", "-T", "--", from, to]);
  } catch (error) {
    if (!/No space left/.test(String((error as { stderr?: unknown }).stderr))) throw error;
    throw machineFull(error);
  }
}

export async function replaceTree(staged: string, target: string): Promise<void> {
  await removeTree(target);
  await rename(staged, target);
}

/** @returns bytes of disk blocks below the folders */
export async function diskUsage(...folders: string[]): Promise<number> {
  const { stdout } = await run("du", ["-s", "-B1", "--", ...folders]);
  return stdout
    .trim()
    .split("\n")
    .reduce((sum, line) => sum + Number(line.split("\t")[0]), 0);
}
