import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

/*
 * Makes what every microVM boots: kernel, and an initial root with process 1 and the kernel's modules.
 * The kernel is Debian's for virtual machines; process 1 is apps/guest/microvm, linked statically.
 */

const run = promisify(execFile);
const kernelPackage = "linux-image-cloud-amd64";

const shared = [
  "drivers/virtio/virtio_ring.ko",
  "drivers/virtio/virtio.ko",
  "drivers/block/virtio_blk.ko",
  "drivers/virtio/virtio_balloon.ko",
  "drivers/char/hw_random/virtio-rng.ko",
  "fs/overlayfs/overlay.ko",
];
/** Modules by machine, each after those it needs. The bus comes last, so that all its devices find a driver. */
const modules = {
  qemu: [
    ...shared,
    "drivers/char/virtio_console.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
  ],
  firecracker: [
    ...shared,
    "net/vmw_vsock/vsock.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
    "drivers/virtio/virtio_mmio.ko",
  ],
};

/** The newest kernel that Debian offers for this release, unpacked but not installed. */
async function fetchKernel(folder: string): Promise<{ image: string; modules: string; version: string }> {
  const { stdout } = await run("apt-cache", ["depends", "--important", kernelPackage]);
  const name = /Depends: (linux-image-\S+)/.exec(stdout)?.[1];
  if (!name)
    throw new Error(`apt knows no ${kernelPackage}. Run "apt-get update" on a Debian machine and retry.`);
  await run("apt-get", ["-o", "APT::Sandbox::User=root", "download", name], { cwd: folder });
  const file = (await readdir(folder)).find((entry) => entry.startsWith(name) && entry.endsWith(".deb"));
  if (!file) throw new Error(`apt-get downloaded no ${name}.`);
  await run("dpkg", ["-x", join(folder, file), join(folder, "kernel")]);
  const version = name.slice("linux-image-".length);
  return {
    version,
    image: join(folder, "kernel/boot", `vmlinuz-${version}`),
    modules: join(folder, "kernel/lib/modules", version, "kernel"),
  };
}

/** One block of LZ4 without its frame. @throws RangeError when it is not one */
export function unpackLz4Block(block: Buffer, room: number): Buffer {
  const out = Buffer.alloc(room);
  let from = 0;
  let to = 0;
  const lengthFrom = (start: number): number => {
    let length = start;
    if (start === 15) {
      let byte = 255;
      while (byte === 255) length += byte = block.readUInt8(from++);
    }
    return length;
  };
  while (from < block.length) {
    const token = block.readUInt8(from++);
    const literals = lengthFrom(token >> 4);
    to += block.copy(out, to, from, from + literals);
    from += literals;
    if (from >= block.length) break;
    const distance = block.readUInt16LE(from);
    from += 2;
    const length = lengthFrom(token & 15) + 4;
    if (distance === 0 || distance > to) throw new RangeError("a match begins before the data");
    // A match may reach into what it writes itself, so it is copied in pieces of its distance.
    for (let done = 0; done < length;) {
      done += out.copy(
        out,
        to + done,
        to - distance + done,
        to - distance + Math.min(done + distance, length),
      );
    }
    to += length;
  }
  return out.subarray(0, to);
}

const lz4Magic = Buffer.from([0x02, 0x21, 0x4c, 0x18]);
const lz4BlockRoom = 8 * 1024 * 1024;

/** The kernel as ELF, out of the compressed image that a boot loader would take. */
export function unpackKernel(image: Buffer): Buffer {
  for (let at = image.indexOf(lz4Magic); at >= 0; at = image.indexOf(lz4Magic, at + 1)) {
    const blocks: Buffer[] = [];
    try {
      for (let from = at + 4; from + 4 <= image.length;) {
        const length = image.readUInt32LE(from);
        if (length === 0 || from + 4 + length > image.length) break;
        const block = unpackLz4Block(image.subarray(from + 4, from + 4 + length), lz4BlockRoom);
        blocks.push(block);
        from += 4 + length;
        if (block.length < lz4BlockRoom) break;
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // The magic number occurred by chance.
    }
    const kernel = Buffer.concat(blocks);
    if (kernel.subarray(0, 4).toString("latin1") === "\x7fELF") return kernel;
  }
  throw new Error("The kernel image is not compressed by LZ4. Build with a kernel of Debian 12 or newer.");
}

interface Entry {
  readonly name: string;
  readonly mode: number;
  readonly data: Buffer;
}

/** The archive format in which a kernel takes its initial root, with fixed times and owners. */
function cpio(entries: readonly Entry[]): Buffer {
  const parts: Buffer[] = [];
  const pad = (length: number) => Buffer.alloc((4 - (length % 4)) % 4);
  [...entries, { name: "TRAILER!!!", mode: 0, data: Buffer.alloc(0) }].forEach(
    ({ name, mode, data }, index) => {
      const fields = [index + 1, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length + 1, 0];
      const text = `070701${fields.map((value) => value.toString(16).padStart(8, "0")).join("")}${name}\0`;
      parts.push(Buffer.from(text, "latin1"), pad(text.length), data, pad(data.length));
    },
  );
  return Buffer.concat(parts);
}

async function initialRoot(init: string, moduleFolder: string): Promise<Buffer> {
  const folder = 0o040755;
  const file = 0o100644;
  const entries: Entry[] = ["dev", "proc", "sys", "modules"].map((name) => {
    return { name, mode: folder, data: Buffer.alloc(0) };
  });
  entries.push({ name: "init", mode: 0o100755, data: await readFile(init) });
  for (const path of new Set(Object.values(modules).flat())) {
    entries.push({
      name: `modules/${baseName(path)}`,
      mode: file,
      data: await readFile(join(moduleFolder, path)),
    });
  }
  for (const [machine, list] of Object.entries(modules)) {
    const text = `${list.map(baseName).join("\n")}\n`;
    entries.push({ name: `modules/${machine}`, mode: file, data: Buffer.from(text) });
  }
  return cpio(entries);
}

const baseName = (path: string) => path.slice(path.lastIndexOf("/") + 1);

/** Compiles process 1 of a microVM. */
export async function compileInit(path: string): Promise<void> {
  const source = join(import.meta.dirname, "microvm");
  const files = (await readdir(source)).filter((name) => name.endsWith(".c")).sort();
  const flags = ["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", path];
  await run("gcc", [...flags, ...files.map((name) => join(source, name))]);
}

/** Fills `folder` with `kernel`, `initrd` and `microvm.json`, at once or not at all. */
export async function buildMicrovm(folder: string): Promise<void> {
  if (process.arch !== "x64") throw new Error("MicroVMs are built for x64 only.");
  const scratch = await mkdtemp(join(tmpdir(), "microvm-"));
  try {
    const fetched = await fetchKernel(scratch);
    const init = join(scratch, "init");
    await compileInit(init);
    const kernel = unpackKernel(await readFile(fetched.image));
    const initrd = await initialRoot(init, fetched.modules);
    const digest = createHash("sha256").update(kernel).update(initrd).digest("hex");
    const made = join(scratch, "made");
    await mkdir(made);
    await writeFile(join(made, "kernel"), kernel);
    await writeFile(join(made, "initrd"), initrd);
    await writeFile(join(made, "microvm.json"), JSON.stringify({ kernel: fetched.version, digest }));
    const half = `${folder}.half-${process.pid}`;
    await cp(made, half, { recursive: true });
    await rm(folder, { recursive: true, force: true });
    await rename(half, folder);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const folder = process.argv[2];
  if (!folder) throw new Error("usage: node apps/guest/build-microvm.ts FOLDER");
  await buildMicrovm(folder);
}
