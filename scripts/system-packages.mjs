// What the programs need from the machine's own packages. Plain JavaScript for Node 20: it runs before
// anything is installed.
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { join } from "node:path";

/** `required`: without it nothing runs. The others only switch a feature off. */
export const systemPackages = [
  { name: "bubblewrap", program: "bwrap", required: true, why: "isolates sandboxes and app instances" },
  { name: "tar", program: "tar", required: true, why: "packs and unpacks app folders" },
  { name: "git", program: "git", required: false, why: "lets sandboxes clone repositories" },
  { name: "python3", program: "python3", required: false, why: "is part of the standard sandbox" },
  { name: "mmdebstrap", program: "mmdebstrap", required: false, why: "builds the images of templates" },
  { name: "psmisc", program: "fuser", required: false, why: "is part of the standard sandbox" },
];

/** What only slow tests run. As root they are installed for those; without them these tests are skipped. */
const testPackages = [
  {
    name: "qemu-system-x86",
    program: "qemu-system-x86_64",
    required: true,
    why: "runs virtual machines in tests",
  },
  { name: "gcc", program: "gcc", required: true, why: "builds what a virtual machine starts with" },
  { name: "libc6-dev", program: "gcc", required: true, why: "is what gcc links with" },
  { name: "mmdebstrap", program: "mmdebstrap", required: true, why: "builds the images of templates" },
  { name: "awscli", program: "aws", required: true, why: "is a client of the object store in tests" },
  { name: "s3cmd", program: "s3cmd", required: true, why: "is a client of the object store in tests" },
  { name: "rclone", program: "rclone", required: true, why: "is a client of the object store in tests" },
];

const folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/** @param {string} path searched first; the system's own folders always follow */
export function findProgram(program, path = "") {
  for (const folder of [...path.split(":").filter(Boolean), ...folders]) {
    const file = join(folder, program);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not in this folder; the next one decides.
    }
  }
  return null;
}

export const missingPackages = (path = "") =>
  systemPackages.filter((entry) => findProgram(entry.program, path) === null);

export const installLine = (names) => `apt-get install -y --no-install-recommends ${names.join(" ")}`;

/**
 * As root on Debian, installs what is required and missing; else says what to run.
 *
 * @param options.forSlowTests also what only they need
 * @returns names still missing
 */
export function ensureSystemPackages({ path, isRoot, say, forSlowTests = false }) {
  const wanted = [...systemPackages, ...(forSlowTests ? testPackages : [])];
  const missing = wanted.filter((entry) => entry.required && findProgram(entry.program, path) === null);
  if (missing.length === 0) return [];
  const names = missing.map((entry) => entry.name);
  const isDebian = existsSync("/etc/debian_version") && findProgram("apt-get", path) !== null;
  if (!isRoot || !isDebian) {
    const line = isDebian
      ? `sudo ${installLine(names)}`
      : `install ${names.join(" ")} with this system's package manager`;
    say(`✗ missing: ${missing.map((entry) => `${entry.name} (${entry.why})`).join(", ")} → ${line}`);
    return names;
  }
  say(`• ${names.join(", ")} (${missing.map((entry) => entry.why).join("; ")})`);
  const env = { PATH: folders.join(":"), DEBIAN_FRONTEND: "noninteractive", LANG: "C.UTF-8" };
  const options = { stdio: ["ignore", 2, 2], env };
  // The lists of a fresh machine are empty, so they are brought up to date once.
  spawnSync("apt-get", ["update", "-q"], options);
  spawnSync("apt-get", ["install", "-y", "--no-install-recommends", ...names], options);
  const still = names.filter((name) => {
    const entry = missing.find((candidate) => candidate.name === name);
    return entry && findProgram(entry.program, path) === null;
  });
  if (still.length > 0) say(`✗ still missing: ${still.join(", ")} → ${installLine(still)}`);
  return still;
}
