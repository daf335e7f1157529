import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { linkFile } from "./brand.ts";
import { CliError } from "./failure.ts";

/** @returns the deployment that this folder was published to, or null */
export function readLink(folder: string): string | null {
  const path = join(folder, linkFile);
  if (!existsSync(path)) return null;
  try {
    const { deploymentId } = JSON.parse(readFileSync(path, "utf8")) as { deploymentId?: unknown };
    return typeof deploymentId === "string" ? deploymentId : null;
  } catch (cause) {
    throw new CliError(
      "LINK_DAMAGED",
      `${path} is not JSON.`,
      "Remove it, or name the deployment with --deployment.",
      1,
      { cause },
    );
  }
}

/** Keeps other fields of the file. */
export function writeLink(folder: string, deploymentId: string, name: string): void {
  const path = join(folder, linkFile);
  const known = existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as object) : {};
  const text = JSON.stringify({ version: 1, ...known, deploymentId, name }, null, 2);
  writeFileSync(`${path}.new`, `${text}\n`);
  renameSync(`${path}.new`, path);
}
