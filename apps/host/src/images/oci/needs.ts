import { createReadStream } from "node:fs";
import { lstat, readdir, readlink } from "node:fs/promises";
import { arch } from "node:process";
import { ImageError } from "../image-error.ts";

const system = arch === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";
const loader = arch === "arm64" ? "/lib/ld-linux-aarch64.so.1" : "/lib64/ld-linux-x86-64.so.2";
const libraryFolders = [`/lib/${system}`, `/usr/lib/${system}`, "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
const oldestGlibc = [2, 28] as const;
const maxLinks = 40;

/** Where `path` leads in the tree, every link being one of the tree's own; `null`: nowhere. */
export async function resolveInside(root: string, path: string): Promise<string | null> {
  let links = 0;
  let rest = path.split("/").filter(Boolean);
  const at: string[] = [];
  while (rest.length > 0) {
    const [part, ...more] = rest as [string, ...string[]];
    rest = more;
    if (part === ".") continue;
    if (part === "..") {
      at.pop();
      continue;
    }
    const here = [root, ...at, part].join("/");
    const found = await lstat(here).catch(() => null);
    if (!found) return null;
    if (!found.isSymbolicLink()) {
      at.push(part);
      continue;
    }
    if (++links > maxLinks) return null;
    const target = await readlink(here);
    if (target.startsWith("/")) at.length = 0;
    rest = [...target.split("/").filter(Boolean), ...rest];
  }
  return [root, ...at].join("/");
}

async function findLibrary(root: string, name: string): Promise<string | null> {
  for (const folder of libraryFolders) {
    const found = await resolveInside(root, `${folder}/${name}`);
    if (found && (await lstat(found)).isFile()) return found;
  }
  return null;
}

async function glibcVersion(path: string): Promise<[number, number] | null> {
  let rest = "";
  for await (const chunk of createReadStream(path, { encoding: "latin1", highWaterMark: 256 * 1024 })) {
    const text = rest + (chunk as string);
    const found = /GNU C Library [^\n]{0,100}release version (\d+)\.(\d+)/.exec(text);
    if (found) return [Number(found[1]), Number(found[2])];
    rest = text.slice(-200);
  }
  return null;
}

/** What the agent of a box lacks in this tree, each with what to do; empty: nothing known. */
export async function missingIn(root: string): Promise<string[]> {
  const missing: string[] = [];
  const shell = await resolveInside(root, "/bin/sh");
  if (!shell || !(await lstat(shell)).isFile())
    missing.push("/bin/sh: commands are run by it; install a shell such as dash or bash");
  const libFolder = await resolveInside(root, "/lib");
  const isMusl =
    libFolder !== null &&
    (await readdir(libFolder).catch(() => [])).some((name) => name.startsWith("ld-musl-"));
  const glibc = await findLibrary(root, "libc.so.6");
  if (!glibc || !(await resolveInside(root, loader))) {
    missing.push(
      isMusl
        ? "glibc: the image is built on musl (Alpine); use its variant on Debian or Ubuntu, such as node:22-slim"
        : `glibc (${loader}): build the image from Debian, Ubuntu, Fedora or another system with glibc`,
    );
  } else {
    const version = await glibcVersion(glibc);
    if (
      version &&
      (version[0] < oldestGlibc[0] || (version[0] === oldestGlibc[0] && version[1] < oldestGlibc[1]))
    )
      missing.push(
        `glibc ${oldestGlibc.join(".")}: the image has ${version.join(".")}; use a newer release of its system`,
      );
  }
  for (const [name, install] of [
    ["libstdc++.so.6", "libstdc++6"],
    ["libgcc_s.so.1", "libgcc-s1"],
  ] as const)
    if (!(await findLibrary(root, name)))
      missing.push(`${name}: add it to the image (Debian and Ubuntu: apt-get install -y ${install})`);
  return missing;
}

/** @throws ImageError `requirements_missing` */
export async function assertBootable(root: string): Promise<void> {
  const missing = await missingIn(root);
  if (missing.length === 0) return;
  throw new ImageError(
    "requirements_missing",
    `No box can start from this image. It lacks ${missing.join("; ")}.`,
    {
      missing,
    },
  );
}
