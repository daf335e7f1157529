import type { Command } from "commander";
import { withClient, type Context } from "../context.ts";
import { table } from "../output.ts";

interface Options {
  readonly type?: string;
  readonly deployment?: string;
  readonly sandbox?: string;
  readonly workspace?: string;
}

interface Listed {
  readonly type: string;
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly proof: { readonly ok: boolean; readonly at: string; readonly what: string } | null;
  readonly cost: { readonly running_seconds: number | null; readonly cents: number };
}

export function addResources(program: Command, context: () => Context): void {
  program
    .command("resources")
    .description("list everything there is: state, what was last seen of it, cost")
    .option("--type <type>", "sandbox, preview, deployment, database, bucket, cron_job or domain")
    .option("--deployment <id>", "only what this deployment has")
    .option("--sandbox <id>", "only what this sandbox has")
    .option("--workspace <id>")
    .action(async (options: Options) =>
      withClient(context(), async (client) => {
        const query = new URLSearchParams();
        const filters = {
          ...{ type: options.type, deployment_id: options.deployment },
          ...{ sandbox_id: options.sandbox, workspace_id: options.workspace },
        };
        for (const [name, value] of Object.entries(filters)) if (value) query.set(name, value);
        const all = await client.http.json<Listed[]>("GET", `/resources?${query.toString()}`);
        const rows = all.map((one) => [
          one.type,
          one.name,
          one.state,
          one.proof ? `${one.proof.ok ? "✓" : "✗"} ${one.proof.what}, ${one.proof.at}` : "not seen yet",
          one.cost.running_seconds === null ? "-" : `${one.cost.running_seconds} s`,
          (one.cost.cents / 100).toFixed(2),
          one.id,
        ]);
        const empty = "Nothing here yet.";
        context().output.result(
          all,
          rows.length === 0
            ? empty
            : table(["TYPE", "NAME", "STATE", "LAST PROOF", "RAN (30 D)", "COST", "ID"], rows),
        );
      }),
    );
}
