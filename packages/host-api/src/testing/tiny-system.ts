import { execFileSync } from "node:child_process";
import { readFile, realpath } from "node:fs/promises";
import { basename } from "node:path";
import { tarOf, type TestEntry } from "./oci-image.ts";

const programs =
  "/bin/sh /bin/bash /bin/cat /bin/ls /bin/id /bin/echo /bin/true /bin/touch /bin/sleep /bin/mkdir /usr/bin/env /usr/bin/test".split(
    " ",
  );
/** What Node is linked with. */
const libraries = [
  "libstdc++.so.6",
  "libgcc_s.so.1",
  "libm.so.6",
  "libdl.so.2",
  "libpthread.so.0",
  "libc.so.6",
];

/** Libraries of a program by the name that the loader looks for, with the place where this machine has them. */
function linkedWith(program: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of execFileSync("ldd", [program], { encoding: "utf8" }).split("\n")) {
    const [, path] = /(?:=> |^\s)(\/\S+) \(0x/.exec(line) ?? [];
    if (path) found.set(basename(path), path);
  }
  return found;
}

/**
 * The smallest system in which a box's agent runs, of this machine's own programs: a shell, a handful of
 * commands, and their libraries.
 *
 * @param without names of libraries to leave out
 */
export async function tinySystem(
  without: readonly string[] = [],
  more: readonly TestEntry[] = [],
): Promise<Buffer> {
  const libs = new Map(programs.flatMap((program) => [...linkedWith(program)]));
  for (const [name, path] of linkedWith(process.execPath)) if (libraries.includes(name)) libs.set(name, path);
  const isLoader = (name: string) => name.startsWith("ld-linux");
  const entries: TestEntry[] = ["bin", "usr/", "usr/lib", "lib64", "lib", "etc"].map((name) => ({
    ...{ name: `${name.replace(/\/$/, "")}/`, type: "directory" as const, mode: 0o755 },
  }));
  const file = async (name: string, path: string): Promise<TestEntry & { bytes: Buffer }> => ({
    ...{ name, mode: 0o755, bytes: await readFile(await realpath(path)) },
  });
  const files = await Promise.all([
    ...programs.map((path) => file(`bin/${basename(path)}`, path)),
    ...[...libs]
      .filter(([name]) => !without.includes(name))
      .map(([name, path]) =>
        file(`${isLoader(name) && process.arch === "x64" ? "lib64" : "lib"}/${name}`, path),
      ),
  ]);
  return tarOf([
    ...entries,
    ...files.map(({ bytes, ...entry }) => ({ ...entry, content: bytes })),
    { name: "etc/os-release", content: 'PRETTY_NAME="Tiny 1"\n' },
    { name: "etc/passwd", content: "root:x:0:0::/root:/bin/sh\napp:x:77:77::/srv:/bin/sh\n" },
    ...more,
  ]);
}
