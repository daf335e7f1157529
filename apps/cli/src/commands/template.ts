import { openAsBlob } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { parse } from "yaml";
import { newIdempotencyKey, type Client } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { table } from "../output.ts";

interface TemplateRow {
  readonly id: string;
  readonly slug: string;
  readonly status: string;
  readonly built_in: boolean;
  readonly description: string | null;
  readonly image?: { readonly fallback: string | null };
}

interface BuildRow {
  readonly id: string;
  readonly template_id: string;
  readonly state: string;
  readonly created_at: string;
  readonly error: { readonly code: string; readonly message: string } | null;
}

const uploadTimeoutMs = 3_600_000;

interface BuildOptions {
  readonly image?: string;
  readonly archive?: string;
}

const at = (id: string) => encodeURIComponent(id);

export function addTemplate(program: Command, context: () => Context): void {
  const template = program.command("template").description("templates of sandboxes");
  template
    .command("list")
    .alias("ls")
    .description("list templates")
    .action(async () =>
      withClient(context(), async (client) => {
        const all = await client.http.json<TemplateRow[]>("GET", "/sandbox-templates");
        const rows = all.map((one) => [
          one.slug,
          one.status,
          one.built_in ? "platform" : "own",
          one.image?.fallback ? `host: ${one.image.fallback}` : "-",
          one.description ?? "",
        ]);
        context().output.result(all, table(["NAME", "STATUS", "BY", "SERVED BY", "DESCRIPTION"], rows));
      }),
    );
  template
    .command("build")
    .description("build a template from a build spec (JSON or YAML) and follow its log")
    .argument("<name>")
    .argument("[spec]", "file, such as template.yaml")
    .option("--image <reference>", "start from an OCI image of a configured registry, such as node:22-slim")
    .option("--archive <file>", "start from a tar of an OCI image layout, such as `docker save` writes")
    .action(async (name: string, file: string | undefined, options: BuildOptions) =>
      build(context(), name, file, options),
    );
  template
    .command("promote")
    .description("use a build for new sandboxes: the given one, or the newest that is ready")
    .argument("<name>")
    .argument("[build]")
    .action(async (name: string, buildId: string | undefined) =>
      choose(context(), name, "promote", buildId === undefined ? {} : { build_id: buildId }),
    );
  template
    .command("rollback")
    .description("return to the build that was used before")
    .argument("<name>")
    .action(async (name: string) => choose(context(), name, "rollback", {}));
  template
    .command("builds")
    .description("list the builds of a template, the newest first")
    .argument("<name>")
    .action(async (name: string) =>
      withClient(context(), async (client) => {
        const all = await client.http.json<BuildRow[]>("GET", `/sandbox-templates/${at(name)}/builds`);
        const rows = all.map((one) => [one.id, one.state, one.error?.code ?? "-", one.created_at]);
        context().output.result(all, table(["BUILD", "STATE", "ERROR", "CREATED"], rows));
      }),
    );
  template
    .command("logs")
    .description("print the log of a build")
    .argument("<build>")
    .action(async (id: string) =>
      withClient(context(), async (client) => {
        await follow(context(), client, id);
      }),
    );
  template
    .command("delete")
    .alias("rm")
    .description("delete a template that no sandbox uses")
    .argument("<name>")
    .action(async (name: string) =>
      withClient(context(), async (client) => {
        await client.http.json("DELETE", `/sandbox-templates/${at(name)}`);
        context().output.result({ removed: name }, name);
      }),
    );
}

async function readSpec(context: Context, file: string): Promise<unknown> {
  const path = resolve(context.cwd, file);
  try {
    return parse(await readFile(path, "utf8")) as unknown;
  } catch (cause) {
    throw new CliError(
      "SPEC_UNREADABLE",
      `${path} cannot be read as JSON or YAML: ${(cause as Error).message.split("\n")[0]}`,
      "Correct the file, or give another one.",
      1,
      { cause },
    );
  }
}

async function choose(
  context: Context,
  name: string,
  action: "promote" | "rollback",
  body: Record<string, string>,
): Promise<void> {
  await withClient(context, async (client) => {
    const path = `/sandbox-templates/${at(name)}/${action}`;
    const row = await client.http.json<{ slug: string; active_build_id: string }>("POST", path, { body });
    context.output.result(row, `template ${row.slug} uses build ${row.active_build_id}`);
  });
}

/** The spec with the image that the options name in place of its base. */
async function specOf(
  context: Context,
  client: Client,
  file: string | undefined,
  { image, archive }: BuildOptions,
): Promise<unknown> {
  if (file === undefined && image === undefined && archive === undefined)
    throw new CliError(
      "SPEC_MISSING",
      "Nothing says what to build.",
      "Give a build spec, --image or --archive.",
    );
  const spec = file === undefined ? {} : await readSpec(context, file);
  if (image === undefined && archive === undefined) return spec;
  if (archive === undefined) return { ...(spec as object), image };
  const path = resolve(context.cwd, archive);
  const step = context.output.step(`upload ${archive}`);
  const bytes = await openAsBlob(path).catch((cause: unknown) => {
    throw new CliError("ARCHIVE_UNREADABLE", `${path} cannot be read.`, "Give a file that exists.", 1, {
      cause,
    });
  });
  const uploaded = await client.http.json<{ image: string }>("POST", "/sandbox-template-images", {
    bytes,
    timeoutMs: uploadTimeoutMs,
  });
  step.done();
  return { ...(spec as object), image: uploaded.image };
}

async function build(
  context: Context,
  name: string,
  file: string | undefined,
  options: BuildOptions,
): Promise<void> {
  await withClient(context, async (client) => {
    const spec = await specOf(context, client, file, options);
    const all = await client.http.json<TemplateRow[]>("GET", "/sandbox-templates");
    const known = all.find((one) => !one.built_in && (one.slug === name || one.id === name));
    const template =
      known ??
      (await client.http.json<TemplateRow>("POST", "/sandbox-templates", {
        body: { name, slug: name, build_spec: spec },
        idempotencyKey: newIdempotencyKey(),
      }));
    const started = await client.http.json<BuildRow>("POST", `/sandbox-templates/${at(template.id)}/builds`, {
      body: { build_spec: spec },
      idempotencyKey: newIdempotencyKey(),
    });
    context.output.say(`build ${started.id}`);
    const ended = await follow(context, client, started.id);
    if (ended.state !== "ready")
      throw new CliError(
        ended.error?.code ?? "BUILD_FAILED",
        ended.error?.message ?? `The build ended as ${ended.state}.`,
        "Correct the build spec and build again.",
      );
    context.output.result(ended, `template ${template.slug} is ready`);
  });
}

/** Prints lines as they come until the build ends. */
async function follow(context: Context, client: Client, id: string): Promise<BuildRow> {
  for await (const event of client.http.events("GET", `/sandbox-template-builds/${at(id)}/logs/stream`)) {
    const data = JSON.parse(event.data) as { line?: string };
    if (event.event === "log_line") context.output.say(data.line ?? "");
    if (event.event === "done") break;
  }
  return client.http.json<BuildRow>("GET", `/sandbox-template-builds/${at(id)}`);
}
