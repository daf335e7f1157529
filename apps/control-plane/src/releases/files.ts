import { posix } from "node:path";
import type { Readable } from "node:stream";
import { PlatformError } from "@platform/contract";
import { FileType, GuestError, type GuestClient } from "@platform/guest-protocol";
import { appFolder, detect, manifestNames, type AppFiles, type Plan, type Tree } from "./detect/index.ts";

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

const mostPaths = 20_000;
/** Bytes; no file that decides how to build is larger. */
const largestRead = 2 * 1024 * 1024;

/** Lists the app's files, without installed packages, and reads those asked for. */
async function treeIn(guest: GuestClient, root: string): Promise<Tree> {
  const listed = await guest.exec(
    `find . -maxdepth 5 \\( -name node_modules -o -name .git -o -name .venv -o -name __pycache__ \\) -prune -o -type f -size -${largestRead / 1024}k -printf '%P\\n' | head -${mostPaths}`,
    { cwd: root, timeoutMs: 60_000 },
  );
  const paths = new Set(listed.stdout.split("\n").filter((path) => path !== ""));
  const read = new Map<string, Promise<string | undefined>>();
  return {
    paths,
    read: (path) => {
      if (!paths.has(path)) return Promise.resolve(undefined);
      const text = read.get(path) ?? readOptional(guest, `${root}/${path}`);
      read.set(path, text);
      return text;
    },
  };
}

/** @throws PlatformError SOURCE_EMPTY, MANIFEST_INVALID and what `detect` throws */
export async function readAppFiles(guest: GuestClient, workspace: string): Promise<AppFiles> {
  const { entries } = await guest.filesystem.listDir({ path: workspace, depth: 1 });
  if (entries.length === 0) throw sourceEmpty("The workspace is empty.", workspace);
  const names = new Set(entries.map((entry) => entry.name));
  const manifestName = manifestNames.find((name) => names.has(name));
  const manifestText = manifestName ? await readOptional(guest, `${workspace}/${manifestName}`) : undefined;
  const manifest =
    manifestName && manifestText !== undefined ? { name: manifestName, text: manifestText } : undefined;
  const named = `${workspace}/${appFolder(manifest)}`.replace(/\/$/, "");
  // A folder that was sent by itself is what the manifest in it names, under another name.
  const isThere = await guest.filesystem.stat({ path: named }).catch(missingAsNull);
  const root = isThere ? named : workspace;
  const tree = await treeIn(guest, root);
  return { manifest, root, tree, detected: await detect(tree) };
}

function missingAsNull(error: unknown): null {
  if (isMissing(error)) return null;
  throw error;
}

const sourceEmpty = (why: string, path: string) =>
  new PlatformError("SOURCE_EMPTY", `${why} Write the app's files below /workspace first.`, {
    details: { step: "freeze", path, pointer: "", evidence: [why] },
  });

export interface StaticOutput {
  readonly folder: string;
  /** Serve index.html for unknown paths: the output is a single-page app. */
  readonly spa: boolean;
}

const isPage = async (guest: GuestClient, folder: string): Promise<boolean> => {
  const found = await guest.filesystem.stat({ path: `${folder}/index.html` }).catch(missingAsNull);
  return found?.entry !== undefined && found.entry.type !== FileType.DIRECTORY;
};

/** A `*` in the place of one folder becomes each folder that is there. */
async function expanded(guest: GuestClient, path: string): Promise<string[]> {
  const star = path.indexOf("/*");
  if (star < 0) return [path];
  const parent = path.slice(0, star);
  const listed = await guest.filesystem.listDir({ path: parent, depth: 1 }).catch(missingAsNull);
  const folders = (listed?.entries ?? []).filter((entry) => entry.type === FileType.DIRECTORY);
  return folders.map((entry) => `${parent}/${entry.name}${path.slice(star + 2)}`);
}

/** @throws PlatformError STATIC_OUTPUT_NOT_FOUND naming every folder that was looked in, and one that has a page */
export async function findStaticOutput(guest: GuestClient, plan: Plan): Promise<StaticOutput> {
  const lookedIn: string[] = [];
  for (const output of plan.outputs) {
    const path = posix
      .normalize(output.startsWith("/") ? output : `${plan.root}/${output}`)
      .replace(/(.)\/$/, "$1");
    if (!path.startsWith("/workspace")) continue;
    lookedIn.push(output);
    for (const folder of await expanded(guest, path)) {
      if (!(await isPage(guest, folder))) continue;
      const count = await guest.exec(
        `find . -name node_modules -prune -o -name '*.html' -print | head -3 | wc -l`,
        { cwd: folder, timeoutMs: 30_000 },
      );
      return { folder, spa: Number(count.stdout.trim()) === 1 };
    }
  }
  throw await outputMissing(guest, plan, lookedIn);
}

async function outputMissing(guest: GuestClient, plan: Plan, lookedIn: string[]): Promise<PlatformError> {
  const where = plan.outputNamed ? lookedIn[0] : lookedIn.join(", ");
  const pages = await guest.exec(
    `find . -maxdepth 5 -name node_modules -prune -o -name index.html -printf '%h\n' | sed 's#^\\./##' | sort | head -5`,
    { cwd: plan.root, timeoutMs: 30_000 },
  );
  const elsewhere = pages.stdout.split("\n").filter((line) => line !== "");
  const other = elsewhere[0];
  return new PlatformError(
    "STATIC_OUTPUT_NOT_FOUND",
    `No index.html in ${where ?? plan.outputs.join(", ")}.${other ? ` There is one in ${other}.` : ""} Set output_path to the folder that the build writes, or publish as dynamic.`,
    {
      details: {
        step: "collect",
        pointer: "/output_path",
        output_path: plan.outputs[0],
        looked_in: lookedIn,
        build_command: plan.build,
        evidence:
          elsewhere.length > 0
            ? elsewhere.map((folder) => `${folder}/index.html`)
            : ["no index.html in the app"],
        ...(other
          ? { patch: [{ type: "request", operations: [{ op: "add", path: "/output_path", value: other }] }] }
          : {}),
      },
      errors: { output_path: ["has no index.html"] },
    },
  );
}
