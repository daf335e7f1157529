import { basename, resolve } from "node:path";
import type { Command } from "commander";
import type { Client, Published, PublishRequest } from "@platform/sdk";
import { assertFolder } from "../app-folder.ts";
import { brand } from "../brand.ts";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { readLink, writeLink } from "../link-file.ts";
import { readManifest, type Manifest } from "../manifest.ts";
import { collectPair, parsePort } from "../pairs.ts";
import { pushFolder } from "../push-folder.ts";

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

/** The sandbox is only the way there: the release does not need it, so it goes in any case. */
async function publishFolder(
  context: Context,
  client: Client,
  folder: string,
  options: PublishOptions,
): Promise<Published> {
  assertFolder(folder);
  const manifest = readManifest(folder);
  const deploymentId = options.deployment ?? readLink(folder);
  const request = toRequest(options, manifest, deploymentId, manifest.name ?? basename(folder));
  const step = context.output.step("sandbox");
  const sandbox = await client.sandboxes.create({
    timeout_sec: 3600,
    ...(manifest.template ? { template_id: manifest.template } : {}),
  });
  try {
    await client.sandboxes.waitUntilReady(sandbox.id);
    step.done();
    const upload = context.output.step("files");
    const { files, sizeBytes } = await pushFolder(client, sandbox.id, folder, {
      target: manifest.workdir,
      excluded: manifest.excluded,
    });
    upload.done(`${files} files, ${sizeBytes} bytes`);
    const published = await freeze(context, client, sandbox.id, request);
    writeLink(folder, published.deployment.id, published.deployment.name);
    return published;
  } finally {
    await client.sandboxes.delete(sandbox.id);
  }
}

async function freeze(
  context: Context,
  client: Client,
  sandboxId: string,
  request: PublishRequest,
): Promise<Published> {
  const step = context.output.step("release");
  const published = await client.sandboxes.publish(sandboxId, request);
  step.done(`release ${published.release.id}`);
  if (request.promote === false) return published;
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
): PublishRequest {
  const kind = options.static ? "static" : options.dynamic ? "dynamic" : undefined;
  const wanted = options.database ?? (manifest?.wantsDatabase && !deploymentId ? true : undefined);
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
    env: options.env,
    promote: options.promote,
  };
  const given = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(given) as PublishRequest;
}
