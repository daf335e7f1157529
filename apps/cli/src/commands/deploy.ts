import type { Command } from "commander";
import type { Client } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { table } from "../output.ts";
import { collectPair, parseCount } from "../pairs.ts";

export function addDeploy(program: Command, context: () => Context): void {
  const deploy = program.command("deploy").description("what is served under stable URLs");
  const run = (work: (client: Client) => Promise<void>) => withClient(context(), work);

  deploy
    .command("ls")
    .description("list deployments")
    .action(() => run((client) => list(context(), client)));
  deploy
    .command("show")
    .description("a deployment and its releases")
    .argument("<id>")
    .action((id: string) => run((client) => show(context(), client, id)));
  deploy
    .command("logs")
    .argument("<id>")
    .option("--lines <count>", "", parseCount, 100)
    .action((id: string, options: { lines: number }) =>
      run(async (client) => {
        const lines = await client.deployments.logs(id, options.lines);
        context().output.result({ lines }, lines);
      }),
    );
  deploy
    .command("promote")
    .description("move traffic to a release; nothing is built")
    .argument("<id>")
    .argument("<release>")
    .action((id: string, release: string) => run((client) => promote(context(), client, id, release)));
  deploy
    .command("rollback")
    .description("move traffic to the version before, or to the one named")
    .argument("<id>")
    .argument("[version]", "version id")
    .action((id: string, version?: string) => run((client) => rollback(context(), client, id, version)));
  deploy
    .command("rm")
    .description("delete deployments")
    .argument("<id...>")
    .action((ids: string[]) =>
      run(async (client) => {
        for (const id of ids) await client.deployments.delete(id);
        context().output.result({ removed: ids }, ids);
      }),
    );
  addEnv(deploy, context, run);
}

function addEnv(
  deploy: Command,
  context: () => Context,
  run: (work: (client: Client) => Promise<void>) => Promise<void>,
): void {
  const env = deploy.command("env").description("run-time variables; values are never shown again");
  env
    .command("ls")
    .argument("<id>")
    .action((id: string) =>
      run(async (client) => {
        const entries = await client.deployments.env(id);
        context().output.result(
          entries,
          table(
            ["NAME", "VALUE"],
            entries.map((entry) => [entry.name, entry.preview]),
          ),
        );
      }),
    );
  env
    .command("set")
    .argument("<id>")
    .argument("<NAME=VALUE...>")
    .action((id: string, pairs: string[]) =>
      run(async (client) => {
        const values = pairs.reduce<Record<string, string>>((all, pair) => collectPair(pair, all), {});
        const entries = await client.deployments.setEnv(id, values);
        context().output.result(entries, `set ${Object.keys(values).join(", ")}`);
      }),
    );
  env
    .command("rm")
    .argument("<id>")
    .argument("<NAME...>")
    .action((id: string, names: string[]) =>
      run(async (client) => {
        for (const name of names) await client.deployments.deleteEnv(id, name);
        context().output.result({ removed: names }, `removed ${names.join(", ")}`);
      }),
    );
}

async function list(context: Context, client: Client): Promise<void> {
  const all = await client.deployments.list();
  const rows = all.map((one) => [one.id, one.name, one.state, one.public_url ?? "-"]);
  context.output.result(all, table(["ID", "NAME", "STATE", "URL"], rows));
}

async function show(context: Context, client: Client, id: string): Promise<void> {
  const deployment = await client.deployments.get(id);
  const releases = await client.deployments.releases(id);
  const rows = releases.map((one) => [
    one.id === deployment.active_release_id ? "*" : "",
    one.id,
    one.state,
    one.artifact_sha256 ?? "-",
  ]);
  context.output.result({ deployment, releases }, [
    `${deployment.name}  ${deployment.state}`,
    `url     ${deployment.public_url ?? "-"}`,
    `runs    ${deployment.running_artifact_sha256 ?? "nothing"}`,
    ...(deployment.error_message ? [`error   ${deployment.error_message}`] : []),
    ...table(["", "RELEASE", "STATE", "DIGEST"], rows),
  ]);
}

async function promote(context: Context, client: Client, id: string, release: string): Promise<void> {
  const step = context.output.step("promote");
  await client.deployments.promote(id, release);
  const deployment = await client.deployments.waitUntilActive(id, release);
  step.done();
  context.output.result(deployment, deployment.public_url ?? deployment.id);
}

async function rollback(context: Context, client: Client, id: string, version?: string): Promise<void> {
  const step = context.output.step("rollback");
  const moved = await client.deployments.rollback(id, version);
  if (!moved.active_release_id) {
    throw new CliError(
      "NOTHING_SERVES",
      "No release serves after the rollback.",
      "Look at the releases: deploy show.",
      4,
    );
  }
  const deployment = await client.deployments.waitUntilActive(id, moved.active_release_id);
  step.done();
  context.output.result(deployment, [
    deployment.public_url ?? deployment.id,
    `release ${moved.active_release_id}`,
  ]);
}
