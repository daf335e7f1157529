import { Option, type Command } from "commander";
import type { CreateSandbox } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { table } from "../output.ts";
import { collectPair, parseCount, parsePort } from "../pairs.ts";
import { addAgentTools } from "./agent-tools.ts";
import { addConsole } from "./console.ts";
import { addFiles } from "./files.ts";
import { addLife } from "./sandbox-life.ts";

interface CreateOptions {
  readonly name?: string;
  readonly template?: string;
  readonly size?: string;
  readonly env?: Record<string, string>;
  readonly database?: string | true;
  readonly wait: boolean;
}

export function addSandbox(program: Command, context: () => Context): void {
  const sandbox = program.command("sandbox").description("isolated, editable workspaces");
  sandbox
    .command("create")
    .description("create a sandbox and wait until it answers commands")
    .option("--name <name>")
    .option("--template <id>")
    .option("--size <size>", "xs, small, medium, large or xl")
    .option("--env <NAME=VALUE>", "set a variable (repeatable)", collectPair)
    .option("--database [id-or-name]", "link this database, or a new one, before the first process starts")
    .option("--no-wait", "return at once")
    .action(async (options: CreateOptions) => create(context(), options));
  sandbox
    .command("ls")
    .description("list sandboxes")
    .action(async () => list(context()));
  sandbox
    .command("exec")
    .description("run a command and stream its output; exits with the command's own code")
    .argument("<sandbox>", "id or name")
    .argument("<command...>", "after --, such as: -- npm test")
    .option("--cwd <folder>", "absolute folder", "/workspace")
    .option("--timeout <seconds>", "", parseCount, 3600)
    .option("--env <NAME=VALUE>", "set a variable (repeatable)", collectPair)
    .action(async (id: string, words: string[], options: ExecOptions) => exec(context(), id, words, options));
  sandbox
    .command("logs")
    .description("last lines of its services")
    .argument("<sandbox>", "id or name")
    .option("--lines <count>", "", parseCount, 100)
    .option("-f, --follow", "print new lines as they come, until Ctrl-C")
    .action(async (id: string, options: { lines: number; follow?: boolean }) =>
      logs(context(), id, options.lines, options.follow ?? false),
    );
  sandbox
    .command("expose")
    .description("prove a port reachable and print its URL")
    .argument("<sandbox>", "id or name")
    .argument("<port>", "", parsePort)
    .option("--wait <seconds>", "for a server that is still starting", parseCount, 20)
    .action(async (id: string, port: number, options: { wait: number }) =>
      expose(context(), id, port, options.wait),
    );
  sandbox
    .command("rm")
    .description("destroy sandboxes")
    .argument("<sandbox...>", "ids or names")
    .action(async (ids: string[]) => remove(context(), ids));
  sandbox
    .command("fork")
    .description("copy a sandbox as it is now, once or many times")
    .argument("<sandbox>", "id or name")
    .option("--count <count>", "", parseCount, 1)
    .addOption(
      new Option("--database <way>", "linked databases: the same ones, a branch of each, or none").choices([
        "share",
        "branch",
        "none",
      ]),
    )
    .action(async (id: string, options: { count: number; database?: "share" | "branch" | "none" }) =>
      withClient(context(), async (client) => {
        const source = await client.sandboxes.find(id);
        const forks = await client.sandboxes.fork(source.id, options.count, options.database);
        context().output.result(
          forks,
          forks.map((one) => one.id),
        );
      }),
    );
  sandbox
    .command("recover")
    .description("make a new sandbox from the disk of a failed one")
    .argument("<sandbox>", "id or name")
    .action(async (id: string) =>
      withClient(context(), async (client) => {
        const made = await client.sandboxes.recover((await client.sandboxes.find(id)).id);
        context().output.result(made, made.id);
      }),
    );
  addLife(sandbox, context);
  addFiles(sandbox, context);
  addAgentTools(sandbox, context);
  addConsole(sandbox, context);
}

