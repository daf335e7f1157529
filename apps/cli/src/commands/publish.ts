import { createHash } from "node:crypto";
import { closeSync, createReadStream, openSync, readSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import type { Command } from "commander";
import { cutStream } from "@platform/bundle";
import type { Client, FileInChunks, Published, PublishRequest } from "@platform/sdk";
import { assertFolder, packFolderTo } from "../app-folder.ts";
import { brand } from "../brand.ts";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { readLink, writeLink } from "../link-file.ts";
import { readManifest, type Manifest } from "../manifest.ts";
import { collectPair, parsePort } from "../pairs.ts";

export interface PublishOptions {
  readonly sandbox?: string;
  readonly deployment?: string;
  readonly name?: string;
  readonly static?: boolean;
  readonly dynamic?: boolean;
  readonly output?: string;
  readonly build?: string;
  readonly start?: string;
  readonly port?: number;
  readonly health?: string;
  readonly database?: string | true;
  readonly migrations?: string;
  readonly env?: Record<string, string>;
  readonly promote: boolean;
}

export function addPublish(program: Command, context: () => Context): void {
  program
    .command("publish")
    .description("freeze an app folder, or a sandbox, into a release and serve it")
    .argument("[folder]", "app folder; not with --sandbox")
    .option("--sandbox <id>", "publish what this sandbox holds")
    .option("--deployment <id>", "publish to this deployment instead of a new one")
    .option("--name <name>")
    .option("--static", "serve files")
    .option("--dynamic", "run a server")
    .option("--output <folder>", "static output folder")
    .option("--build <command>")
    .option("--start <command>")
    .option("--port <port>", "", parsePort)
    .option("--health <path>", "path that answers 200 when the app works")
    .option("--database [id]", "link this database, or a new one")
    .option("--migrations <folder>", "SQL files that a promote of the release runs on its database")
    .option("--env <NAME=VALUE>", "set a run-time variable (repeatable)", collectPair)
    .option("--no-promote", "make a candidate release; traffic stays where it is")
    .action(async (folder: string | undefined, options: PublishOptions) =>
      publish(context(), folder, options),
    );
}

async function publish(context: Context, folder: string | undefined, options: PublishOptions): Promise<void> {
  if (folder !== undefined && options.sandbox !== undefined) {
    throw new CliError("TWO_SOURCES", "Both a folder and a sandbox are given.", "Give one of them.");
  }
  if (options.static && options.dynamic) {
    throw new CliError(
      "TWO_KINDS",
      "--static and --dynamic exclude each other.",
      "Give one of them, or none.",
    );
  }
  await withClient(context, async (client) => {
    const published = options.sandbox
      ? await publishSandbox(context, client, options.sandbox, options)
      : await publishFolder(context, client, resolve(context.cwd, folder ?? "."), options);
    context.output.result(published, [
      published.url,
      `deployment ${published.deployment.id}`,
      `release    ${published.release.id}`,
      `digest     ${published.release.artifact_sha256 ?? "not known yet"}`,
      ...(options.promote
        ? []
        : [`promote it: ${brand.command} deploy promote ${published.deployment.id} ${published.release.id}`]),
    ]);
  });
}

async function publishSandbox(
  context: Context,
  client: Client,
  id: string,
  options: PublishOptions,
): Promise<Published> {
  const sandbox = await client.sandboxes.find(id);
  return freeze(
    context,
    client,
    sandbox.id,
    toRequest(options, null, options.deployment ?? null, sandbox.name),
  );
}

/** Only what the server does not have yet is sent; the release needs no sandbox. */
async function publishFolder(
  context: Context,
  client: Client,
  folder: string,
  options: PublishOptions,
): Promise<Published> {
  assertFolder(folder);
  const manifest = readManifest(folder);
  // Through a file, so that a large folder is never whole in memory.
  const scratch = await mkdtemp(join(tmpdir(), "publish-"));
  try {
    const path = join(scratch, "app.tar");
    const { files } = await packFolderTo(folder, manifest.excluded, path);
    const known = options.deployment ?? readLink(folder);
    const name = options.name ?? manifest.name ?? basename(folder);
    const deployment = known ? { id: known, name } : await client.deployments.create({ name });
    // Before the publish, so that a refused one is repeated on the same deployment.
    writeLink(folder, deployment.id, deployment.name);
    const id = await upload(context, client, deployment.id, path, files);
    const { deployment_id: _same, ...request } = toRequest(options, manifest, deployment.id, null, !known);
    return await serve(context, client, options.promote, () =>
      client.deployments.publish(deployment.id, { ...request, source_upload_id: id }),
    );
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** @returns id of the upload */
async function upload(
  context: Context,
  client: Client,
  deploymentId: string,
  archive: string,
  files: number,
): Promise<string> {
  const step = context.output.step("upload");
  const { file, close } = await chunksOf(archive);
  try {
    const { id, sentBytes } = await client.deployments.upload(deploymentId, file);
    step.done(`${files} files, ${sentBytes} of ${file.sizeBytes} bytes sent`);
    return id;
  } finally {
    close();
  }
}

async function chunksOf(path: string): Promise<{ file: FileInChunks; close: () => void }> {
  const whole = createHash("sha256");
  const source = async function* () {
    for await (const part of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
      whole.update(part);
      yield part;
    }
  };
  const places: number[] = [];
  const chunks: FileInChunks["chunks"][number][] = [];
  let total = 0;
  for await (const { digest, offset, sizeBytes } of cutStream(source())) {
    places.push(offset);
    chunks.push({ sha256: digest.slice("sha256:".length), size_bytes: sizeBytes });
    total += sizeBytes;
  }
  const handle = openSync(path, "r");
  const read = (index: number) => {
    const content = Buffer.alloc(chunks[index]!.size_bytes);
    readSync(handle, content, 0, content.length, places[index]!);
    return content;
  };
  return {
    file: { sizeBytes: total, sha256: whole.digest("hex"), chunks, read },
    close: () => closeSync(handle),
  };
}

async function freeze(
  context: Context,
  client: Client,
  sandboxId: string,
  request: PublishRequest,
): Promise<Published> {
  return serve(context, client, request.promote !== false, () =>
    client.sandboxes.publish(sandboxId, request),
  );
}

async function serve(
  context: Context,
  client: Client,
  promote: boolean,
  publish: () => Promise<Published>,
): Promise<Published> {
  const step = context.output.step("release");
  const published = await publish();
  step.done(`release ${published.release.id}`);
  if (!promote) return { ...published, url: published.url ?? published.deployment.public_url ?? "" };
  const serving = context.output.step("serving");
  const deployment = await client.deployments.waitUntilActive(published.deployment.id, published.release.id);
  serving.done();
  return { ...published, deployment, url: deployment.public_url ?? published.url };
}

/** Flags win over the manifest. */
export function toRequest(
  options: PublishOptions,
  manifest: Manifest | null,
  deploymentId: string | null,
  fallbackName: string | null,
  isNew = deploymentId === null,
): PublishRequest {
  const kind = options.static ? "static" : options.dynamic ? "dynamic" : undefined;
  const wanted = options.database ?? (manifest?.wantsDatabase && isNew ? true : undefined);
  const fields: { -readonly [Name in keyof PublishRequest]: PublishRequest[Name] | null } = {
    deployment_id: deploymentId,
    name: deploymentId ? null : (options.name ?? fallbackName),
    deployment_type: kind,
    output_path: options.output ?? manifest?.output,
    build_command: options.build ?? manifest?.build,
    run_command: options.start ?? manifest?.start,
    port: options.port ?? manifest?.port,
    health_check_path: options.health ?? manifest?.healthPath,
    database: typeof wanted === "string" ? { existing_database_id: wanted } : wanted,
    migrations_path: options.migrations,
    env: options.env,
    promote: options.promote,
  };
  const given = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(given) as PublishRequest;
}
