// What the programs need from the machine's own packages. Plain JavaScript for Node 20: it runs before
// anything is installed.
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";

/**
 * `required`: without it nothing runs. The others only switch a feature off; `brought`: as root they are
 * installed as well. Nothing starts by itself: these packages have no service, or it is `unwanted` and masked before.
 */
export const systemPackages = [
  { name: "bubblewrap", program: "bwrap", required: true, why: "isolates sandboxes and app instances" },
  { name: "tar", program: "tar", required: true, why: "packs and unpacks app folders" },
  { name: "git", program: "git", required: false, why: "lets sandboxes clone repositories" },
  { name: "python3", program: "python3", required: false, why: "is part of the standard sandbox" },
  { name: "mmdebstrap", program: "mmdebstrap", required: false, why: "builds the images of templates" },
  {
    name: "mariadb-server-core",
    program: "mariadbd",
    required: false,
    brought: true,
    why: "serves MySQL databases",
  },
  {
    name: "mariadb-backup",
    program: "mariadb-backup",
    required: false,
    brought: true,
    why: "copies MySQL databases while they run",
  },
  // The server's program is in it; redis-server adds but a service of its own.
  {
    name: "redis-tools",
    program: "redis-check-rdb",
    required: false,
    brought: true,
    why: "serves Redis databases",
  },
  {
    name: "pgbouncer",
    program: "pgbouncer",
    required: false,
    brought: true,
    // Each database has one of its own; the package's service would only listen for nobody.
    unwanted: "pgbouncer.service",
    why: "shares PostgreSQL connections among many clients",
  },
  { name: "psmisc", program: "fuser", required: false, why: "is part of the standard sandbox" },
];

/** What only slow tests run; `inCi`: also those that CI runs. As root they are installed for those; without them these tests are skipped. */
const testPackages = [
  { name: "haproxy", program: "haproxy", required: true, why: "is the edge's other data plane" },
  {
    name: "qemu-system-x86",
    program: "qemu-system-x86_64",
    required: true,
    why: "runs virtual machines in tests",
  },
  {
    name: "pebble",
    program: "pebble",
    required: true,
    inCi: true,
    why: "is the certificate authority of tests",
  },
  { name: "gcc", program: "gcc", required: true, why: "builds what a virtual machine starts with" },
  { name: "libc6-dev", program: "gcc", required: true, why: "is what gcc links with" },
  { name: "mmdebstrap", program: "mmdebstrap", required: true, why: "builds the images of templates" },
  { name: "chromium", program: "chromium", required: true, why: "opens pages as visitors do" },
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

/** As `systemctl mask`, also where nothing runs yet that could be asked. */
function mask(unit) {
  const link = `/etc/systemd/system/${unit}`;
  mkdirSync("/etc/systemd/system", { recursive: true });
  if (!existsSync(link)) symlinkSync("/dev/null", link);
}

/**
 * As root on Debian, installs what is required and missing; else says what to run.
 *
 * @param options.forSlowTests also what only they need; "ci": what those of CI need
 * @returns names still missing
 */
export function ensureSystemPackages({ path, isRoot, say, forSlowTests = false }) {
  const wanted = [
    ...systemPackages,
    ...testPackages.filter((entry) => forSlowTests === true || (forSlowTests === "ci" && entry.inCi)),
  ];
  const isDebian = existsSync("/etc/debian_version") && findProgram("apt-get", path) !== null;
  const mayInstall = isRoot && isDebian;
  const isWanted = (entry) => entry.required || (mayInstall && entry.brought === true);
  const missing = wanted.filter((entry) => isWanted(entry) && findProgram(entry.program, path) === null);
  if (missing.length === 0) return [];
  const names = missing.map((entry) => entry.name);
  if (!mayInstall) {
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
  const install = (list) =>
    spawnSync("apt-get", ["install", "-y", "--no-install-recommends", ...list], options).status === 0;
  for (const { unwanted } of missing) if (unwanted) mask(unwanted);
  // One package that this release does not have must not keep the others away.
  if (!install(names)) for (const name of names) install([name]);
  const still = missing.filter((entry) => findProgram(entry.program, path) === null);
  const stillNames = still.map((entry) => entry.name);
  if (still.length > 0) say(`✗ still missing: ${stillNames.join(", ")} → ${installLine(stillNames)}`);
  return still.filter((entry) => entry.required).map((entry) => entry.name);
}
