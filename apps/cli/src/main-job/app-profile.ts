import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { CliError } from "../failure.ts";
import { quote } from "../push-folder.ts";
import { readManifest, type Manifest } from "../manifest.ts";

/** How an app folder is installed, started and asked, from its manifest and its package.json. */
export interface AppProfile {
  readonly folder: string;
  readonly name: string;
  readonly manifest: Manifest;
  readonly kind: "static" | "dynamic";
  readonly install: string | null;
  readonly build: string | null;
  /** For the preview. */
  readonly preview: string;
  /** For production; null for files. */
  readonly start: string | null;
  readonly port: number;
  readonly healthPath: string;
  readonly wantsDatabase: boolean;
  /** The example app, whose forms and live feed are proved too. */
  readonly isIntake: boolean;
}

interface PackageFile {
  readonly scripts?: Record<string, string>;
}

/** @throws CliError NOT_AN_APP when nothing says how to serve the folder */
export function profileOf(folder: string): AppProfile {
  const manifest = readManifest(folder);
  const packageFile = join(folder, "package.json");
  const scripts = existsSync(packageFile)
    ? ((JSON.parse(readFileSync(packageFile, "utf8")) as PackageFile).scripts ?? {})
    : null;
  const start = manifest.start ?? (scripts?.["start"] && !manifest.output ? "npm start" : null);
  if (start === null && !manifest.output && !existsSync(join(folder, "index.html")) && !scripts?.["build"]) {
    const remedy = "Add an app manifest with `start`, a package.json with a start script, or an index.html.";
    throw new CliError("NOT_AN_APP", `${folder} does not say how it is served.`, remedy);
  }
  const kind = start === null ? "static" : "dynamic";
  const build = manifest.build ?? (scripts?.["build"] && kind === "static" ? "npm run build" : null);
  const output = manifest.output ?? (build === null ? "." : "dist");
  const port = manifest.port ?? (kind === "static" ? 8080 : 3000);
  return {
    folder,
    name: manifest.name ?? basename(folder),
    manifest,
    kind,
    install: installCommand(folder, manifest, scripts !== null),
    build,
    preview: start ?? `python3 -m http.server ${port} --bind 0.0.0.0 --directory ${quote(output)}`,
    start,
    port,
    healthPath: manifest.healthPath ?? "/",
    wantsDatabase: manifest.wantsDatabase,
    isIntake: manifest.name === "clinic-intake",
  };
}

function installCommand(folder: string, manifest: Manifest, hasPackages: boolean): string | null {
  if (manifest.install === false) return null;
  if (manifest.install) return manifest.install;
  if (!hasPackages) return null;
  return existsSync(join(folder, "package-lock.json"))
    ? "npm ci --no-audit --no-fund"
    : "npm install --no-audit --no-fund";
}
