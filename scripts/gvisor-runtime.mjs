// Brings runsc, the runtime of the gVisor driver, into .toolchain/. Runs on Node 20, without any package.
// Debian keeps it in a suite of its own, which is never added to the system: apt fetches the package with
// lists and a cache of our own, checks their signature, and nothing is installed.
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { findProgram } from "./system-packages.mjs";
import { root } from "./toolchain.mjs";

const release = "bookworm";
const suite = `${release}-backports`;
const version = "0.0~20240729.0-4~bpo12+2";
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
/** Longer than a slow mirror takes, short enough for a machine without network, in milliseconds. */
const fetchTimeoutMs = 90_000;

export const runtimeDir = join(root, ".toolchain", "runsc");
export const runtime = join(runtimeDir, "usr", "bin", "runsc");

function run(command, args, cwd) {
  const { PATH, http_proxy, https_proxy, no_proxy } = process.env;
  const proxies = { http_proxy, https_proxy, no_proxy };
  const result = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    timeout: fetchTimeoutMs,
    env: { PATH: `${PATH}:/usr/sbin:/usr/bin:/sbin:/bin`, LANG: "C.UTF-8", ...proxies },
  });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status === 0) return result.stdout;
  const line = result.stderr
    .trim()
    .split("\n")
    .find((text) => text.startsWith("E:"));
  throw new Error(`${command} ended with ${result.status}${line ? `: ${line}` : ""}`);
}

/** The mirror that this machine already takes its own release from. */
function mirror(folder) {
  const format = ["--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"];
  for (const line of run("apt-get", ["indextargets", ...format], folder).split("\n")) {
    const [codename, uri] = line.split(" ");
    if (codename === release && uri) return uri;
  }
  throw new Error(`this machine has no package source for ${release}`);
}

function fetchInto(folder) {
  const own = (name) => join(folder, name);
  for (const name of ["lists/partial", "cache/archives/partial"]) mkdirSync(own(name), { recursive: true });
  writeFileSync(own("sources.list"), `deb [signed-by=${keyring}] ${mirror(folder)} ${suite} main\n`);
  const options = {
    "Dir::Etc::sourcelist": own("sources.list"),
    "Dir::Etc::sourceparts": "/dev/null",
    "Dir::State::lists": own("lists"),
    "Dir::Cache": own("cache"),
    "Acquire::http::Timeout": "20",
    "Acquire::Retries": "1",
    // The folder is not one that apt's own user may write to.
    "APT::Sandbox::User": "root",
  };
  const flags = Object.entries(options).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
  run("apt-get", [...flags, "-q", "update"], folder);
  run("apt-get", [...flags, "-q", "download", `runsc=${version}`], folder);
  const file = readdirSync(folder).find((name) => name.startsWith("runsc_") && name.endsWith(".deb"));
  if (!file) throw new Error("the package did not arrive");
  const unpacked = own("unpacked");
  run("dpkg", ["-x", own(file), unpacked], folder);
  run(join(unpacked, "usr", "bin", "runsc"), ["--version"], folder);
  writeFileSync(join(unpacked, "version"), version);
  return unpacked;
}

function releaseOfThisMachine() {
  const text = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  return /^VERSION_CODENAME=(\S+)$/m.exec(text)?.[1] ?? "unknown";
}

/**
 * Where it cannot be had, one line says so; the other drivers do without.
 *
 * @returns path of the runtime, or `null`
 */
export function ensureGvisorRuntime({ path, say }) {
  const installed = findProgram("runsc", path);
  if (installed) return installed;
  const stamp = join(runtimeDir, "version");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === version) return runtime;
  const without = (why) => {
    say(`• without gVisor, boxes share this machine's kernel: ${why}`);
    return null;
  };
  const here = releaseOfThisMachine();
  if (here !== release)
    return without(`its package is pinned for ${release}, this is ${here}; put runsc on the PATH to use it`);
  say(`• gVisor's runtime (gives sandboxes a kernel of their own)`);
  mkdirSync(join(root, ".toolchain"), { recursive: true });
  const scratch = mkdtempSync(join(root, ".toolchain", "fetch-"));
  try {
    const unpacked = fetchInto(scratch);
    rmSync(runtimeDir, { recursive: true, force: true });
    renameSync(unpacked, runtimeDir);
    return runtime;
  } catch (error) {
    return without(error.message);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
