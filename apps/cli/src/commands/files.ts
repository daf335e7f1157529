import { createWriteStream, openAsBlob, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { buffer } from "node:stream/consumers";
import { basename, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import type { Command } from "commander";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { readManifest } from "../manifest.ts";
import { table } from "../output.ts";
import { pushFolder } from "../push-folder.ts";

/** What the API takes in one call, with room for base64. */
const maxFileBytes = 8 * 1024 * 1024;

export function addFiles(sandbox: Command, context: () => Context): void {
  const files = sandbox.command("files").description("files of a sandbox");
  files
    .command("ls")
    .argument("<sandbox>", "id or name")
    .argument("[path]", "", "/workspace")
    .action(async (id: string, path: string) => list(context(), id, path));
  files
    .command("read")
    .description("print a file's bytes")
    .argument("<sandbox>", "id or name")
    .argument("<path>")
    .action(async (id: string, path: string) => read(context(), id, path));
  files
    .command("write")
    .description("store a local file, or standard input for -")
    .argument("<sandbox>", "id or name")
    .argument("<path>", "absolute path in the sandbox")
    .argument("[local]", "", "-")
    .action(async (id: string, path: string, local: string) => write(context(), id, path, local));
  files
    .command("upload")
    .description("store a local file of any size")
    .argument("<sandbox>", "id or name")
    .argument("<local>")
    .argument("[path]", "in the sandbox; default: its name below /workspace")
    .action(async (id: string, local: string, path: string | undefined) =>
      upload(context(), id, local, path),
    );
  files
    .command("download")
    .description("fetch a file of any size")
    .argument("<sandbox>", "id or name")
    .argument("<path>", "in the sandbox")
    .argument("[local]", "default: its name in this folder")
    .action(async (id: string, path: string, local: string | undefined) =>
      download(context(), id, path, local),
    );
  files
    .command("push")
    .description("send a folder, without what sync.exclude and the standard names leave out")
    .argument("<sandbox>", "id or name")
    .argument("[folder]", "", ".")
    .option("--to <path>", "folder in the sandbox", "/workspace")
    .action(async (id: string, folder: string, options: { to: string }) =>
      push(context(), id, folder, options.to),
    );
}

async function list(context: Context, id: string, path: string): Promise<void> {
  await withClient(context, async (client) => {
    const entries = await client.sandboxes.listFiles((await client.sandboxes.find(id)).id, path);
    const rows = entries.map((entry) => [
      entry.is_dir ? "-" : String(entry.size ?? "?"),
      entry.name + (entry.is_dir ? "/" : ""),
    ]);
    context.output.result(entries, table(["SIZE", "NAME"], rows));
  });
}

async function read(context: Context, id: string, path: string): Promise<void> {
  await withClient(context, async (client) => {
    const content = await client.sandboxes.readFile((await client.sandboxes.find(id)).id, path);
    if (context.output.isJson)
      context.output.result({ path, content_base64: content.toString("base64") }, "");
    else context.output.raw(content);
  });
}

async function write(context: Context, id: string, path: string, local: string): Promise<void> {
  const content = local === "-" ? await buffer(context.stdin) : readLocal(resolve(context.cwd, local));
  if (content.length > maxFileBytes) {
    throw new CliError(
      "FILE_TOO_LARGE",
      `The file has ${content.length} bytes; at most ${maxFileBytes} go in one call.`,
      "Send it with `files push`, which sends pieces.",
    );
  }
  await withClient(context, async (client) => {
    const written = await client.sandboxes.writeFile((await client.sandboxes.find(id)).id, { path, content });
    context.output.result(written, `${written.path} ${written.size_bytes} bytes`);
  });
}

function readLocal(file: string): Buffer {
  if (statSync(file, { throwIfNoEntry: false })?.isFile()) return readFileSync(file);
  throw new CliError(
    "FILE_NOT_FOUND",
    `${file} is no file.`,
    "Give a file of this machine, or - for standard input.",
  );
}

async function push(context: Context, id: string, folder: string, target: string): Promise<void> {
  const from = resolve(context.cwd, folder);
  const { excluded } = readManifest(from);
  await withClient(context, async (client) => {
    const step = context.output.step("files");
    const sandbox = await client.sandboxes.find(id);
    const { files, sizeBytes } = await pushFolder(client, sandbox.id, from, { target, excluded });
    step.done();
    context.output.result(
      { sandbox_id: sandbox.id, files, size_bytes: sizeBytes },
      `${files} files, ${sizeBytes} bytes → ${target}`,
    );
  });
}

const transferTimeoutMs = 3_600_000;
const inSandbox = (path: string) => (path.startsWith("/") ? path : `/workspace/${path}`);
const filePath = (id: string, path: string) =>
  `/sandboxes/${id}/files/${inSandbox(path).replace(/^\/+/, "").split("/").map(encodeURIComponent).join("/")}`;

async function upload(context: Context, id: string, local: string, path: string | undefined): Promise<void> {
  const file = resolve(context.cwd, local);
  if (!statSync(file, { throwIfNoEntry: false })?.isFile())
    throw new CliError(
      "FILE_NOT_FOUND",
      `${file} is no file.`,
      "Give a file of this machine, or use `files push` for a folder.",
    );
  await withClient(context, async (client) => {
    const step = context.output.step(`upload ${local}`);
    const sandbox = await client.sandboxes.find(id);
    const stored = await client.http.json<{ path: string; size_bytes: number }>(
      "PUT",
      filePath(sandbox.id, path ?? basename(file)),
      {
        bytes: await openAsBlob(file),
        timeoutMs: transferTimeoutMs,
      },
    );
    step.done();
    context.output.result(stored, `${stored.path} ${stored.size_bytes} bytes`);
  });
}

/** Written beside its place first: a download that breaks off leaves the old file. */
async function download(
  context: Context,
  id: string,
  path: string,
  local: string | undefined,
): Promise<void> {
  const file = resolve(context.cwd, local ?? basename(path));
  await withClient(context, async (client) => {
    const step = context.output.step(`download ${path}`);
    const sandbox = await client.sandboxes.find(id);
    const body = await client.http.stream(filePath(sandbox.id, path), { timeoutMs: transferTimeoutMs });
    const part = `${file}.part`;
    try {
      await pipeline(body, createWriteStream(part));
      renameSync(part, file);
    } finally {
      rmSync(part, { force: true });
    }
    step.done();
    const { size } = statSync(file);
    context.output.result({ path, file, size_bytes: size }, `${file} ${size} bytes`);
  });
}
