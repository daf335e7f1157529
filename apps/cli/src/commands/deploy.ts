import type { Command } from "commander";
import type { Client } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { table } from "../output.ts";
import { collectPair } from "../pairs.ts";
import { addRollout } from "./rollout.ts";

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
    .argument("<deployment>", "id, slug or name")
    .action((id: string) => run((client) => show(context(), client, id)));
  addRollout(deploy, context);
  deploy
    .command("rm")
    .description("delete deployments")
    .argument("<deployment...>", "ids, slugs or names")
    .action((ids: string[]) =>
      run(async (client) => {
        const removed: string[] = [];
        for (const one of ids) {
          const id = await idOf(client, one);
          await client.deployments.delete(id);
          removed.push(id);
        }
        context().output.result({ removed }, removed);
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
    .argument("<deployment>", "id, slug or name")
    .action((id: string) =>
      run(async (client) => {
        const entries = await client.deployments.env(await idOf(client, id));
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
    .argument("<deployment>", "id, slug or name")
    .argument("<NAME=VALUE...>")
    .action((id: string, pairs: string[]) =>
      run(async (client) => {
        const values = pairs.reduce<Record<string, string>>((all, pair) => collectPair(pair, all), {});
        const entries = await client.deployments.setEnv(await idOf(client, id), values);
        context().output.result(entries, `set ${Object.keys(values).join(", ")}`);
      }),
    );
  env
    .command("rm")
    .argument("<deployment>", "id, slug or name")
    .argument("<NAME...>")
    .action((id: string, names: string[]) =>
      run(async (client) => {
        const deployment = await idOf(client, id);
        for (const name of names) await client.deployments.deleteEnv(deployment, name);
        context().output.result({ removed: names }, `removed ${names.join(", ")}`);
      }),
    );
}

async function list(context: Context, client: Client): Promise<void> {
  const all = await client.deployments.list();
  const rows = all.map((one) => [one.id, one.name, one.state, one.public_url ?? "-"]);
  context.output.result(all, table(["ID", "NAME", "STATE", "URL"], rows));
}

const idOf = async (client: Client, idOrName: string): Promise<string> =>
  (await client.deployments.find(idOrName)).id;

async function show(context: Context, client: Client, idOrName: string): Promise<void> {
  const deployment = await client.deployments.find(idOrName);
  const releases = await client.deployments.releases(deployment.id);
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