async function create(context: Context, options: CreateOptions): Promise<void> {
  await withClient(context, async (client) => {
    const database =
      options.database === undefined || options.database === true
        ? options.database
        : { existing_database_id: (await client.databases.find(options.database)).id };
    const request: CreateSandbox = {
      ...(options.name ? { name: options.name } : {}),
      ...(options.template ? { template_id: options.template } : {}),
      ...(options.size ? { size: options.size } : {}),
      ...(options.env ? { env: options.env } : {}),
      ...(database === undefined ? {} : { database }),
    };
    const step = context.output.step("sandbox");
    let sandbox = await client.sandboxes.create(request);
    if (options.wait) {
      step.note(`${sandbox.id} is ${sandbox.state}`);
      sandbox = await client.sandboxes.waitUntilReady(sandbox.id);
    }
    step.done(`sandbox ${sandbox.state}`);
    context.output.result(sandbox, sandbox.id);
  });
}

async function list(context: Context): Promise<void> {
  await withClient(context, async (client) => {
    const sandboxes = await client.sandboxes.list();
    const rows = sandboxes.map((one) => [
      one.id,
      one.name ?? "-",
      one.state,
      one.ready ? "yes" : "no",
      one.created_at,
    ]);
    context.output.result(sandboxes, table(["ID", "NAME", "STATE", "READY", "CREATED"], rows));
  });
}

interface ExecOptions {
  readonly cwd: string;
  readonly timeout: number;
  readonly env?: Record<string, string>;
}

/** A time-out is 124, as of coreutils' timeout; an unknown outcome counts as a network failure. */
function exitCodeOf(code: number): number {
  if (code === -1) return 124;
  return code < 0 ? exitCodes.network : Math.min(code, 255);
}

/** One word is a shell line as it stands; of several, each stays the one argument that the caller's shell made. */
function shellCommand(words: readonly string[]): string {
  if (words.length === 1) return words[0]!;
  return words
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(" ");
}

async function exec(context: Context, id: string, words: string[], options: ExecOptions): Promise<void> {
  await withClient(context, async (client) => {
    const { output } = context;
    const sandbox = await client.sandboxes.find(id);
    const request = {
      command: shellCommand(words),
      cwd: options.cwd,
      timeout: options.timeout,
      env: options.env,
    };
    if (output.isJson) {
      const result = await client.sandboxes.exec(sandbox.id, request);
      output.result(result, "");
      context.setExitCode(exitCodeOf(result.exit_code));
      return;
    }
    for await (const event of client.sandboxes.execStream(sandbox.id, request)) {
      if (event.type === "exit") {
        if (event.exit_code === -1)
          output.say(`✗ the command took longer than ${options.timeout} s and was ended`);
        if (event.error) output.say(`✗ ${event.error.code}: ${event.error.message}`);
        context.setExitCode(exitCodeOf(event.exit_code));
      } else output.raw(`${event.line}\n`, event.type);
    }
  });
}

async function logs(context: Context, id: string, lines: number, mustFollow: boolean): Promise<void> {
  await withClient(context, async (client) => {
    const sandbox = await client.sandboxes.find(id);
    if (mustFollow) {
      for await (const event of client.http.events("GET", `/sandboxes/${sandbox.id}/logs/stream`)) {
        if (event.event !== "log_line") continue;
        if (context.output.isJson) context.output.raw(`${event.data}\n`);
        else context.output.raw(`${(JSON.parse(event.data) as { line: string }).line}\n`);
      }
      return;
    }
    const found = await client.sandboxes.logs(sandbox.id, lines);
    context.output.result(
      found,
      found.map((entry) => entry.line),
    );
  });
}

async function expose(context: Context, id: string, port: number, waitSeconds: number): Promise<void> {
  await withClient(context, async (client) => {
    const step = context.output.step(`port ${port}`);
    const exposed = await client.sandboxes.expose(
      (await client.sandboxes.find(id)).id,
      port,
      waitSeconds * 1000,
    );
    step.done();
    context.output.result(exposed, exposed.url);
  });
}

async function remove(context: Context, ids: string[]): Promise<void> {
  await withClient(context, async (client) => {
    const removed: string[] = [];
    for (const id of ids) {
      const sandbox = await client.sandboxes.find(id);
      await client.sandboxes.delete(sandbox.id);
      removed.push(sandbox.id);
    }
    context.output.result({ removed }, removed);
  });
}
