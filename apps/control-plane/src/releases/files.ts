import { posix } from "node:path";
import type { Readable } from "node:stream";
import { PlatformError } from "@platform/contract";
import { FileType, GuestError, type GuestClient } from "@platform/guest-protocol";
import { manifestNames, type AppFiles, type Plan } from "./plan.ts";

const isMissing = (error: unknown) =>
  (error instanceof GuestError && error.status === 404) || (error as { code?: unknown }).code === 5;

export async function readOptional(guest: GuestClient, path: string): Promise<string | undefined> {
  try {
    return await shortText(await guest.readFile(path), path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Of a manifest: no honest one is longer, and it is held in memory. */
const mostBytes = 8 * 1024 * 1024;

async function shortText(stream: Readable, path: string): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > mostBytes)
      throw new PlatformError(
        "INVALID_PATH",
        `${path} is longer than ${mostBytes} bytes. Publish without it.`,
        {
          details: { step: "freeze", path },
        },
      );
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** @throws PlatformError SOURCE_EMPTY */
export async function readAppFiles(guest: GuestClient, root: string): Promise<AppFiles> {
  const { entries } = await guest.filesystem.listDir({ path: root, depth: 1 }).catch((error: unknown) => {
    if (isMissing(error))
      throw new PlatformError(
        "SOURCE_EMPTY",
        `The folder ${root} does not exist in the app. Publish the folder that holds it.`,
        { details: { step: "freeze", path: root } },
      );
    throw error;
  });
  if (entries.length === 0)
    throw new PlatformError(
      "SOURCE_EMPTY",
      "The workspace is empty. Write the app's files below /workspace first.",
      { details: { step: "freeze", path: root } },
    );
  const names = new Set(entries.map((entry) => entry.name));
  const manifestName = manifestNames.find((name) => names.has(name));
  const manifestText = manifestName ? await readOptional(guest, `${root}/${manifestName}`) : undefined;
  return {
    manifest:
      manifestName && manifestText !== undefined ? { name: manifestName, text: manifestText } : undefined,
    packageJson: names.has("package.json") ? await readOptional(guest, `${root}/package.json`) : undefined,
    names,
  };
}

export interface StaticOutput {
  readonly folder: string;
  /** Serve index.html for unknown paths: the output is a single-page app. */
  readonly spa: boolean;
}

/**
 * Finds the folder with the static output.
 *
 * @throws PlatformError STATIC_OUTPUT_NOT_FOUND naming every folder that was looked in
 */
export async function findStaticOutput(guest: GuestClient, plan: Plan): Promise<StaticOutput> {
  const lookedIn: string[] = [];
  for (const output of plan.outputs) {
    const folder = posix
      .normalize(output.startsWith("/") ? output : `${plan.root}/${output}`)
      .replace(/(.)\/$/, "$1");
    if (!folder.startsWith("/workspace")) continue;
    lookedIn.push(output);
    const found = await guest.filesystem.stat({ path: `${folder}/index.html` }).catch((error: unknown) => {
      if (isMissing(error)) return null;
      throw error;
    });
    if (!found?.entry || found.entry.type === FileType.DIRECTORY) continue;
    const count = await guest.exec(
      `find . -name node_modules -prune -o -name '*.html' -print | head -3 | wc -l`,
      { cwd: folder, timeoutMs: 30_000 },
    );
    return { folder, spa: Number(count.stdout.trim()) === 1 };
  }
  const where = plan.outputNamed ? lookedIn[0] : lookedIn.join(", ");
  throw new PlatformError(
    "STATIC_OUTPUT_NOT_FOUND",
    `No index.html in ${where ?? plan.outputs.join(", ")}. Set output_path to the folder that the build writes, or publish as dynamic.`,
    {
      details: { step: "collect", output_path: plan.outputs[0], looked_in: lookedIn },
      errors: { output_path: ["has no index.html"] },
    },
  );
}
