import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { GuestImage, RootImage } from "../driver.ts";

const run = promisify(execFile);
const mib = 1024 * 1024;

/** Read-only disks made of folders, one file for each content; every machine of this host shares them. */
export class ReadOnlyImages {
  readonly #folder: string;
  readonly #making = new Map<string, Promise<string>>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** @returns path of the disk */
  root(image: RootImage): Promise<string> {
    const name = `root-${createHash("sha256").update(image.digest).digest("hex").slice(0, 32)}.ext4`;
    return this.#once(name, (path) => format(path, image.folder));
  }

  /** The agent below /agent and the agent's Node below /node. */
  async tools(image: Pick<GuestImage, "folder" | "toolchain">): Promise<string> {
    const hash = createHash("sha256");
    for (const folder of [image.folder, image.toolchain]) {
      // Both are replaced as a whole, never changed in place.
      const { ino, mtimeMs } = await stat(folder);
      hash.update(`${folder}\0${ino}\0${mtimeMs}\0`);
    }
    const agent = await stat(join(image.folder, "agent.mjs"));
    hash.update(`${agent.size}\0${agent.mtimeMs}`);
    return this.#once(`tools-${hash.digest("hex").slice(0, 32)}.ext4`, async (path) => {
      const content = `${path}.content`;
      await rm(content, { recursive: true, force: true });
      await mkdir(content, { mode: 0o755 });
      await run("cp", ["-a", "--reflink=auto", "--", image.folder, join(content, "agent")]);
      await run("cp", ["-a", "--reflink=auto", "--", image.toolchain, join(content, "node")]);
      await run("chmod", ["-R", "u+rwX,go+rX,go-w", "--", content]);
      try {
        await format(path, content);
      } finally {
        await rm(content, { recursive: true, force: true });
      }
    });
  }

  #once(name: string, make: (path: string) => Promise<void>): Promise<string> {
    const making =
      this.#making.get(name) ??
      this.#make(name, make).catch((error: unknown) => {
        this.#making.delete(name);
        throw error;
      });
    this.#making.set(name, making);
    return making;
  }

  async #make(name: string, make: (path: string) => Promise<void>): Promise<string> {
    const path = join(this.#folder, name);
    if (await stat(path).catch(() => null)) return path;
    await mkdir(this.#folder, { recursive: true, mode: 0o711 });
    for (const entry of await readdir(this.#folder)) {
      // Left by a daemon that died; this one is the only one on the folder.
      if (entry.startsWith(`${name}.half`))
        await rm(join(this.#folder, entry), { recursive: true, force: true });
    }
    const half = `${path}.half`;
    await make(half);
    await rename(half, path);
    return path;
  }
}

/** An ext4 file system with the folder's content and little room besides. */
async function format(path: string, folder: string): Promise<void> {
  const { stdout } = await run("du", ["-s", "--apparent-size", "-B1", "--", folder]);
  const { stdout: entries } = await run("sh", ["-c", 'find "$1" -xdev | wc -l', "sh", folder]);
  const files = Number(entries.trim());
  // They are spread over groups of blocks, none of which may run out.
  const inodes = Math.ceil(files * 1.3) + 2_048;
  const bytes = Number(stdout.split("\t")[0]) * 1.1 + inodes * 256 + files * 4_096 + 16 * mib;
  const file = await open(path, "wx", 0o644);
  try {
    await file.truncate(Math.ceil(bytes / mib) * mib);
  } finally {
    await file.close();
  }
  await run("mke2fs", [
    ...["-q", "-F", "-t", "ext4", "-m", "0", "-N", String(inodes), "-O", "^has_journal", "-d", folder],
    ...["-E", "root_owner=0:0,lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard", path],
  ]);
}
