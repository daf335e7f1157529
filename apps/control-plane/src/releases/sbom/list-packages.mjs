// Runs in the build's box, in the app's folder: one JSON object a line for every installed package, then
// `{"type":"end"}`. Reads only; links are not followed, so each package is met where it really is.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";

const root = process.cwd();
const mostDepth = 40;
let left = 20_000;

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const list = (folder) => (existsSync(folder) ? readdirSync(folder, { withFileTypes: true }) : []);
function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return null; // Absent, or broken: then it is no package that Node.js would find either.
  }
}

/** What npm noted beside the packages: where each came from, and its digest. */
const noted = readJson(join(root, "node_modules/.package-lock.json"))?.packages ?? {};

function npmPackage(folder, depth) {
  const found = readJson(join(folder, "package.json"));
  if (typeof found?.name === "string" && typeof found.version === "string" && left-- > 0) {
    const path = relative(root, folder);
    const license = typeof found.license === "string" ? found.license : (found.license?.type ?? null);
    const needs = Object.keys({ ...found.dependencies, ...found.optionalDependencies });
    const integrity = noted[path]?.integrity ?? null;
    say({ type: "npm", path, name: found.name, version: found.version, license, integrity, needs });
  }
  modules(join(folder, "node_modules"), depth + 1);
}

function modules(folder, depth) {
  if (depth > mostDepth) return;
  for (const entry of list(folder)) {
    const place = join(folder, entry.name);
    if (!entry.isDirectory()) continue;
    if (entry.name === ".pnpm")
      for (const one of list(place)) modules(join(place, one.name, "node_modules"), depth + 1);
    else if (entry.name.startsWith("@"))
      for (const one of list(place)) {
        if (one.isDirectory()) npmPackage(join(place, one.name), depth);
      }
    else if (!entry.name.startsWith(".")) npmPackage(place, depth);
  }
}

function pythonPackage(folder) {
  const text = existsSync(join(folder, "METADATA")) ? readFileSync(join(folder, "METADATA"), "utf8") : "";
  const head = text.split(/\r?\n\r?\n/)[0].split(/\r?\n/);
  const all = (name) =>
    head.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
  const [name] = all("Name");
  const [version] = all("Version");
  if (!name || !version || left-- <= 0) return;
  const needs = all("Requires-Dist")
    .filter((line) => !/;.*\bextra\b/.test(line))
    .map((line) => /^[\w.-]+/.exec(line)?.[0] ?? "");
  const record = join(folder, "RECORD");
  // Of the list that an installer leaves: the digests of all files of the package.
  const recordSha256 = existsSync(record)
    ? createHash("sha256").update(readFileSync(record)).digest("hex")
    : null;
  const license = (all("License-Expression")[0] ?? all("License")[0] ?? "").slice(0, 200) || null;
  say({ type: "pypi", path: relative(root, folder), name, version, license, recordSha256, needs });
}

const app = readJson(join(root, "package.json"));
say({
  type: "app",
  name: typeof app?.name === "string" ? app.name : "app",
  version: typeof app?.version === "string" ? app.version : null,
  needs: Object.keys({ ...app?.dependencies, ...app?.devDependencies, ...app?.optionalDependencies }),
});
modules(join(root, "node_modules"), 0);
for (const folder of [".python", "site-packages"])
  for (const entry of list(join(root, folder)))
    if (entry.isDirectory() && entry.name.endsWith(".dist-info"))
      pythonPackage(join(root, folder, entry.name));
say({ type: "end" });
