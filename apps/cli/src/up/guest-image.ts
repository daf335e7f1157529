import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../failure.ts";
import { cleanEnvironment } from "./clean-environment.ts";

const sources = ["apps/guest", "packages/guest-protocol"];

/** Changes when the agent, its protocol or a package that it may bundle changes. */
function contentHash(repository: string): string {
  const hash = createHash("sha256");
  hash.update(readFileSync(join(repository, "package-lock.json")));
  for (const source of sources) {
    const folder = join(repository, source);
    const files = readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter(
        (item) =>
          item.isFile() && !item.parentPath.includes("node_modules") && !item.name.endsWith(".test.ts"),
      )
      .map((item) => join(item.parentPath, item.name))
      .sort();
    for (const file of files)
      hash.update(file.slice(repository.length)).update("\0").update(readFileSync(file));
  }
  return hash.digest("hex").slice(0, 16);
}

/**
 * Builds the agent that runs in every box, once for each content. Two builds at a time end in the
 * same folder: the first rename wins.
 *
 * @returns folder named after its content, so that running boxes keep the one they started with
 * @throws CliError GUEST_BUILD_FAILED with the builder's output
 */
export async function ensureGuestImage(repository: string, path: string): Promise<string> {
  const images = join(repository, ".toolchain", "guest");
  const image = join(images, contentHash(repository));
  if (existsSync(image)) return image;
  mkdirSync(images, { recursive: true });
  const scratch = join(images, `building-${process.pid}`);
  rmSync(scratch, { recursive: true, force: true });
  const builder = spawn(process.execPath, [join(repository, "apps", "guest", "build.ts"), scratch], {
    cwd: repository,
    env: cleanEnvironment(path, scratch, {}),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const output: string[] = [];
  builder.stdout.on("data", (chunk: Buffer) => output.push(chunk.toString()));
  builder.stderr.on("data", (chunk: Buffer) => output.push(chunk.toString()));
  const [code] = (await once(builder, "close")) as [number | null];
  if (code !== 0) {
    rmSync(scratch, { recursive: true, force: true });
    const text = output.join("").trim().split("\n").slice(-8).join("\n");
    throw new CliError(
      "GUEST_BUILD_FAILED",
      `The sandbox agent could not be built:\n${text}`,
      "Run `npm ci` again; the builder's output is above.",
    );
  }
  try {
    renameSync(scratch, image);
  } catch (error) {
    if (!existsSync(image)) throw error;
    rmSync(scratch, { recursive: true, force: true });
  }
  return image;
}
