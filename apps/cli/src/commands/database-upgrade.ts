import type { Command } from "commander";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { parseCount } from "../pairs.ts";

interface UpgradeOptions {
  readonly keepDays?: number;
  readonly undo?: boolean;
  readonly end?: boolean;
}

export function addUpgrade(database: Command, context: () => Context): void {
  database
    .command("upgrade")
    .description("a newer major version, same address and content; nobody is let in meanwhile")
    .argument("<database>", "id or name")
    .argument("[version]", "such as 18")
    .option("--keep-days <days>", "how long the earlier server waits as the way back", parseCount)
    .option("--undo", "the earlier server again, without what was written since")
    .option("--end", "remove the earlier server: there is no way back any more")
    .action(async (idOrName: string, version: string | undefined, options: UpgradeOptions) => {
      const { output } = context();
      await withClient(context(), async ({ databases }) => {
        const { id } = await databases.find(idOrName);
        if (version === undefined && !options.undo && !options.end)
          throw new CliError(
            "VERSION_MISSING",
            "No version is named.",
            "Name it behind the database, such as 18.",
          );
        if (options.end)
          return output.result(await databases.endUpgrade(id), "there is no way back any more");
        const step = output.step(options.undo ? "earlier version" : "upgrade");
        if (options.undo) await databases.undoUpgrade(id);
        else await databases.upgrade(id, version ?? "", options.keepDays);
        const ready = await databases.waitUntilUpgraded(id);
        step.done(`PostgreSQL ${ready.engine_version} serves`);
        output.result(ready, ready.id);
      });
    });
}
