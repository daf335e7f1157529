import type { Command } from "commander";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { table } from "../output.ts";

interface Quota {
  readonly external_user_id: string;
  readonly limits: Readonly<Record<string, number | null>>;
  readonly usage: {
    readonly total_sandboxes: number;
    readonly concurrent: number;
    readonly storage_gb: number;
  };
}

interface Options {
  readonly sandboxes?: string;
  readonly concurrent?: string;
  readonly storageGb?: string;
  readonly cents?: string;
  readonly clear?: boolean;
}

/** A number, or "none" for no limit of the user's own. */
function limitOf(flag: string, text: string): number | null {
  if (text === "none") return null;
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value) && value >= 0) return value;
  throw new CliError("USAGE", `${flag} is a number, 0 or more, or "none".`, `Such as ${flag} 5`);
}

export function addQuota(program: Command, context: () => Context): void {
  program
    .command("quota")
    .description("show or set what one of the tenant's own users may have")
    .argument("<external-user>", "the user's id as the tenant knows it")
    .option("--sandboxes <n>", 'sandboxes that are not destroyed; "none" leaves it to the tenant\'s policy')
    .option("--concurrent <n>", "sandboxes that run at one time")
    .option("--storage-gb <n>", "disks of all sandboxes together")
    .option("--cents <n>", "spent since the first of the month")
    .option("--clear", "leave all limits to the wider policies")
    .action(async (user: string, options: Options) =>
      withClient(context(), async (client) => {
        const path = `/quotas/external/${encodeURIComponent(user)}`;
        const given = {
          max_sandboxes: options.sandboxes && limitOf("--sandboxes", options.sandboxes),
          max_concurrent: options.concurrent && limitOf("--concurrent", options.concurrent),
          max_storage_gb: options.storageGb && limitOf("--storage-gb", options.storageGb),
          max_credit_cents: options.cents && limitOf("--cents", options.cents),
        };
        const limits = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
        if (options.clear) await client.http.json("DELETE", path);
        if (Object.keys(limits).length > 0) await client.http.json("PUT", path, { body: limits });
        const quota = await client.http.json<Quota>("GET", path);
        const used: Record<string, number> = {
          max_sandboxes: quota.usage.total_sandboxes,
          max_concurrent: quota.usage.concurrent,
          max_storage_gb: quota.usage.storage_gb,
        };
        const rows = Object.entries(quota.limits).map(([name, limit]) => [
          name,
          String(limit ?? "no limit"),
          name in used ? String(used[name]) : "see usage",
        ]);
        context().output.result(quota, table(["LIMIT", "VALUE", "USED"], rows));
      }),
    );
}
